"""convolutions.py -- convolutions, transposed ones and group norms as PyTorch computes them.

    python convolutions.py FOLDER          FOLDER: test/data/conv

Writes FOLDER/conv.answers.safetensors: for each case x [n, C, H, W], w, b and y. test/conv.c has the list
of the cases once more, with what they mean to mm, and holds every instruction set against them.

Easy to get wrong:
  - weights of half the size are rounded first; PyTorch then gets them as f32, as mm does.
  - sizes differ wherever they can: H != W, channels odd, no padding equal to another.
"""
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from common import uniform

SEED = 4


def conv(x, w, b, **options):
    return F.conv2d(x, w, b, **options)


def transposed(x, w, b, **options):
    return F.conv_transpose2d(x, w, b, **options)


def vae_half(x, w, b):
    """The autoencoder of Stable Diffusion pads at the right and at the bottom alone."""
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), w, b, stride=2)


def norm(x, w, b, groups):
    return F.group_norm(x, groups, w, b, eps=1e-5)


def norm_silu(x, w, b, groups):
    return F.silu(norm(x, w, b, groups))


#   name         what, options                      x               w               stored as
CASES = [
    ("same", conv, {"padding": 1}, (2, 19, 11, 9), (13, 19, 3, 3), torch.float32),
    ("same.f16", conv, {"padding": 1}, (1, 17, 9, 6), (18, 17, 3, 3), torch.float16),
    ("same.bf16", conv, {"padding": 1}, (1, 17, 6, 9), (18, 17, 3, 3), torch.bfloat16),
    ("half", conv, {"padding": 1, "stride": 2}, (2, 5, 9, 12), (7, 5, 3, 3), torch.float32),
    ("half.vae", vae_half, {}, (1, 6, 8, 10), (9, 6, 3, 3), torch.float32),
    ("patches", conv, {"stride": 7}, (1, 3, 23, 30), (11, 3, 7, 7), torch.float32),
    ("point", conv, {}, (2, 7, 5, 4), (9, 7, 1, 1), torch.float32),
    ("depthwise", conv, {"padding": 1, "groups": 12}, (1, 12, 7, 5), (12, 1, 3, 3), torch.float32),
    ("gan.first", transposed, {}, (2, 21, 1, 1), (21, 10, 4, 4), torch.float32),
    ("gan.next", transposed, {"stride": 2, "padding": 1}, (1, 10, 4, 5), (10, 6, 4, 4),
     torch.float16),
    ("gan.extra", transposed, {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
     (1, 6, 5, 3), (6, 4, 3, 3), torch.float32),
    ("norm", norm, {"groups": 4}, (2, 12, 11, 7), (12,), torch.float32),
    ("norm.silu", norm_silu, {"groups": 8}, (1, 40, 9, 8), (40,), torch.float32),
]


def main():
    tensors = {}
    for name, what, options, x_shape, w_shape, dtype in CASES:
        n_out = w_shape[1] * options.get("groups", 1) if what is transposed else w_shape[0]
        x = uniform(SEED, name + ".x", x_shape, 1.0, 0.3)
        w = uniform(SEED, name + ".w", w_shape, 0.2, 0.05).to(dtype)
        b = uniform(SEED, name + ".b", (n_out,), 0.5)
        with torch.no_grad():
            y = what(x, w.float(), b, **options)
        tensors.update({f"{name}.x": x, f"{name}.w": w, f"{name}.b": b, f"{name}.y": y.contiguous()})
    os.makedirs(sys.argv[1], exist_ok=True)
    save_file(tensors, os.path.join(sys.argv[1], "conv.answers.safetensors"),
              metadata={"format": "pt"})


if __name__ == "__main__":
    main()
