"""attention.py -- attention of mm beside that of PyTorch (scaled_dot_product_attention, F32, CPU), in
turn and with the same threads: a round of mm bench, a round of PyTorch, again and again. Prints the
medians of both and mm's time as a part of PyTorch's.

    python test/reference/attention.py [--mm ./mm] [--threads 2] [--rounds 3] [--isa LEVEL]

Shapes and timings of mm are those of `mm bench --full attention`; rows in other types than F32 are
left out, since PyTorch has no such cache on a CPU. With one query mm reads keys from memory, walking
through a GiB, and PyTorch reads the same ones again: from a cache, if they fit one."""
import argparse
import json
import statistics
import subprocess
import time

import torch
from torch.nn.functional import scaled_dot_product_attention


def mm_round(args):
    """(shape, causal) -> ms"""
    command = [args.mm, "bench", "--full", "--json", "--seconds", "8", "-t", str(args.threads)]
    command += ["--isa", args.isa] if args.isa else []
    out = subprocess.run(command + ["attention"], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    return {(r["shape"], "causal" in r["kernel"]): r["ms"] for r in rows
            if r.get("type") == "F32" and r["isa"] != "ref" and r["threads"] == args.threads}


def torch_ms(shape, causal, seconds=0.5):
    """Heads lie beside each other in a row, as in mm and as a projection leaves them."""
    n_q, n_kv, heads, head_dim = map(int, shape.split("x"))
    q, k, v = (torch.rand(1, n, heads, head_dim).transpose(1, 2) for n in (n_q, n_kv, n_kv))
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        scaled_dot_product_attention(q, k, v, is_causal=causal)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mm", default="./mm")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--isa")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, theirs = {}, {}
    for _ in range(args.rounds):
        for case, ms in mm_round(args).items():
            ours.setdefault(case, []).append(ms)
            theirs.setdefault(case, []).append(torch_ms(*case))
    print(f"{'attention':24} {'mm ms':>9} {'PyTorch':>9}  mm / PyTorch, {args.threads} threads")
    for case, times in ours.items():
        a, b = statistics.median(times), statistics.median(theirs[case])
        print(f"{case[0] + (' causal' if case[1] else ''):24} {a:9.3f} {b:9.3f}  {a / b:.2f}")


if __name__ == "__main__":
    main()
