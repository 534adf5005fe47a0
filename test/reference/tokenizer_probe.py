"""What the pinned `tokenizers` package does with each of the 1.1 million code points.

The package mixes Unicode versions: each of its crates brings its own tables. So nothing here is
looked up by version; every set is found by asking the component itself. Where two components agree
(they are asserted to), mm has one bit for both. Run as a program it prints the findings and fails
if an assumption of tokenizer/unicode.h does not hold; unicode.py writes the C tables from the same
sets.

    tokenizer_probe.py            about a minute
"""
import struct
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models
from tokenizers import normalizers as N
from tokenizers import pre_tokenizers as P

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xAC00 + 11172)


def removed_by_split(regex):
    """Code points that the pattern matches, as Split (Oniguruma) sees them."""
    split = P.Split(Regex(regex), "removed")
    return {c for c in POINTS if not split.pre_tokenize_str(chr(c))}


def mapped_to(normalizer, value):
    return {c for c in POINTS if normalizer.normalize_str(chr(c)) == value}


def pieces_around(pre_tokenizer, count):
    """Code points c for which "aca" becomes `count` pieces: 1 joins, 2 is dropped, 3 is alone."""
    return {c for c in POINTS if len(pre_tokenizer.pre_tokenize_str("a" + chr(c) + "a")) == count}


def bert(**on):
    flags = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return N.BertNormalizer(**{**flags, **on})


def word_neighbours():
    """Code points that stop a single_word added token standing beside them."""
    tok = Tokenizer(models.WordLevel({"[UNK]": 0, "xx": 1}, unk_token="[UNK]"))
    tok.add_tokens([AddedToken("xx", single_word=True, normalized=False)])
    return {c for c in POINTS if tok.encode("xx" + chr(c)).ids[0] != 1}


def added_token_spaces():
    """Code points that an added token with lstrip swallows."""
    tok = Tokenizer(models.WordLevel({"[UNK]": 0, "xx": 1}, unk_token="[UNK]"))
    tok.add_tokens([AddedToken("xx", lstrip=True, normalized=False)])
    return {c for c in POINTS if tok.encode(chr(c) + "xx").ids == [1]}


def classes():
    """The sets behind the bits of tokenizer/unicode.h."""
    s = {"letter": removed_by_split(r"\p{L}"), "number": removed_by_split(r"\p{N}"),
         "space": removed_by_split(r"\s")}
    s["punct"] = pieces_around(P.BertPreTokenizer(), 3)
    s["word"] = pieces_around(P.Whitespace(), 1)
    s["mark"] = mapped_to(N.StripAccents(), "")
    s["bert_mark"] = mapped_to(bert(strip_accents=True), "")
    s["bert_clean"] = mapped_to(bert(clean_text=True), "")
    return s


def lowercase():
    lower = {c: N.Lowercase().normalize_str(chr(c)) for c in POINTS}
    return {c: s for c, s in lower.items() if s != chr(c)}


def decompositions():
    """(canonical, compat): full decompositions of what changes, without the Hangul syllables."""
    nfd, nfkd = N.NFD(), N.NFKD()
    canonical, compat = {}, {}
    for c in POINTS:
        d, k = nfd.normalize_str(chr(c)), nfkd.normalize_str(chr(c))
        if c in HANGUL:
            assert d == k == unicodedata.normalize("NFD", chr(c))
            continue
        if d != chr(c):
            canonical[c] = d
        if k != d:
            compat[c] = k
    return canonical, compat


def combining_classes():
    """Canonical combining classes, found from what NFD puts in order."""
    nfd = N.NFD()
    known = {}                              # class -> its oldest mark, which every version knows
    for ucd in (unicodedata.ucd_3_2_0, unicodedata):
        for c in POINTS:
            if ucd.combining(chr(c)) and not unicodedata.decomposition(chr(c)):
                known.setdefault(unicodedata.combining(chr(c)), chr(c))
    swaps = lambda a, b: nfd.normalize_str(a + b) == b + a and a != b
    low, high = known[min(known)], known[max(known)]
    known = {k: x for k, x in known.items() if swaps(x, low) or swaps(high, x)}
    found = {}
    for c in POINTS:
        x = chr(c)
        if nfd.normalize_str(x) != x or not (swaps(x, low) or swaps(high, x)):
            continue
        same = [k for k, r in known.items() if not swaps(x, r) and not swaps(r, x)]
        assert len(same) == 1, (hex(c), same)
        found[c] = same[0]
    for k in (min(known), max(known)):      # the ends of the order swap with one side only
        assert known[k] and ord(known[k]) in found, k
    return found


def pairs(canonical):
    """One step of each canonical decomposition: c -> (first, second or 0, composes again)."""
    nfc, out = N.NFC(), {}
    for c, full in canonical.items():
        step = [int(x, 16) for x in unicodedata.decomposition(chr(c)).split()]
        a, b = step[0], step[1] if len(step) > 1 else 0
        expand = lambda x: canonical.get(x, chr(x))
        assert expand(a) + (chr(b) if b else "") == full, hex(c)
        out[c] = (a, b, b != 0 and nfc.normalize_str(chr(a) + chr(b)) == chr(c))
    for c in POINTS:        # nothing composes that does not decompose
        if c not in canonical and c not in HANGUL:
            step = unicodedata.decomposition(chr(c)).split()
            if len(step) == 2 and not step[0].startswith("<"):
                ab = chr(int(step[0], 16)) + chr(int(step[1], 16))
                assert nfc.normalize_str(ab) == ab, hex(c)
    return out


CJK = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F),
       (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F)]


def check_agreements(s):
    """What mm takes for granted: components that share one set."""
    byte_level = P.ByteLevel(add_prefix_space=False, use_regex=True)
    pieces = lambda text: len(byte_level.pre_tokenize_str(text))
    for c in POINTS:
        x = chr(c)
        kind = ("letter" if pieces("a" + x) == 1 else "number" if pieces("1" + x) == 1 else
                "space" if pieces("!" + x) == 2 else None)
        assert all((c in s[k]) == (k == kind) for k in ("letter", "number", "space")), hex(c)
    assert s["space"] == pieces_around(P.WhitespaceSplit(), 2) == pieces_around(P.Whitespace(), 2)
    assert s["space"] == pieces_around(P.BertPreTokenizer(), 2) == mapped_to(N.Strip(), "")
    assert s["space"] == mapped_to(N.Replace(Regex(r"\s+"), " "), " ") == added_token_spaces()
    assert s["space"] - s["bert_clean"] == mapped_to(bert(clean_text=True), " ")
    assert s["punct"] == pieces_around(P.Punctuation(), 3)
    assert s["word"] == word_neighbours()
    chinese = bert(handle_chinese_chars=True)
    assert [c for c in POINTS if chinese.normalize_str(chr(c)) != chr(c)] == \
        [c for a, b in CJK for c in range(a, b + 1)]
    lower, nfd = lowercase(), N.NFD()
    assert all(bert(lowercase=True).normalize_str(chr(c)) == s for c, s in lower.items())
    strip = bert(strip_accents=True)
    for c in POINTS:
        kept = "".join(x for x in nfd.normalize_str(chr(c)) if ord(x) not in s["bert_mark"])
        assert strip.normalize_str(chr(c)) == kept, hex(c)

# === Grapheme clusters, as Precompiled sees them ==================================================

ACUTE = "\u0301"


def precompiled(ch):
    """A normalizer that replaces one character by X: a double array with one path in it."""
    key, units, pos, base = ch.encode(), [0] * 2048, 256, 512
    units[0] = 256 << 10
    for i, b in enumerate(key):
        pos ^= b
        units[pos] = (pos ^ base) << 10 | b | 256 * (i == len(key) - 1)
        pos, base = base, base + 256
    units[pos] = 0x80000000
    return N.Precompiled(struct.pack("<I2048I", 8192, *units) + b"X\0")


def clusters():
    """{class: code points} for unicode_clusters.h. Precompiled replaces a cluster of less than six
    bytes as a whole, so a mark behind it is swallowed; that shows where clusters begin and end."""
    a, acute, copyright = precompiled("a"), precompiled(ACUTE), precompiled("\u00a9")
    s = {"attach": {c for c in POINTS if c != 97 and a.normalize_str("a" + chr(c)) == "X"}}
    s["prepend"] = {c for c in POINTS if c not in s["attach"]
                    and a.normalize_str(chr(c) + "a" + ACUTE).endswith(ACUTE)}
    s["control"] = {c for c in POINTS if c != 0x301
                    and acute.normalize_str(chr(c) + 2 * ACUTE) in ("X", chr(c) + "X")}
    s["picture"] = {c for c in POINTS if c not in s["attach"]
                    and copyright.normalize_str("\u00a9\u200d" + chr(c)).startswith("X\u200d")}
    ka, virama = "\u0915", "\u094d"
    after_ka = precompiled(ka)
    s["linker"] = {c for c in s["attach"]
                   if after_ka.normalize_str(ka + chr(c) + ka + ACUTE).endswith(ACUTE)}
    s["attach"] -= s["linker"]
    s["consonant"] = {c for c in [*range(0x900, 0x1100), *range(0x1700, 0x1c50), *range(0xa800, 0xac00)]
                      if unicodedata.category(chr(c)) == "Lo" and c not in s["attach"]
                      and precompiled(chr(c)).normalize_str(ka + virama + chr(c) + ACUTE)
                      .endswith(ACUTE)}
    return s


if __name__ == "__main__":
    sets = classes()
    check_agreements(sets)
    for name, points in sets.items():
        print(f"{name:11} {len(points):7} code points")
    print(f"lowercase   {len(lowercase()):7} mappings")
    print(f"ccc         {len(combining_classes()):7} code points")
    canonical, compat = decompositions()
    print(f"canonical   {len(canonical):7}   compat {len(compat)}   composing "
          f"{sum(p[2] for p in pairs(canonical).values())}")
    print("clusters    " + ", ".join(f"{len(v)} {k}" for k, v in clusters().items()))
    print("all assumptions of tokenizer/unicode.h hold")
