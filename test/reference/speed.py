"""speed.py -- mm and transformers side by side, in one run on one machine.

    python speed.py FOLDER [--mm ./mm] [--picture FILE] [--threads N] [--runs N]
        [--what caption|embed]

FOLDER is a BLIP (caption) or CLIP (embed) checkpoint: a real one, or one that full.py made. Both
programs decode, resize and normalise the same picture and generate 20 tokens (or one vector), in
f32, greedy, with the same number of threads. Measured in turns, so that a busy machine slows both:

  warm   the time for the picture once the model is loaded and has been used: mm's own --timings of
         a run over several copies of the picture, without the first; in Python the same loop
  whole  from start to exit of the process with one picture, files in the page cache

Printed: medians and minima of the seconds on the clock, and of processor seconds (of all threads),
with ratios. On a machine with other work only processor seconds with --threads 1 mean much: threads
that wait for one another lose more than the time they are robbed of.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

N_TOKENS = 20
PYTHON_SIDE = """
import os, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
torch.set_num_threads(int(sys.argv[3])); torch.set_grad_enabled(False)
from PIL import Image
what, folder, picture, runs = sys.argv[4], sys.argv[1], sys.argv[2], int(sys.argv[5])
if what == "caption":
    from transformers import AutoTokenizer, BlipForConditionalGeneration as Model
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil as P
    tokenizer = AutoTokenizer.from_pretrained(folder)
else:
    from transformers import CLIPModel as Model
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as P
model = Model.from_pretrained(folder, dtype=torch.float32).eval()
processor = P.from_pretrained(folder)
def once():
    pixels = processor(images=Image.open(picture).convert("RGB"), return_tensors="pt")
    if what == "caption":
        out = model.generate(**pixels, max_new_tokens=%d)
        return tokenizer.decode(out[0], skip_special_tokens=True), out.shape[1] - 1
    return model.get_image_features(**pixels).pooler_output, 0
for line in range(runs) if runs else iter(sys.stdin.readline, ""):
    start, cpu = time.perf_counter(), time.process_time(); n = once()[1]
    print(time.perf_counter() - start, time.process_time() - cpu, n, flush=True)
""" % N_TOKENS


class PythonSide:
    """transformers, loaded once, waiting for the word to start: for the warm times."""

    def __init__(self, args):
        line = [sys.executable, "-W", "ignore", "-c", PYTHON_SIDE, args.folder, args.picture,
                str(args.threads), args.what, "0"]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.once()                            # the first is slower: threads, memory

    def once(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        seconds, cpu, self.tokens = self.process.stdout.readline().split()
        return float(seconds), float(cpu)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def mm_line(args, n):
    options = ["--max-tokens", str(N_TOKENS)] if args.what == "caption" else []
    return [args.mm, args.what, "-m", args.folder, "-t", str(args.threads), "--json", "--timings",
            *options, *[args.picture] * n]


def whole(line):
    """Seconds on the clock and of the processor from start to exit, and what it printed."""
    start = time.perf_counter()
    p = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        sys.exit(f"{' '.join(line)}: exit status {p.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, out


def mm_warm(args, one):
    """A picture in a run of three: the mean of the second and third on the clock; processor seconds
    of the run, less those of `one`, a run of a single picture. And the number of tokens."""
    _, cpu, out = whole(mm_line(args, 3))
    records = [json.loads(r) for r in out.splitlines()]
    times = [sum(v for k, v in r["ms"].items() if k != "load") / 1000 for r in records[1:]]
    return statistics.mean(times), (cpu - one) / 2, records[-1].get("tokens", {}).get("out")


def report(what, mm, python, need=None):
    for name, f in (("median", statistics.median), ("minimum", min)):
        a, b = f(mm), f(python)
        print(f"{what:16} {name:8} mm {a * 1000:8.1f} ms   transformers {b * 1000:8.1f} ms   "
              f"{b / a:5.2f} times{f'  (asked: {need})' if need and name == 'median' else ''}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder")
    p.add_argument("--mm", default="./mm")
    assets = os.environ.get("MM_ASSETS", "../shared/assets")
    p.add_argument("--picture", default=os.path.join(assets, "images/chelsea.png"))
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--what", choices=("caption", "embed"), default="caption")
    args = p.parse_args()
    warm, python_warm, cold, python_cold, tokens = [], [], [], [], None
    python = PythonSide(args)
    python_line = [sys.executable, "-W", "ignore", "-c", PYTHON_SIDE, args.folder, args.picture,
                   str(args.threads), args.what, "1"]
    for _ in range(args.runs):
        cold.append(whole(mm_line(args, 1)))
        *times, tokens = mm_warm(args, cold[-1][1])
        warm.append(times)
        python_warm.append(python.once())
    python.stop()                              # its memory is not needed any more
    for _ in range(args.runs):
        cold.append(whole(mm_line(args, 1)))
        python_cold.append(whole(python_line))
    if tokens is not None:
        print(f"tokens: {python.tokens} transformers, {tokens} mm" +
              ("" if int(python.tokens) == tokens else ": NOT the same work"))
    print(f"{args.what}, {args.threads} threads, {args.runs} rounds, "
          f"{os.path.basename(args.picture)}, load average {os.getloadavg()[1]:.1f}")
    for i, kind in enumerate(("", " processor")):
        report("warm" + kind, [t[i] for t in warm], [t[i] for t in python_warm], None if i else 1.3)
        report("whole" + kind, [t[i] for t in cold], [t[i] for t in python_cold],
               None if i else 3.5)


if __name__ == "__main__":
    main()
