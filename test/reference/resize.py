#!/usr/bin/env python3
"""Pillow's answers to the resampling test, as hashes.

Writes test/data/image/resize.txt, one case a line: w h out_w out_h filter hash. The input bytes are
s = s * 1664525 + 1013904223 (32 bits, from 12345), byte = s >> 24; the hash is FNV-1a (32 bits) over
the RGB bytes of the result. Filters have PIL's numbers: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic,
4 box, 5 hamming.

Written with Pillow 13.0.0; older versions always ran the horizontal pass first.
"""
import random
import sys

import numpy as np
import PIL
from PIL import Image


def lcg(n):
    """The first n bytes of the generator; x -> a*x + c composed with itself, doubling each time."""
    a, c, x = np.uint32(1664525), np.uint32(1013904223), np.array([12345], np.uint32)
    x = a * x + c
    while len(x) < n:
        x = np.concatenate([x, a * x + c])          # a, c: the map that jumps len(x) steps
        c = a * c + c
        a = a * a
    return (x[:n] >> np.uint32(24)).astype(np.uint8)


def fnv(data):
    h = 2166136261
    for b in data:
        h = (h ^ b) * 16777619 & 0xFFFFFFFF
    return h


def cases():
    """Sizes that models use, then random ones: 1-pixel sides, ups and downs, both pass orders."""
    for w, h, w2, h2 in [(7, 5, 4, 3), (64, 48, 24, 18), (37, 53, 224, 224), (640, 480, 299, 224),
                         (500, 375, 224, 224), (30, 30, 60, 15), (640, 480, 384, 384),
                         (480, 640, 384, 384), (384, 512, 224, 298), (333, 500, 224, 336)]:
        for f in range(6):
            yield w, h, w2, h2, f
    rng = random.Random(1)
    side = lambda top: rng.choice([1, 1, 2, 3, rng.randint(1, 8)] + [rng.randint(1, top)] * 7)
    for i in range(1200):
        top = (40, 90, 200)[i % 3]
        w, h, w2, h2 = side(top), side(top), side(top), side(top)
        if i % 20 == 0:
            w2 = w                                  # a pass that is skipped
        if i % 20 == 1:
            h2 = h
        yield w, h, w2, h2, i % 6
    for i in range(24):                             # strong reductions, long filters
        yield rng.randint(800, 3000), rng.randint(1, 40), rng.randint(1, 9), rng.randint(1, 60), i % 6
        yield rng.randint(1, 40), rng.randint(800, 3000), rng.randint(1, 60), rng.randint(1, 9), i % 6


def main(path):
    assert PIL.__version__ == "13.0.0", "the order of the passes depends on the version"
    with open(path, "w") as out:
        for w, h, w2, h2, f in cases():
            image = Image.fromarray(lcg(3 * w * h).reshape(h, w, 3))
            result = image.resize((w2, h2), f).tobytes()
            print(w, h, w2, h2, f, "%08x" % fnv(result), file=out)


if __name__ == "__main__":
    np.seterr(over="ignore")
    main(sys.argv[1] if len(sys.argv) > 1 else "test/data/image/resize.txt")
