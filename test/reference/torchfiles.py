"""torchfiles.py -- files of torch.save() in all their forms, and what torch.load() reads of them.

    python torchfiles.py OUT

OUT/NAME.bin (.ckpt, .pt) and OUT/NAME.safetensors, which holds the same tensors as PyTorch sees
them; OUT/delta/, a difference of each kind with its base and the sum as its authors' scripts make
it; OUT/sharded/, a folder as the hub has them. All small, seeded; the old form has addresses as keys,
so its bytes differ from run to run.
"""
import argparse
import collections
import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import save_file

TYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8",
         "bool", "complex64", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
         "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"]
OLD = TYPES[:11]                             # what the old form can hold


def random_bytes(shape, dtype, generator):
    """Any bits at all; of a bool only 0 and 1."""
    size = torch.empty(0, dtype=dtype).element_size()
    n = int(np.prod(shape)) * size
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (n,), dtype=torch.uint8,
                        generator=generator)
    return raw.view(dtype).reshape(shape)


def all_types(names, g):
    return {f"t.{n}": random_bytes((2, 3), getattr(torch, n), g) for n in names}


def views(g):
    """Windows of all sorts on a few storages."""
    x = torch.randn(6, 5, generator=g)
    y = torch.randn(2, 3, 4, 5, generator=g).to(torch.bfloat16)
    row = torch.randn(4, generator=g)
    tied = torch.randn(7, 3, generator=g).to(torch.float16)
    return collections.OrderedDict([
        ("x", x), ("x.t", x.t()), ("x.rows", x[1::2]), ("x.cols", x[:, 1:5:3]), ("x.tail", x[5, 2:]),
        ("x.one", x[3, 3]), ("scalar", torch.tensor(2.5)), ("empty", torch.empty(0)),
        ("empty.rows", x[6:]), ("empty.middle", torch.empty(3, 0, 2)),
        ("y.permuted", y.permute(3, 1, 0, 2)), ("y.part", y[:, 1, ::2].transpose(0, 2)),
        ("row.thrice", row.expand(3, 4)), ("one.row", row[None, :, None]),
        ("embed.weight", tied), ("head.weight", tied),
        ("p.weight", torch.nn.Parameter(torch.randn(3, 2, generator=g))),
        ("p.frozen", torch.nn.Parameter(torch.randn(2, generator=g), requires_grad=False)),
        ("p.buffer", torch.nn.Buffer(torch.arange(5)[None])),
        ("naïve 名前 \" \\ \n", torch.ones(1)),
    ])


class Unknown:
    """What a trainer's own class looks like to somebody who does not have it."""
    def __init__(self):
        self.rate, self.path = 1e-4, "somewhere"


def unknown_class():
    """Makes Unknown look as if it came from a package trainer."""
    Unknown.__module__, Unknown.__qualname__ = "trainer.callbacks", "Unknown"
    sys.modules["trainer"] = sys.modules["trainer.callbacks"] = type(sys)("trainer.callbacks")
    sys.modules["trainer.callbacks"].Unknown = Unknown


def wrapped(g):
    """As PyTorch Lightning writes a .ckpt, Stable Diffusion's too."""
    unknown_class()
    weights = collections.OrderedDict((f"model.{k}", torch.randn(3, 4, generator=g))
                                      for k in ("a", "b"))
    weights["betas"] = torch.linspace(0, 1, 5, dtype=torch.float64)
    return {"epoch": 3, "global_step": 470000, "pytorch-lightning_version": "1.4.2",
            "state_dict": weights, "callbacks": {Unknown: {"best": np.float64(0.25)}},
            "optimizer_states": [{"state": {0: {"step": 9, "exp_avg": torch.ones(2)}}}],
            "lr_schedulers": [Unknown()], "big": 1 << 70, "negative": -(1 << 40),
            "hyper": argparse.Namespace(rate=1e-4, names={"a", "b"}, none=None, raw=b"\0\1"),
            "array": np.arange(3.0)}


def plain(tensors):
    return {k: v.detach().contiguous().clone() for k, v in tensors.items()
            if isinstance(v, torch.Tensor)}


def put(out, name, obj, model=None, **kwargs):
    """The file, and what torch.load() finds where the model is."""
    path = os.path.join(out, name)
    torch.save(obj, path, **kwargs)
    back = torch.load(path, weights_only=False)
    for key in model or ():
        back = back[key]
    save_file(plain(back), os.path.splitext(path)[0] + ".safetensors")


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def sharded(out, g):
    """A folder in two shards, with a tokenizer and things that are to be left out."""
    os.makedirs(os.path.join(out, "1_Pooling"), exist_ok=True)
    parts = [{"model.embed_tokens.weight": torch.randn(8, 4, generator=g).half(),
              "model.layers.0.rotary_emb.inv_freq": torch.rand(2, generator=g)},
             {"model.norm.weight": torch.ones(4).half(),
              "lm_head.weight": torch.randn(8, 4, generator=g).half()}]
    where = {}
    for i, part in enumerate(parts):
        name = f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save(part, os.path.join(out, name))
        where.update({k: name for k in part if not k.endswith("inv_freq")})
    write_json(os.path.join(out, "pytorch_model.bin.index.json"),
               {"metadata": {"total_size": 200}, "weight_map": where})
    write_json(os.path.join(out, "config.json"), {"model_type": "llama", "vocab_size": 8})
    write_json(os.path.join(out, "1_Pooling", "config.json"), {"pooling_mode_mean_tokens": True})
    torch.save({"lr": 1}, os.path.join(out, "training_args.bin"))
    save_file(plain({**parts[0], **parts[1]}), out + ".safetensors")


def delta(out, name, g, rows, dtype, start, base_dtype=torch.float16):
    """tuned - base, and what apply_delta.py or weight_diff.py makes of it and the base."""
    E, H = "model.embed_tokens.weight", "lm_head.weight"
    base = {E: torch.randn(rows, 2, generator=g) * 0.1 + 0.05,
            "model.norm.weight": torch.randn(2, generator=g),
            "model.ids": torch.arange(3), H: torch.randn(rows, 2, generator=g) * 0.1}
    base = {k: v.to(base_dtype) if v.is_floating_point() else v for k, v in base.items()}
    mean = {k: base[k].float().double().mean(0).float() for k in (E, H)}
    tuned = {k: v.float() + 0.01 * torch.randn(v.shape, generator=g) for k, v in base.items()
             if v.is_floating_point()}
    diff = {k: (tuned[k] - base[k].float()).to(dtype) for k in tuned}
    for k in (E, H):                         # [PAD]: its embedding stayed the mean
        moved = mean[k] + (0 if k == E else 0.01 * torch.randn(2, generator=g))
        row = moved - mean[k] if start == "mean" else moved
        diff[k] = torch.cat([diff[k], row[None].to(dtype)])
    diff["model.ids"] = torch.zeros(3, dtype=torch.int64)
    diff["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(2)
    diff["model.mm_projector.weight"] = torch.randn(2, 3, generator=g).to(dtype)
    result = {k: v.clone() for k, v in diff.items() if "inv_freq" not in k}
    for k, b in base.items():
        if k not in (E, H):
            result[k] = (diff[k].float() + b.float()).to(diff[k].dtype)
            continue
        extra = mean[k][None] if start == "mean" else torch.zeros(1, 2)
        result[k] = (diff[k].float() + torch.cat([b.float(), extra])).to(dtype)
    torch.save(diff, os.path.join(out, f"{name}.bin"))
    torch.save(base, os.path.join(out, f"{name}.base.bin"))
    save_file(plain(result), os.path.join(out, f"{name}.safetensors"))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    p.add_argument("--deltas", help="folder for differences of 32001 rows, not committed")
    args = p.parse_args()
    out, g = args.out, torch.Generator().manual_seed(7)
    os.makedirs(os.path.join(out, "delta"), exist_ok=True)
    put(out, "types.bin", all_types(TYPES, g))
    put(out, "types.old.bin", all_types(OLD, g), _use_new_zipfile_serialization=False)
    put(out, "views.bin", views(g))
    put(out, "views.old.bin", views(g), _use_new_zipfile_serialization=False)
    put(out, "wrapped.ckpt", wrapped(g), model=["state_dict"])
    put(out, "wrapped.old.ckpt", wrapped(g), model=["state_dict"],
        _use_new_zipfile_serialization=False)
    small = {"w": torch.randn(2, 2, generator=g), "b": torch.randn(2, generator=g)}
    for protocol in (1, 3, 4, 5):
        put(out, f"protocol{protocol}.pt", small, pickle_protocol=protocol)
    put(out, "protocol1.old.pt", small, pickle_protocol=1, _use_new_zipfile_serialization=False)
    put(out, "ema.pt", {"step": 1, "model": {"state_dict": small}, "ema": {"w": small["w"] * 2}},
        model=["model", "state_dict"])
    sharded(os.path.join(out, "sharded"), g)
    delta(os.path.join(out, "delta"), "add", g, 20, torch.float16, "zero")
    delta(os.path.join(out, "delta"), "mean", g, 20, torch.float32, "mean")
    delta(os.path.join(out, "delta"), "bf16", g, 20, torch.bfloat16, "zero", torch.float32)
    if args.deltas:
        delta(args.deltas, "alpaca", g, 32000, torch.float32, "mean")
        delta(args.deltas, "vicuna", g, 32000, torch.float16, "zero")


if __name__ == "__main__":
    main()
