"""mm's tokenizers against the pinned `tokenizers` and transformers, on generated texts.

The texts come from test/tokenizer --lines SEED N (the generator is there, so that `make test`
needs no Python); each goes through `test/tokenizer --encode DIR` and through the package. Texts
that are not UTF-8 are decoded with errors="replace".

    tokenizer_lines.py BINARY ASSETS [N [SEED [K]]]   compares; exit 1 on any difference (N 200,000;
                                                      K: only the first K ways to load)
    tokenizer_lines.py BINARY ASSETS --points 0 [K]   every code point, alone between letters
    tokenizer_lines.py BINARY ASSETS --sample         writes ../data/tokenizer/sample.txt
"""
import itertools
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1",
                  TRANSFORMERS_VERBOSITY="error")
from tokenizers import AddedToken, Tokenizer, decoders, models  # noqa: E402
from tokenizers import normalizers, pre_tokenizers, processors  # noqa: E402

DATA = pathlib.Path(__file__).parents[1] / "data" / "tokenizer"
N_SAMPLE, GROUP, BATCH = 5000, 10, 20000


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


def pairs(assets):
    """(name, what mm loads, what it is held against)"""
    bert, clip = assets / "tokenizers/bert-base-uncased", assets / "tokenizers/clip"
    clip_json, minilm = clip / "tokenizer.json", assets / "models/minilm/tokenizer.json"
    legacy_clip = [clip / "vocab.json", clip / "merges.txt"]
    yield "bert", bert, Package(bert_package(bert / "vocab.txt"))
    yield "clip", clip, Package(Tokenizer.from_file(str(clip_json)), trim=True)
    yield "minilm tokenizer.json", minilm, Package(Tokenizer.from_file(str(minilm)))
    yield "clip tokenizer.json", clip_json, Package(Tokenizer.from_file(str(clip_json)))
    for name, d in {
        "bert vocab.txt, auto": directory([bert / "vocab.txt"], config={"model_type": "bert"}),
        "blip, cased, auto": directory([bert / "vocab.txt"], config={"model_type": "blip"},
                                       tokenizer_config={"do_lower_case": False,
                                                         "tokenizer_class": "BertTokenizerFast",
                                                         "tokenize_chinese_chars": False}),
        "minilm, auto": directory([minilm], config={"model_type": "bert"}),
        "minilm, added tokens, auto": directory(
            [minilm], config={"model_type": "bert"},
            tokenizer_config={"tokenizer_class": "BertTokenizer", "strip_accents": False,
                              "mask_token": "[MASK]", "bos_token": "[DEC]",
                              "additional_special_tokens": ["[ENC]"], "added_tokens_decoder": {
                                  "103": {"content": "[MASK]", "lstrip": True, "special": True},
                                  "30522": {"content": "running", "normalized": True,
                                            "single_word": True, "rstrip": True,
                                            "special": False}}}),
        "minilm, plain class, auto": directory(
            [minilm], config={"model_type": "bert"},
            special_tokens_map={"mask_token": {"content": "[MASK]", "lstrip": True, "rstrip": False,
                                               "normalized": False, "single_word": False},
                                "bos_token": "dog"},
            added_tokens={"[CLS]": 101, "wonderland": 30522},
            tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"}),
        "clip legacy, auto": directory(legacy_clip, config={"model_type": "clip"}),
        "clip tokenizer.json, auto": directory([clip_json], config={"model_type": "clip"},
                                               special_tokens_map={"pad_token": "!"}),
    }.items():
        yield name, d, Auto(d)
    for name, tok in odd_machines(assets):
        d = directory([])
        tok.save(str(d / "tokenizer.json"))
        yield name, d / "tokenizer.json", Package(tok)


def encode(binary, path, records):
    out = subprocess.run([binary, "--encode", str(path)], input=records, stdout=subprocess.PIPE,
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


def compare(binary, assets, texts, n_ways):
    n_bad = 0
    for name, path, reference in itertools.islice(pairs(assets), n_ways):
        bad = 0
        mm = encode(binary, path, b"".join(map(record, texts)))
        for start in range(0, len(texts), BATCH):
            batch = texts[start:start + BATCH]
            strings = [t.decode("utf-8", "replace") for t in batch]
            for raw, ids, text, got in zip(batch, *reference(strings), mm):
                if got == (ids, escaped(text)):
                    continue
                bad += 1
                if bad <= 3:
                    print(f"{name}: {raw!r}\n  want {ids} {text!r}\n  got  {got[0]} {got[1]!r}")
        print(f"{name}: {len(texts)} texts, {bad} differences", flush=True)
        n_bad += bad
    return n_bad


def fold(h, data):
    for b in data:
        h = (h ^ b) * 16777619 & 0xFFFFFFFF
    return h


def write_sample(assets, texts):
    lines = []
    for name, _, reference in itertools.islice(pairs(assets), 2):
        ids, decoded = reference([t.decode("utf-8", "replace") for t in texts])
        hashes = []
        for start in range(0, len(texts), GROUP):
            h = 2166136261
            for i, d in list(zip(ids, decoded))[start:start + GROUP]:
                h = fold(h, " ".join(map(str, i)).encode() + b"\0")
                h = fold(h, d.split("\0")[0].encode() + b"\0")
            hashes.append(f"{h:08x}")
        lines.append(" ".join([name] + hashes))
    (DATA / "sample.txt").write_text("\n".join(lines) + "\n")


def main():
    binary, assets = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    mode = sys.argv[3] if len(sys.argv) > 3 else "200000"
    seed = sys.argv[4] if len(sys.argv) > 4 else "1"
    n_ways = int(sys.argv[5]) if len(sys.argv) > 5 else None
    if mode == "--points":
        texts = [f"a{chr(c)}b {chr(c)}A\u0301".encode() for c in range(0x110000)
                 if not 0xD800 <= c < 0xE000]
    else:
        n = str(N_SAMPLE) if mode == "--sample" else mode
        texts = read_records(subprocess.run([binary, "--lines", seed, n], stdout=subprocess.PIPE,
                                            cwd=DATA.parents[2], check=True).stdout)
    if mode == "--sample":
        write_sample(assets, texts)
    else:
        sys.exit(compare(binary, assets, texts, n_ways) > 0)


if __name__ == "__main__":
    main()
