"""mm's tokenizers against the pinned `tokenizers`, sentencepiece, tiktoken and transformers, on
generated and real texts.

The texts come from test/tokenizer --lines SEED N (the generator is there, so that `make test`
needs no Python); each goes through `test/tokenizer --encode DIR` and through the package. Texts
that are not UTF-8 are decoded with errors="replace".

    tokenizer_lines.py BINARY ASSETS [OPTIONS]        compares; exit 1 on any difference
        --lines N (200,000)   --seed S (1)            generated texts
        --only NAMES                                  ways to load (comma separated; all)
        --points                                      every code point, alone between letters
        --long N                                      N texts of 40,000 characters, mostly one word
        --folder DIR                                  N lines of the text files below DIR
    tokenizer_lines.py BINARY ASSETS --sample         writes ../data/tokenizer/sample.txt
    tokenizer_lines.py BINARY ASSETS --speed          mm and the packages in turns, MB/s on one core
"""
import argparse
import base64
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1",
                  TRANSFORMERS_VERBOSITY="error")
import sentencepiece  # noqa: E402
import tiktoken  # noqa: E402
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models  # noqa: E402
from tokenizers import normalizers, pre_tokenizers, processors  # noqa: E402

DATA = pathlib.Path(__file__).parents[1] / "data" / "tokenizer"
N_SAMPLE, GROUP, BATCH = 5000, 10, 20000
SAMPLES = ["bert", "clip", "llama", "llama tokenizer.model", "gpt2", "phi", "opt", "qwen", "t5",
           "t5 newer", "albert spiece.model"]


def bert_package(vocab_txt, lower=True):
    """The machine that bert-base-uncased's own tokenizer.json describes, from its vocab.txt."""
    tok = Tokenizer(models.WordPiece.from_file(str(vocab_txt), unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##")
    tok.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(s, tok.token_to_id(s)) for s in ("[CLS]", "[SEP]")])
    return tok


class Package:
    """The `tokenizers` package. trim: what CLIPTokenizer does after decoding."""

    def __init__(self, tok, trim=False):
        tok.no_truncation()
        tok.no_padding()
        self.tok, self.trim = tok, trim

    def __call__(self, texts):
        ids = [e.ids for e in self.tok.encode_batch_fast(texts)]
        text = self.tok.decode_batch(ids, skip_special_tokens=False)
        return ids, [t.replace("</w>", " ").strip() for t in text] if self.trim else text


class SentencePiece:
    """The sentencepiece package: ids alone, no special tokens. Decoding is compared elsewhere, as
    mm decodes as transformers does."""
    raw = True

    def __init__(self, model):
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def __call__(self, texts):
        return self.sp.encode(texts), [None] * len(texts)


QWEN = (r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
        r"""|\s*[\r\n]+|\s+(?!\S)|\s+""")


def read_ranks(path):
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(code): int(rank) for code, rank in lines}


class Tiktoken:
    """Qwen's tokenizer as its own code sets it up. The NFC is that of `tokenizers`, since Python's
    depends on its version."""

    def __init__(self, path):
        ranks = read_ranks(path)
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        special += [f"<|extra_{i}|>" for i in range(205)]
        self.enc = tiktoken.Encoding("qwen", pat_str=QWEN, mergeable_ranks=ranks,
                                     special_tokens={s: len(ranks) + i for i, s in enumerate(special)})
        self.nfc = normalizers.NFC()

    def __call__(self, texts):
        ids = [self.enc.encode(self.nfc.normalize_str(t), allowed_special="all") for t in texts]
        return ids, [self.enc.decode(i) for i in ids]


def merges_of(ranks):
    """The list of merges that gives what the ranks give: each piece without its own rank falls into
    two."""
    for piece, rank in sorted(ranks.items(), key=lambda x: x[1]):
        parts = [bytes([b]) for b in piece]
        while len(parts) > 2:
            _, i = min((ranks.get(parts[i] + parts[i + 1], 1 << 30), i)
                       for i in range(len(parts) - 1))
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            yield parts


def byte_chars():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def qwen2(assets):
    """Qwen 2's tokenizer, from Qwen's ranks: the vocabularies are the same."""
    ranks, char = read_ranks(assets / "tokenizers/qwen/qwen.tiktoken"), byte_chars()

    def text(piece):
        return "".join(char[b] for b in piece)
    tok = Tokenizer(models.BPE({text(p): r for p, r in ranks.items()},
                               [(text(a), text(b)) for a, b in merges_of(ranks)]))
    tok.normalizer, tok.decoder = normalizers.NFC(), decoders.ByteLevel()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tok


def byte_level(folder, bos=None):
    tok = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.add_special_tokens(["</s>", "<pad>"] if bos else ["<|endoftext|>"])
    if bos:
        tok.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tok.token_to_id(bos))])
    return tok


class Auto:
    """AutoTokenizer on a directory."""

    def __init__(self, directory):
        from transformers import AutoTokenizer
        self.tok = AutoTokenizer.from_pretrained(directory)
        self.tok.backend_tokenizer.no_truncation()
        self.tok.backend_tokenizer.no_padding()

    def __call__(self, texts):
        ids = self.tok(texts, padding=False, truncation=False)["input_ids"]
        return ids, [self.tok.decode(i) for i in ids]


def odd_machines(assets):
    """Machines made of the components that BERT and CLIP do not use."""
    gpt2, bert = assets / "tokenizers/gpt2", assets / "tokenizers/bert-base-uncased"
    N, P, D = normalizers, pre_tokenizers, decoders

    def bpe(**more):
        return Tokenizer(models.BPE.from_file(str(gpt2 / "vocab.json"), str(gpt2 / "merges.txt"), **more))

    def pieces():
        return Tokenizer(models.WordPiece.from_file(str(bert / "vocab.txt"), unk_token="[UNK]"))

    tok = bpe()
    tok.pre_tokenizer, tok.decoder = P.ByteLevel(add_prefix_space=False), D.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens(["<|endoftext|>"])
    tok.add_tokens(["  ", "   ", "cat", AddedToken("dog", single_word=True, lstrip=True),
                    AddedToken("the", rstrip=True, normalized=False)])
    yield "gpt2", tok
    tok = bpe(ignore_merges=True)
    tok.normalizer = N.Sequence([N.NFKC(), N.Sequence([N.Strip(), N.Prepend(" x")]), N.Replace("a", "bb")])
    tok.pre_tokenizer = P.Sequence([P.Punctuation(), P.WhitespaceSplit(), P.ByteLevel(use_regex=False)])
    tok.decoder = D.Sequence([D.ByteLevel(), D.Replace("b", " "), D.Strip(" ", 2, 1)])
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(), processors.RobertaProcessing(("the", 1169), ("of", 1659))])
    yield "bpe, ignore_merges, prefix space", tok
    tok = bpe(unk_token="!", fuse_unk=True)
    tok.normalizer = N.Sequence([N.NFKD(), N.StripAccents(), N.Lowercase(), N.Strip(left=False)])
    tok.pre_tokenizer, tok.decoder = P.Whitespace(), D.Sequence([D.BPEDecoder("e"), D.Fuse()])
    yield "bpe, fused unknowns", tok
    tok = bpe(unk_token="!", end_of_word_suffix="s")
    tok.normalizer = N.Sequence([N.NFD(), N.Replace("e\u0301", "E")])
    yield "bpe, suffix, one word, no decoder", tok
    tok = pieces()
    tok.normalizer = N.Sequence([N.NFC(), N.BertNormalizer(clean_text=False, strip_accents=True,
                                                           lowercase=False)])
    tok.pre_tokenizer, tok.decoder = P.BertPreTokenizer(), D.WordPiece(cleanup=False)
    tok.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    tok.add_tokens([AddedToken("\u00e9", lstrip=True, rstrip=True), "A", "\u0130x"])
    yield "wordpiece, unclean", tok
    tok = Tokenizer(models.BPE({"<unk>": 0, "a": 1, "b": 2, "ab": 3, "e": 4, "abe": 5, "be": 6, "t": 7,
                                **{f"<0x{i:02X}>": 8 + i for i in range(256) if i != 0xC3}},
                               [("b", "e"), ("a", "b"), ("ab", "e"), ("a", "be")],
                               unk_token="<unk>", byte_fallback=True))
    tok.decoder = D.Sequence([D.ByteFallback(), D.Fuse()])
    yield "bpe, byte fallback", tok
    inner = {"##" + c: 20 + i for i, c in enumerate("abehinrst")}
    tok = Tokenizer(models.BPE({"[UNK]": 0, "a": 1, "t": 2, "th": 3, "the": 4, "at": 5, **inner,
                                "##in": 6, "##ing": 7, "##an": 8, "##er": 9, "##g": 10, "##n": 11},
                               [("t", "##h"), ("th", "##e"), ("##i", "##n"), ("##in", "##g"),
                                ("a", "##t"), ("##e", "##r")], unk_token="[UNK]",
                               continuing_subword_prefix="##"))
    tok.pre_tokenizer, tok.decoder = P.Whitespace(), D.WordPiece(prefix="##")
    yield "bpe, prefix", tok


def directory(files, **configs):
    """A model directory with copies of files and JSON files of the given names."""
    d = pathlib.Path(tempfile.mkdtemp(prefix="mm-tok-"))
    for f in files:
        shutil.copyfile(f, d / f.name)
        (d / f.name).chmod(0o644)
    for name, value in configs.items():
        (d / (name + ".json")).write_text(json.dumps(value))
    return d


def language_models(assets):
    """(name, how to make what mm loads, and what it is held against)"""
    vocabs, stories = assets / "tokenizers", assets / "models/stories15M"
    tiny = assets / "models/stories260K"

    def json_file(path):
        return lambda: (path, Package(Tokenizer.from_file(str(path))))

    def in_folder(path):
        return lambda: (path, Package(Tokenizer.from_file(str(path / "tokenizer.json"))))

    def model(path):
        return lambda: (path, SentencePiece(path))

    def saved(make):
        def both():
            tok, d = make(), directory([])
            tok.save(str(d / "tokenizer.json"))
            return d, Package(tok)
        return both
    yield "llama", in_folder(stories)
    yield "llama tokenizer.model", model(stories / "tokenizer.model")
    yield "llama 512 tokenizer.model", model(tiny / "tokenizer.model")
    yield "gpt2", lambda: (vocabs / "gpt2", Package(byte_level(vocabs / "gpt2")))
    yield "phi", in_folder(vocabs / "phi")
    yield "opt", lambda: (vocabs / "opt", Package(byte_level(vocabs / "opt", "</s>")))
    yield "qwen", lambda: (vocabs / "qwen", Tiktoken(vocabs / "qwen/qwen.tiktoken"))
    yield "qwen2", saved(lambda: qwen2(assets))
    yield "t5", in_folder(vocabs / "t5-small")
    yield "t5 newer", in_folder(vocabs / "t5")
    yield "albert spiece.model", model(vocabs / "t5/spiece.model")


def pairs(assets):
    """The same for all."""
    bert, clip = assets / "tokenizers/bert-base-uncased", assets / "tokenizers/clip"
    clip_json, minilm = clip / "tokenizer.json", assets / "models/minilm/tokenizer.json"
    legacy_clip = [clip / "vocab.json", clip / "merges.txt"]
    gpt2_files = [assets / "tokenizers/gpt2" / f for f in ("vocab.json", "merges.txt")]
    opt_files = [assets / "tokenizers/opt" / f for f in ("vocab.json", "merges.txt")]
    phi = assets / "tokenizers/phi/tokenizer.json"
    yield "bert", lambda: (bert, Package(bert_package(bert / "vocab.txt")))
    yield "clip", lambda: (clip, Package(Tokenizer.from_file(str(clip_json)), trim=True))
    yield from language_models(assets)
    for name, path in ("minilm tokenizer.json", minilm), ("clip tokenizer.json", clip_json):
        yield name, lambda path=path: (path, Package(Tokenizer.from_file(str(path))))
    for name, args in {
        "bert vocab.txt, auto": dict(files=[bert / "vocab.txt"], config={"model_type": "bert"}),
        "blip, cased, auto": dict(files=[bert / "vocab.txt"], config={"model_type": "blip"},
                                  tokenizer_config={"do_lower_case": False,
                                                    "tokenizer_class": "BertTokenizerFast",
                                                    "tokenize_chinese_chars": False}),
        "minilm, auto": dict(files=[minilm], config={"model_type": "bert"}),
        "minilm, added tokens, auto": dict(
            files=[minilm], config={"model_type": "bert"},
            tokenizer_config={"tokenizer_class": "BertTokenizer", "strip_accents": False,
                              "mask_token": "[MASK]", "bos_token": "[DEC]",
                              "additional_special_tokens": ["[ENC]"], "added_tokens_decoder": {
                                  "103": {"content": "[MASK]", "lstrip": True, "special": True},
                                  "30522": {"content": "running", "normalized": True,
                                            "single_word": True, "rstrip": True,
                                            "special": False}}}),
        "minilm, plain class, auto": dict(
            files=[minilm], config={"model_type": "bert"},
            special_tokens_map={"mask_token": {"content": "[MASK]", "lstrip": True, "rstrip": False,
                                               "normalized": False, "single_word": False},
                                "bos_token": "dog"},
            added_tokens={"[CLS]": 101, "wonderland": 30522},
            tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"}),
        "gpt2, auto": dict(files=gpt2_files, config={"model_type": "gpt2"}),
        "gpt2, flags, auto": dict(files=gpt2_files, config={"model_type": "gpt2"}, tokenizer_config={
            "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "add_bos_token": True,
            "pad_token": "<pad>", "add_eos_token": True}),
        "opt, auto": dict(files=opt_files, config={"model_type": "opt"}, tokenizer_config={
            "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "add_bos_token": True,
            "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": {
                "__type": "AddedToken", "content": "<pad>", "lstrip": False, "normalized": True,
                "rstrip": False, "single_word": False}}),
        "phi, auto": dict(files=[phi], config={"model_type": "phi"}, tokenizer_config={
            "tokenizer_class": "CodeGenTokenizer", "add_prefix_space": False}),
        "clip legacy, auto": dict(files=legacy_clip, config={"model_type": "clip"}),
        "clip tokenizer.json, auto": dict(files=[clip_json], config={"model_type": "clip"},
                                          special_tokens_map={"pad_token": "!"}),
    }.items():
        def both(args=args):
            d = directory(**args)
            return d, Auto(d)
        yield name, both
    for name, tok in odd_machines(assets):
        def saved(tok=tok):
            d = directory([])
            tok.save(str(d / "tokenizer.json"))
            return d / "tokenizer.json", Package(tok)
        yield "odd " + name, saved


def encode(binary, path, records, raw):
    out = subprocess.run([binary, "--encode", str(path)] + ["raw"] * raw, input=records, stdout=subprocess.PIPE,
                         cwd=DATA.parents[2], check=True).stdout.decode("utf-8")
    for line in out.split("\n")[:-1]:
        ids, text = line.split("\t", 1)
        yield [int(i) for i in ids.split()], text


def escaped(text):
    """As --encode prints it: what follows a zero byte is not printed."""
    return text.split("\0")[0].replace("\\", "\\\\").replace("\n", "\\n")


def read_records(data):
    at, out = 0, []
    while at < len(data):
        n, = struct.unpack_from("<I", data, at)
        out.append(data[at + 4:at + 4 + n])
        at += 4 + n
    return out


def record(text):
    return struct.pack("<I", len(text)) + text


def compare(binary, assets, texts, only):
    n_bad = 0
    for name, make in pairs(assets):
        if only and name not in only:
            continue
        path, reference = make()
        bad = 0
        mm = encode(binary, path, b"".join(map(record, texts)), getattr(reference, "raw", False))
        for start in range(0, len(texts), BATCH):
            batch = texts[start:start + BATCH]
            strings = [t.decode("utf-8", "replace") for t in batch]
            for raw, ids, text, got in zip(batch, *reference(strings), mm):
                if got[0] == ids and text in (None, got[1]) or got == (ids, escaped(text or "")):
                    continue
                bad += 1
                if bad <= 3:
                    print(f"{name}: {raw[:300]!r}\n  want {ids[:80]} {text!r:.200}\n"
                          f"  got  {got[0][:80]} {got[1]!r:.200}")
        print(f"{name}: {len(texts)} texts, {bad} differences", flush=True)
        n_bad += bad
    return n_bad


def fold(h, data):
    for b in data:
        h = (h ^ b) * 16777619 & 0xFFFFFFFF
    return h


def write_sample(assets, texts):
    """A line for each vocabulary: hashes of the ids and of the decoded text (where the package has
    none, of mm's way to write nothing) for groups of texts."""
    lines = []
    for name, make in pairs(assets):
        if name not in SAMPLES:
            continue
        _, reference = make()
        ids, decoded = reference([t.decode("utf-8", "replace") for t in texts])
        hashes = []
        for start in range(0, len(texts), GROUP):
            h = 2166136261
            for i, d in list(zip(ids, decoded))[start:start + GROUP]:
                h = fold(h, " ".join(map(str, i)).encode() + b"\0")
                if d is not None:
                    h = fold(h, d.split("\0")[0].encode() + b"\0")
            hashes.append(f"{h:08x}")
        lines.append(" ".join([name.replace(" ", "_")] + hashes))
    (DATA / "sample.txt").write_text("\n".join(lines) + "\n")


def long_texts(n, seed):
    """Words of tens of thousands of letters: of random letters, of words without blanks, of one
    letter again and again, and mixtures."""
    r, made = random.Random(seed), []
    words = [w for line in (DATA / "fragments.txt").read_text().split("\n") for w in line.split()]
    for k in range(n):
        text, kind = "", k % 4
        while len(text) < 40000:
            if kind == 0 or (kind == 3 and r.random() < .3):
                text += "".join(r.choices("etaoinshrdlucmfwypvbgkjqxz", k=r.randrange(1, 2000)))
            elif kind == 1 or (kind == 3 and r.random() < .5):
                text += "".join(r.choices(words, k=r.randrange(1, 300)))
            else:
                text += r.choice(words + list("a0 =-_.\u00e9\u4e2d")) * r.randrange(1, 3000)
        made.append(text[:40000].encode())
    return made


def folder_texts(folder, n, seed):
    """Lines of files, as they are: n of them, chosen evenly."""
    lines = []
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.suffix in (".py", ".txt", ".md", ".rst", ".c", ".h", ".html", ".json", ".po", ".js"):
            if path.is_file() and path.stat().st_size < 1 << 20:
                lines += path.read_bytes().split(b"\n")
        if len(lines) > 8 * n:
            break
    lines = [line[:4000] for line in lines if line]
    random.Random(seed).shuffle(lines)
    return lines[:n]


def speed(binary, assets, texts, only):
    """Encoding alone, one core, in turns; the package in batches as well as text by text."""
    records = b"".join(map(record, texts))
    strings = [t.decode("utf-8", "replace") for t in texts]
    size = sum(len(t) for t in texts) / 1e6
    for name, make in pairs(assets):
        if name not in (only or SAMPLES):
            continue
        path, reference = make()
        ours = subprocess.run([binary, "--bench", str(path)], input=records, stdout=subprocess.PIPE,
                              cwd=DATA.parents[2], check=True).stdout.decode().strip()
        start = time.process_time()
        if isinstance(reference, Package):
            reference.tok.encode_batch_fast(strings)
        elif isinstance(reference, SentencePiece):
            reference.sp.encode(strings, num_threads=1)
        elif isinstance(reference, Tiktoken):
            for t in strings:
                reference.enc.encode(t, allowed_special="all")
        print(f"{name}: mm {ours}; package {size / (time.process_time() - start):.1f} MB/s", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("binary", type=os.path.abspath)
    p.add_argument("assets", type=pathlib.Path)
    p.add_argument("--lines", type=int, default=200000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", type=lambda s: s.split(","))
    p.add_argument("--long", type=int)
    p.add_argument("--folder")
    for flag in "points", "sample", "speed":
        p.add_argument("--" + flag, action="store_true")
    a = p.parse_args()
    if a.points:
        texts = [f"a{chr(c)}b {chr(c)}A\u0301".encode() for c in range(0x110000)
                 if not 0xD800 <= c < 0xE000]
    elif a.long:
        texts = long_texts(a.long, a.seed)
    elif a.folder:
        texts = folder_texts(a.folder, a.lines, a.seed)
    else:
        n = N_SAMPLE if a.sample else a.lines
        texts = read_records(subprocess.run([a.binary, "--lines", str(a.seed), str(n)],
                                            stdout=subprocess.PIPE, cwd=DATA.parents[2],
                                            check=True).stdout)
    if a.sample:
        write_sample(a.assets, texts)
    elif a.speed:
        speed(a.binary, a.assets, texts, a.only)
    else:
        sys.exit(compare(a.binary, a.assets, texts, a.only) > 0)


if __name__ == "__main__":
    main()
