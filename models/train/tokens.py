"""The two vocabularies, made from the words of the captions. Written as the files that published
checkpoints have, so that transformers (and mm) read them without knowing us.

Captioner: WordPiece (vocab.txt). Every word of a caption is one symbol, its plural one more ("##s",
"##es"): a plural of its own would be seen far less often than its singular, and not be learnt.
CLIP: byte-level BPE (vocab.json, merges.txt), learnt until every word is one symbol.

Easy to get wrong
- Any text of a user needs symbols: WordPiece has every printable ASCII character plain and inside a
  word, BPE all 256 bytes plain and at the end of a word. Without them CLIP reads the unknown
  symbol, which is its end of text, and everything behind it is lost.
- Merges must be learnt by counting pairs over all words. Prefix merges word by word do not work: a
  merge that was made for one word fires first inside another.
"""

import json
import os
from collections import Counter

from concepts import ABOVE, BACKGROUNDS, CONCEPTS, LEFT_OF, NUMBERS, PLURALS

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
PAD, SEP, DEC, ENC = 0, 3, 5, 6
TEMPLATES = ["a photo of a {}.", "a photo of a {}", "a photo of {}.", "a picture of a {}", "a {}",
             "{}"]
START, END = "<|startoftext|>", "<|endoftext|>"


def words(regular_plurals):
    """All words of captions and templates, sorted; plurals that a rule makes only if asked."""
    texts = CONCEPTS + BACKGROUNDS + list(NUMBERS.values()) + [LEFT_OF, ABOVE, "a an and"]
    found = set(" ".join(texts).split())
    for plural in " ".join(PLURALS).split():
        by_rule = any(plural == w + end for w in found for end in ("s", "es"))
        if regular_plurals or not by_rule:
            found.add(plural)
    return sorted(found)


def wordpiece():
    """The lines of vocab.txt."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    inside = ["##" + c for c in letters if c.isalnum()]
    known = SPECIALS + letters + inside + ["##es"]
    return known + [w for w in words(regular_plurals=False) if w not in known]


def byte_symbols():
    """GPT-2's 256 printable stand-ins for bytes, in the order of their code points."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(c) for c in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def bpe():
    """(vocabulary {symbol: id}, merges [(a, b)])."""
    extra = ["photo", "picture", "of", ".", ","]
    spelt = [list(w[:-1]) + [w[-1] + "</w>"] for w in sorted({*words(True), *extra})]
    merges = []
    while True:
        pairs = Counter(p for w in spelt for p in zip(w, w[1:]))
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        spelt = [merge(w, best) for w in spelt]
    symbols = byte_symbols()
    symbols += [s + "</w>" for s in symbols] + [a + b for a, b in merges] + [START, END]
    return {s: i for i, s in enumerate(dict.fromkeys(symbols))}, merges


def merge(word, pair):
    out = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def write_wordpiece(folder):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as f:
        f.writelines(line + "\n" for line in wordpiece())
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        "mask_token": "[MASK]", "additional_special_tokens": ["[DEC]", "[ENC]"]})


def write_bpe(folder):
    os.makedirs(folder, exist_ok=True)
    vocabulary, merges = bpe()
    write_json(folder, "vocab.json", vocabulary, indent=None)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n")
        f.writelines(f"{a} {b}\n" for a, b in merges)
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": 32,
        "bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END})


def write_json(folder, name, value, indent=2):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=indent, ensure_ascii=False)
        f.write("\n")
