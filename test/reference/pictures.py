#!/usr/bin/env python3
"""Small pictures of every kind, with the pixels that PIL reads, and what transformers makes of some.

Writes to test/data/image/:
  pictures.txt    name w h hash file: FNV-1a (32 bits) over the RGB bytes; the file itself as hex
  assets.txt      name w h hash: the same for the pictures of ../shared/assets/images
  preprocess.txt  class <tab> config (JSON) <tab> source <tab> h <tab> w <tab> hash: over the float32
                  bytes, [h, w, 3]; source is "w h" (bytes of the generator in resize.py) or a file

Written with Pillow 13.0.0, transformers 5.23.0, numpy. What is not PIL's is 16-bit grey and 16-bit PNM,
of which mm takes the high byte (PIL clips the one and rounds the other).
"""
import io
import json
import os
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from resize import fnv, lcg

ASSETS = os.environ.get("MM_ASSETS", "../shared/assets")
np.seterr(over="ignore")


# --- PNG, with everything PIL does not write: interlacing, all filters, 16 bits, odd chunks ---------

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack(samples, bits):
    """[h, n] samples to rows of bytes."""
    if bits == 16:
        return [r.astype(">u2").tobytes() for r in samples]
    if bits == 8:
        return [r.astype(np.uint8).tobytes() for r in samples]
    planes = (samples[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(r.reshape(-1).astype(np.uint8)).tobytes() for r in planes]


def filtered(rows, step):
    """Each row with another of the five filters."""
    out, above = b"", bytes(len(rows[0])) if rows else b""
    for y, row in enumerate(rows):
        kind, line = y % 5, bytearray([y % 5])
        for i, v in enumerate(row):
            a = row[i - step] if i >= step else 0
            b, c = above[i], above[i - step] if i >= step else 0
            pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            paeth = a if pa <= pb and pa <= pc else b if pb <= pc else c
            line.append((v - [0, a, b, (a + b) // 2, paeth][kind]) & 255)
        out, above = out + bytes(line), row
    return out


def png(samples, bits, color, interlace=0, before=b"", after=b"", pieces=1, tail=b""):
    """samples [h, w, channels]; before, after: chunks in front of and behind the image data."""
    h, w, n = samples.shape
    step = max(1, n * bits // 8)
    raw = b""
    for x0, y0, dx, dy in ADAM7 if interlace else [(0, 0, 1, 1)]:
        part = samples[y0::dy, x0::dx]
        if part.size:
            raw += filtered(pack(part.reshape(part.shape[0], -1), bits), step)
    data = zlib.compress(raw + tail, 9)
    cuts = [len(data) * i // pieces for i in range(pieces + 1)]
    idat = b"".join(chunk(b"IDAT", data[a:b]) for a, b in zip(cuts, cuts[1:]))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, color, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + head + before + idat + after + chunk(b"IEND", b"")


def smooth(h, w, n, top):
    """Samples that change slowly, with a little noise: deflate and JPEG have something to do."""
    y, x, c = np.mgrid[0:h, 0:w, 0:n]
    wave = np.sin(x / 3.0 + c) + np.cos(y / 4.0 - 2 * c) + (x + y) / (w + h)
    noise = lcg(h * w * n).reshape(h, w, n) / 255.0
    wave = (wave - wave.min()) / (np.ptp(wave) + 1e-9) * 0.9 + noise * 0.1
    return np.round(wave * top).astype(np.int64).clip(0, top)


def tiff(orientation, order="<", kind=3):
    mark = b"II" if order == "<" else b"MM"
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else \
        struct.pack(order + "I", orientation)
    return (mark + struct.pack(order + "HIH", 42, 8, 2) + struct.pack(order + "HHI", 0x010F, 2, 1)
            + b"A\0\0\0" + struct.pack(order + "HHI", 0x0112, kind, 1) + value
            + struct.pack(order + "I", 0))


def png_cases():
    palette = chunk(b"PLTE", lcg(768).tobytes())
    for color, bits in [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2),
                        (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]:
        for interlace in 0, 1:
            s = smooth(11, 13, CHANNELS[color], (1 << bits) - 1)
            before = chunk(b"PLTE", lcg(3 << bits).tobytes()) if color == 3 else b""
            yield f"png-{color}-{bits}-{interlace}", png(s, bits, color, interlace, before)
    for w, h in [(1, 1), (1, 7), (9, 1), (2, 3), (5, 5), (3, 2)]:
        for interlace in 0, 1:
            yield f"png-{w}x{h}-{interlace}", png(smooth(h, w, 3, 255), 8, 2, interlace)
    yield "png-1bit-9x9", png(smooth(9, 9, 1, 1), 1, 0, 1)
    s = smooth(6, 7, 3, 255)
    yield "png-pieces", png(s, 8, 2, pieces=5)
    yield "png-more-data", png(s, 8, 2, tail=b"\0" * 20)
    yield "png-transparent-rgb", png(s, 8, 2, before=chunk(b"tRNS", struct.pack(">HHH", *s[0, 0])))
    grey = s[:, :, :1]
    yield "png-transparent-grey", png(grey, 8, 0, before=chunk(b"tRNS", struct.pack(">H", s[0, 0, 0])))
    yield "png-transparent-palette", png(grey, 8, 3, before=palette + chunk(b"tRNS", b"\0\x80"))
    yield "png-short-palette", png(grey % 8, 8, 3, before=chunk(b"PLTE", lcg(12).tobytes()))
    yield "png-suggested-palette", png(s, 8, 2, before=palette)
    text = chunk(b"tEXt", b"Title\0caf\xe9") + chunk(b"iTXt", "prompt\0\0\0en\0\0a cat\n猫".encode())
    yield "png-text", png(s, 8, 2, before=text + chunk(b"gAMA", struct.pack(">I", 22000)))
    for o in range(1, 9):
        yield f"png-exif-{o}", png(s, 8, 2, before=chunk(b"eXIf", tiff(o, "<>"[o % 2], 3)))
    yield "png-exif-after", png(s, 8, 2, after=chunk(b"eXIf", tiff(6, ">")))
    yield "png-exif-9", png(s, 8, 2, before=chunk(b"eXIf", tiff(9)))


def jpeg(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def jpeg_cases():
    rgb = Image.fromarray(smooth(19, 26, 3, 255).astype(np.uint8))
    for sub in 0, 1, 2:
        for progressive in False, True:
            yield f"jpeg-{sub}-{int(progressive)}", jpeg(rgb, quality=90, subsampling=sub,
                                                        progressive=progressive)
    yield "jpeg-grey", jpeg(rgb.convert("L"), quality=85)
    yield "jpeg-cmyk", jpeg(rgb.convert("CMYK"), quality=95)
    yield "jpeg-restart", jpeg(rgb, quality=80, restart_marker_blocks=2)
    yield "jpeg-optimized", jpeg(rgb, quality=60, optimize=True, comment=b"a comment \xff\xd9")
    yield "jpeg-rgb", jpeg(rgb, quality=90, keep_rgb=True)
    yield "jpeg-1x1", jpeg(rgb.crop((0, 0, 1, 1)), quality=90)
    yield "jpeg-trailing", jpeg(rgb, quality=75) + b"\xff\xd8\xff garbage"
    small = rgb.crop((0, 0, 17, 9))
    for o in range(1, 9):
        yield f"jpeg-exif-{o}", jpeg(small, quality=90, exif=b"Exif\0\0" + tiff(o, "<>"[o % 2], 3))
    yield "jpeg-exif-long", jpeg(small, quality=90, exif=b"Exif\0\0" + tiff(8, "<", 4))


def bmp(w, h, bits, rows, compression=0, palette=b"", colors=0, masks=b"", header=40):
    h_signed = h
    h = abs(h)
    if header == 12:
        head = struct.pack("<IHHHH", 12, w, h, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", header, w, h_signed, 1, bits, compression, 0, 0, 0, colors,
                           0)
        head += masks if header == 40 else (masks + bytes(header))[:header - 40]
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + head + palette + rows


def bmp_cases():
    def rows(s, bits):
        return b"".join(r + b"\0" * (-len(r) % 4) for r in pack(s.reshape(s.shape[0], -1), bits))

    for bits in 1, 4, 8:
        s = smooth(5, 11, 1, (1 << bits) - 1)
        yield f"bmp-{bits}", bmp(11, 5, bits, rows(s, bits), palette=lcg(4 << bits).tobytes())
        yield f"bmp-os2-{bits}", bmp(11, 5, bits, rows(s, bits), palette=lcg(3 << bits).tobytes(),
                                     header=12)
    s = smooth(5, 11, 1, 99)
    yield "bmp-100-colors", bmp(11, 5, 8, rows(s, 8), palette=lcg(400).tobytes(), colors=100)
    s = smooth(5, 7, 3, 255)
    yield "bmp-24", bmp(7, 5, 24, rows(s, 8))
    yield "bmp-24-top-down", bmp(7, -5, 24, rows(s, 8))
    yield "bmp-32", bmp(7, 5, 32, rows(smooth(5, 7, 4, 255), 8))
    words = smooth(5, 7, 1, 65535)
    little = b"".join(r.astype("<u2").tobytes() + b"\0\0" for r in words.reshape(5, 7))
    yield "bmp-555", bmp(7, 5, 16, little)
    for header in 40, 56, 108, 124:
        masks = struct.pack("<IIII", 0xF800, 0x7E0, 0x1F, 0)[:12 if header == 40 else 16]
        yield f"bmp-565-{header}", bmp(7, 5, 16, little, 3, masks=masks, header=header)
    masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    yield "bmp-rgba-masks", bmp(7, 5, 32, rows(smooth(5, 7, 4, 255), 8), 3, masks=masks, header=108)


def pnm_cases():
    for kind, top in [(2, 255), (2, 15), (3, 255), (3, 100), (3, 1), (5, 255), (5, 7), (6, 255),
                      (6, 100)]:
        s = smooth(4, 5, 3 if kind % 3 == 0 else 1, top)
        data = s.astype(np.uint8).tobytes() if kind > 3 else \
            b"\n".join(b" ".join(b"%d" % v for v in r) for r in s.reshape(4, -1)) + b"\n"
        yield f"pnm-{kind}-{top}", b"P%d\n5 4\n%d\n" % (kind, top) + data
    s = smooth(3, 4, 3, 255).astype(np.uint8)
    yield "pnm-comments", b"P6 # one\n# two\n4\t# three\n3\n255\n" + s.tobytes()
    yield "pnm-space-first", b"P5 2 2 255 " + b"\n\t #"
    text = b"# first\n".join(b"%d\n" % v for v in s.reshape(-1))
    yield "pnm-text-comments", b"P3\n4 3 255\n" + text
    # Two bytes a sample: mm takes the high byte of the value scaled to 65535.
    for kind, top in [(2, 65535), (3, 1000), (5, 65535), (6, 65535), (6, 300)]:
        s = smooth(4, 5, 3 if kind % 3 == 0 else 1, top)
        text = b" ".join(b"%d" % v for v in s.reshape(-1)) + b"\n"
        data = s.astype(">u2").tobytes() if kind > 3 else text
        yield f"pnm-{kind}-{top}", b"P%d 5 4 %d\n" % (kind, top) + data


def high_bytes(name):
    """The pixels of 16-bit pictures, for which mm does not follow PIL."""
    kind = name.split("-")
    if kind[0] == "pnm":
        top, n = int(kind[2]), 3 if int(kind[1]) % 3 == 0 else 1
        s = smooth(4, 5, n, top)
        high = np.array([round(int(v) / top * 65535) >> 8 for v in s.reshape(-1)]).reshape(s.shape)
    else:
        high = smooth(11, 13, 1, 65535) >> 8
    return np.broadcast_to(high, high.shape[:2] + (3,)).astype(np.uint8)


def pil_rgb(data):
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def write_pictures(path):
    ours = {"png-0-16-0", "png-0-16-1", "pnm-2-65535", "pnm-3-1000", "pnm-5-65535", "pnm-6-65535",
            "pnm-6-300"}
    with open(path, "w") as out:
        for make in png_cases, jpeg_cases, bmp_cases, pnm_cases:
            for name, data in make():
                rgb = high_bytes(name) if name in ours else pil_rgb(data)
                digest = "%08x" % fnv(rgb.tobytes())
                print(name, rgb.shape[1], rgb.shape[0], digest, data.hex(), file=out)


def write_assets(path):
    with open(path, "w") as out:
        for name in sorted(os.listdir(f"{ASSETS}/images")):
            if name != "truncated.jpg":
                rgb = pil_rgb(open(f"{ASSETS}/images/{name}", "rb").read())
                print(name, rgb.shape[1], rgb.shape[0], "%08x" % fnv(rgb.tobytes()), file=out)


def write_preprocess(path):
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    clip, blip = CLIPImageProcessorPil, BlipImageProcessorPil
    half = [0.5, 0.5, 0.5]
    cases = [
        (clip, {}, "500 375"), (clip, {}, "375 500"), (clip, {}, "100 80"), (clip, {}, "640 427"),
        (clip, {}, "astronaut.png"), (clip, {}, "chelsea.png"), (blip, {}, "astronaut.png"),
        (blip, {}, "chelsea.png"), (blip, {}, "300 200"), (blip, {"size": 60}, "300 200"),
        (clip, {"size": {"shortest_edge": 336}, "crop_size": 336}, "333 500"),
        (clip, {"size": 64, "crop_size": {"height": 50, "width": 61}}, "90 70"),
        (clip, {"size": 64, "crop_size": {"height": 80, "width": 51}}, "90 71"),
        (clip, {"size": 64, "crop_size": {"height": 91, "width": 103}}, "70 90"),
        (clip, {"do_resize": False, "crop_size": {"height": 91, "width": 70}}, "70 90"),
        (clip, {"do_resize": False, "do_center_crop": False, "do_normalize": False}, "70 90"),
        (clip, {"do_rescale": False, "size": 40, "crop_size": 33}, "70 90"),
        (clip, {"resample": 2, "image_mean": half, "image_std": half, "size": 40, "crop_size": 33},
         "70 90"),
        (clip, {"resample": 0, "image_mean": 0.1, "image_std": 0.3, "size": 40, "crop_size": 33},
         "71 90"),
        (clip, {"rescale_factor": 0.00784313725490196, "size": 40, "do_center_crop": False}, "71 90"),
        (blip, {"size": {"height": 48, "width": 64}, "resample": 1}, "71 90"),
        (blip, {"size": {"height": 48, "width": 64}, "resample": 5, "do_convert_rgb": None}, "71 90"),
    ]
    with open(path, "w") as out:
        for make, keys, source in cases:
            if source[0].isdigit():
                w, h = map(int, source.split())
                image = Image.fromarray(lcg(3 * w * h).reshape(h, w, 3))
            else:
                image = Image.open(f"{ASSETS}/images/{source}").convert("RGB")
            result = make(**keys)(image, return_tensors="np")["pixel_values"][0]
            result = np.ascontiguousarray(result.astype(np.float32).transpose(1, 2, 0))
            print(make is clip and "clip" or "blip", json.dumps(keys), source, *result.shape[:2],
                  "%08x" % fnv(result.tobytes()), sep="\t", file=out)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "test/data/image"
    ASSETS = sys.argv[2] if len(sys.argv) > 2 else ASSETS
    write_pictures(f"{folder}/pictures.txt")
    write_assets(f"{folder}/assets.txt")
    write_preprocess(f"{folder}/preprocess.txt")
