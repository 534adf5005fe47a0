"""remake.py -- makes the committed reference data again and compares: what `make reference` runs.

    python remake.py [--assets DIR] [--tokenizer BINARY] [--only NAME]... [--keep DIR]

Runs each script into a temporary folder laid out like test/data, then compares file by file. Bytes
must be equal, but for what was computed with matrix products, whose rounding depends on the CPU and
its BLAS: there a tensor may differ by NMSE 1e-10 (the limit for mm itself), a number in JSON by one
part in 10,000, and texts and ids not at all. Ends with one line; exit status 1 if anything differs.
Scripts that only compare (their own exit status is the verdict) run in place.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file as load_torch

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")
# Script, arguments; {out} is the temporary folder. Those without {out} compare by themselves.
STEPS = [("resize.py", ["{out}/image/resize.txt"]),
         ("pictures.py", ["{out}/image", "{assets}"]),
         ("tiny.py", ["{out}/models"]),
         ("templates.py", ["{out}/templates"]),
         ("beams.py", ["{out}/beams.txt"]),
         ("convolutions.py", ["{out}/conv"]),
         ("language.py", ["{out}/models"]),
         ("llava.py", ["{out}/models"]),
         ("language.py", ["{out}/stories.json", "--real", "{assets}"]),
         ("torchfiles.py", ["{out}/torch"]),
         ("minilm.py", ["{assets}/models/minilm", "{out}"]),
         ("unicode.py", ["--check"]),
         ("tiny_tokenizers.py", ["--check"]),
         ("tokenizer_lines.py", ["{tokenizer}", "{assets}"])]
NMSE = 1e-10


def close(a, b):
    """Two JSON values, numbers within one part in 10,000 (and 1e-5 near zero)."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-5 + 1e-4 * abs(a)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b))
    return a == b


def nmse(got, want):
    """Mean squared error over mean square of what is wanted."""
    want, got = want.astype(np.float64), got.astype(np.float64)
    return float(((got - want) ** 2).sum() / max((want ** 2).sum(), 1e-30))


def load_file(path):
    """The tensors as numpy's, which has no bf16: as f32."""
    return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy()
            for name, t in load_torch(path).items()}


def worst_tensor(made, committed):
    """What differs most, as a sentence; '' if all is within NMSE."""
    a, b = load_file(made), load_file(committed)
    if a.keys() != b.keys():
        return f"tensors {sorted(a.keys() ^ b.keys())[:5]} are in one of the two only"
    for name in a:
        if a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
            return f"{name}: shape or type differs"
        if "margin" in name:                 # a difference of two numbers: relative to nothing
            if np.abs(a[name] - b[name]).max() > 1e-3:
                return f"{name}: differs by more than 1e-3"
        elif a[name].dtype == np.float32 and nmse(a[name], b[name]) > NMSE:
            return f"{name}: NMSE {nmse(a[name], b[name]):.1e}"
        elif a[name].dtype != np.float32 and (a[name] != b[name]).any():
            return f"{name}: differs"
    return ""


def same_torch_file(made, committed):
    """Two files of torch.save() in its old form, whose keys are addresses."""
    import torch
    a, b = (torch.load(f, weights_only=False) for f in (made, committed))
    a, b = a.get("state_dict", a), b.get("state_dict", b)

    def raw(t):
        return t.detach().contiguous().view(-1).view(torch.uint8) if t.numel() else t.shape
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape
        and bool(np.array_equal(raw(a[k]), raw(b[k]))) for k in a)


def difference(made, committed):
    """'' if equal, 'rounding' if within the tolerance, else what is different."""
    with open(made, "rb") as f, open(committed, "rb") as g:
        if f.read() == g.read():
            return ""
    if made.endswith(".answers.safetensors"):
        return worst_tensor(made, committed) or "rounding"
    if made.endswith(".answers.json"):
        with open(made) as f, open(committed) as g:
            return "rounding" if close(json.load(f), json.load(g)) else "texts or ids differ"
    if ".old." in made:
        sys.path.insert(0, HERE)
        import torchfiles
        torchfiles.unknown_class()           # wrapped.old.ckpt asks for it
        return "" if same_torch_file(made, committed) else "tensors differ"
    return "bytes differ"


def run(script, args, places):
    """'' if the script ran to its end, else why not."""
    path = os.path.join(HERE, script)
    if not os.path.exists(path):
        return "not there"
    missing = [k for k in ("assets", "tokenizer") if "{%s}" % k in " ".join(args)
               and not os.path.exists(places[k])]
    if missing:
        return f"skipped: {places[missing[0]]} is not there"
    line = [sys.executable, "-W", "ignore", path] + [a.format(**places) for a in args]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    if done.returncode:
        return f"exit status {done.returncode}:\n" + done.stdout[-2000:]
    return ""


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--assets", default=os.environ.get("MM_ASSETS", "../shared/assets"))
    p.add_argument("--tokenizer", default="build/test/tokenizer", help="the C test program")
    p.add_argument("--only", action="append", help="this script alone; may be repeated")
    p.add_argument("--keep", help="folder for what is made (default: a temporary one)")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.keep or temporary
        os.makedirs(os.path.join(out, "image"), exist_ok=True)
        places = {"out": out, "assets": args.assets, "tokenizer": args.tokenizer}
        failed, skipped = 0, 0
        for script, script_args in STEPS:
            if args.only and script not in args.only:
                continue
            why = run(script, script_args, places)
            print(f"{script}: {why or 'done'}", flush=True)
            skipped += why == "not there" or why.startswith("skipped")
            failed += why.startswith("exit")
        equal = rounding = 0
        for folder, _, names in sorted(os.walk(out)):
            for name in sorted(names):
                made = os.path.join(folder, name)
                committed = os.path.join(DATA, os.path.relpath(made, out))
                why = difference(made, committed) if os.path.exists(committed) else "not committed"
                if why not in ("", "rounding"):
                    print(f"{os.path.relpath(made, out)}: {why}")
                equal, rounding = equal + (why == ""), rounding + (why == "rounding")
                failed += why not in ("", "rounding")
    print(f"reference: {equal} files equal, {rounding} equal but for rounding, {failed} failed, "
          f"{skipped} skipped")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
