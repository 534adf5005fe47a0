"""Small vocabularies of every kind that mm reads, made with the packages' own trainers, and what the
packages say to some texts: ../data/tokenizer/tiny-*/ and tiny.jsonl. So the tests need no assets.

    tiny_tokenizers.py            writes them
    tiny_tokenizers.py --check    compares, exit 1 if different
"""
import base64
import io
import json
import os
import pathlib
import sys
import tempfile

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
import sentencepiece  # noqa: E402
import tiktoken  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models  # noqa: E402
from tokenizers import normalizers, pre_tokenizers, processors, trainers  # noqa: E402

DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "tokenizer"
TEXTS = ["", " ", "   ", "a", "the quick brown fox", " the  fox ", "the quick\tbrown\n\nfox  \n",
         "caf\u00e9 cafe\u0301 na\u00efve", "\u6c34 \u751f\u6d3b\U0001f600", "don't DON'T it\u017f 'll",
         "1234567 3.14 \u00bd",
         "<s>the</s> fox<unk>", "fox<|im_end|>the<|endoftext|>", "</s>the <extra_id_0>fox",
         "\u2581the \u2581", "\u00a0the\u3000fox\u2028", "\ufb01 \ufb01\u0301 \uff21\uff22 \u2460", "\r\n\r\nthe!!\r\n", "a" * 50,
         "thethethefoxfox" * 5, "\0the\x01", "<0x41>A", "over the lazy dog, over and over!"]


def trained(model_type, **more):
    out, lines = io.BytesIO(), (DATA / "fragments.txt").read_text().split("\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:20] * 20), model_writer=out, model_type=model_type,
        minloglevel=2, num_threads=1, hard_vocab_limit=False, **more)
    return out.getvalue()


def rules_file():
    """Normalisation rules as the trainer reads them: code points in hexadecimal."""
    rows = ["FB01\t66 69", "FF21\t41", "FF22\t42", "2460\t31", "A0\t20", "3000\t20", "9\t20",
            "A\t20", "D\t20", "2028\t20", "1\t", "65 301\tE9", "D A\t20"]
    os.chdir(tempfile.mkdtemp())             # its name stands in the model
    pathlib.Path("rules.tsv").write_text("\n".join(rows) + "\n")
    return "rules.tsv"


def byte_level(pattern, **more):
    """A BPE trained on the fragments, saved with its parts."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pattern, decoders.ByteLevel()
    tok.train_from_iterator((DATA / "fragments.txt").read_text().split("\n")[:20] * 3, trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        **more))
    return tok


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def make_llama():
    spm = trained("bpe", vocab_size=400, byte_fallback=True, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, character_coverage=.98)
    sp = sentencepiece.SentencePieceProcessor(model_proto=spm)
    return {"tokenizer.model": spm}, lambda t: (sp.encode(t), None)


def make_t5():
    spm = trained("unigram", vocab_size=200, normalization_rule_tsv=rules_file(), pad_id=0, eos_id=1,
                  unk_id=2, bos_id=-1, user_defined_symbols=["fox", "-"])
    sp = sentencepiece.SentencePieceProcessor(model_proto=spm)
    return {"spiece.model": spm}, lambda t: (sp.encode(t), None)


def make_t5_json(spm):
    """The same as a tokenizer.json: other sums, other clusters."""
    from sentencepiece import sentencepiece_model_pb2
    proto = sentencepiece_model_pb2.ModelProto.FromString(spm)
    tok = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], 2))
    tok.normalizer = normalizers.Sequence([
        normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "\u2581")])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tok.decoder = decoders.Metaspace()
    tok.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return {"tokenizer.json": tok.to_str().encode()}, package(tok)


def package(tok):
    def both(text):
        ids = tok.encode(text).ids
        return ids, tok.decode(ids, skip_special_tokens=False)
    return both


def make_opt():
    tok = byte_level(GPT2, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    d = pathlib.Path(tempfile.mkdtemp())
    tok.model.save(str(d))
    tok = Tokenizer(models.BPE.from_file(str(d / "vocab.json"), str(d / "merges.txt")))
    tok.pre_tokenizer, tok.decoder = GPT2, decoders.ByteLevel()
    tok.add_special_tokens(["<pad>", "</s>"])
    tok.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return {f: (d / f).read_bytes() for f in ("vocab.json", "merges.txt")}, package(tok)


def make_qwen():
    """A tiktoken file: bytes first, then merges in their order."""
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok = byte_level(split)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte = {chr(b): b for b in plain}
    byte.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)})
    pieces = sorted(tok.get_vocab().items(), key=lambda x: x[1])
    ranks = {bytes(byte[c] for c in p): i for i, (p, _) in enumerate(pieces)}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)]
    enc = tiktoken.Encoding("tiny", pat_str=PATTERN, mergeable_ranks=ranks,
                            special_tokens={s: len(ranks) + i for i, s in enumerate(special)})
    nfc = normalizers.NFC()

    def both(text):
        ids = enc.encode(nfc.normalize_str(text), allowed_special="all")
        return ids, enc.decode(ids)
    lines = b"".join(base64.b64encode(p) + b" %d\n" % r for p, r in ranks.items())
    return {"qwen.tiktoken": lines}, both


def main():
    t5 = make_t5()
    made = {"tiny-llama": make_llama(), "tiny-spiece": t5,
            "tiny-t5": make_t5_json(t5[0]["spiece.model"]), "tiny-opt": make_opt(),
            "tiny-qwen": make_qwen()}
    new, cases = {}, []
    for name, (files, reference) in made.items():
        new.update({DATA / name / f: b for f, b in files.items()})
        for text in TEXTS:
            ids, decoded = reference(text)
            cases.append({"dir": name, "text": text, "ids": ids, "decoded": decoded})
    new[DATA / "tiny.jsonl"] = "".join(json.dumps(c) + "\n" for c in cases).encode()
    same = True
    for path, content in new.items():
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        equal = path.exists() and path.read_bytes() == content
        same &= equal
        print(f"{path.relative_to(DATA)}: {len(content)} bytes, {'as made' if equal else 'DIFFERENT'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
