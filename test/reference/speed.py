"""speed.py -- mm and transformers side by side, in one run on one machine.

    python speed.py FOLDER [FOLDER]... [--mm ./mm] [--picture FILE] [--threads N] [--runs N]
        [--what caption|embed] [--beams N] [--isa LEVEL] [--gflop N] [--warm]

FOLDER is a BLIP (caption) or CLIP (embed) checkpoint: a real one, or one that full.py made. Both
programs decode, resize and normalise the same picture and generate 20 tokens (or one vector), in
f32, with the same number of threads. Measured in turns, so that a busy machine slows both:

  network  the model alone, for a picture, once it is loaded and has been used: without decoding and
           resizing. mm's own --timings of a run over several copies of the picture, without the
           first; in Python the same loop. With --gflop, the work of one picture, also in percent of
           the multiply-adds that `mm bench` measures between the rounds
  warm     the same with the picture's decoding, on the clock and in processor seconds
  whole    from start to exit of the process with one picture, files in the page cache; not --warm

Further folders are the same model from files of another type (f16, bf16): mm's time for them beside
that for the first.

Printed: medians and minima of the seconds on the clock, and of processor seconds (of all threads),
with ratios. On a machine with other work only processor seconds with --threads 1 mean much: threads
that wait for one another lose more than the time they are robbed of.

Sizes: ViT-B/16 (clip-b16) 35 GFLOP, CLIP ViT-L/14-336 382.
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
    from transformers import BlipForConditionalGeneration as Model
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil as P
else:
    from transformers import CLIPModel as Model
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as P
model = Model.from_pretrained(folder, dtype=torch.float32).eval()
processor = P.from_pretrained(folder)
def once():
    start = time.perf_counter()
    pixels = processor(images=Image.open(picture).convert("RGB"), return_tensors="pt")
    middle = time.perf_counter()
    if what == "caption":
        n = model.generate(**pixels, max_new_tokens=%d, num_beams=int(sys.argv[6])).shape[1] - 1
    else:
        n = 0 if model.get_image_features(**pixels).pooler_output is not None else 1
    return middle - start, time.perf_counter() - middle, n
for line in range(runs) if runs else iter(sys.stdin.readline, ""):
    cpu = time.process_time(); prepare, network, n = once()
    print(prepare, network, time.process_time() - cpu, n, flush=True)
""" % N_TOKENS


def python_line(args, runs):
    return [sys.executable, "-W", "ignore", "-c", PYTHON_SIDE, args.folders[0], args.picture,
            str(args.threads), args.what, str(runs), str(args.beams)]


class PythonSide:
    """transformers, loaded once, waiting for the word to start: for the warm times."""

    def __init__(self, args):
        self.process = subprocess.Popen(python_line(args, 0), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True)
        self.once()                            # the first is slower: threads, memory

    def once(self):
        """network, warm, processor: seconds."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        prepare, network, cpu, self.tokens = self.process.stdout.readline().split()
        return float(network), float(prepare) + float(network), float(cpu)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def mm_line(args, folder, n):
    options = ["--max-tokens", str(N_TOKENS), "--beams", str(args.beams)] \
        if args.what == "caption" else []
    return [args.mm, args.what, "-m", folder, "-t", str(args.threads), "--json", "--timings",
            *(["--isa", args.isa] if args.isa else []), *options, *[args.picture] * n]


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


def mm_warm(args, folder, one=0.0):
    """A picture in a run of three: the means of the second and third, network and warm; processor
    seconds of the run, less those of `one`, a run of a single picture. And the number of tokens."""
    _, cpu, out = whole(mm_line(args, folder, 3))
    records = [json.loads(r) for r in out.splitlines()]
    network = [r["ms"]["encode"] + r["ms"]["text"] for r in records[1:]]
    warm = [sum(v for k, v in r["ms"].items() if k != "load") for r in records[1:]]
    return (statistics.mean(network) / 1e3, statistics.mean(warm) / 1e3, (cpu - one) / 2,
            records[-1].get("tokens", {}).get("out"))


def peak(args):
    """The multiply-adds that this machine can do now, in GFLOP/s."""
    line = [args.mm, "bench", "-t", str(args.threads), "--json", "--seconds", "1", "relu",
            *(["--isa", args.isa] if args.isa else [])]
    for record in map(json.loads, whole(line)[2].splitlines()):
        if record.get("limit") == "fma" and record.get("threads") == args.threads:
            return record["rate"]
    sys.exit("mm bench told no limit")


def report(what, mm, python, need=None):
    for name, f in (("median", statistics.median), ("minimum", min)):
        a, b = f(mm), f(python)
        print(f"{what:16} {name:8} mm {a * 1000:8.1f} ms   transformers {b * 1000:8.1f} ms   "
              f"{b / a:5.2f} times, {a / b:.2f} of its time"
              f"{f'  (asked: {need} times)' if need and name == 'median' else ''}")


def report_percent(args, peaks, warm, python):
    """Each time against the mean of the peaks before and after its round."""
    print(f"{args.gflop:g} GFLOP, peak {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s: " + ", ".join(
        f"{who} {statistics.median(percents):.1f} % (best {max(percents):.1f} %)"
        for who, percents in ((who, [200 * args.gflop / (a + b) / t[0]
                                     for a, b, t in zip(peaks, peaks[1:], times)])
                              for who, times in (("mm", warm), ("transformers", python)))))


def report_others(args, others, warm):
    for folder in args.folders[1:]:
        ratio = statistics.median(o[0] / w[0] for o, w in zip(others[folder], warm))
        ms = 1000 * statistics.median(o[0] for o in others[folder])
        name = os.path.basename(os.path.normpath(folder))
        print(f"network          median   mm {ms:8.1f} ms from {name}: {ratio:.3f} of the first's")


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folders", nargs="+", metavar="folder")
    p.add_argument("--mm", default="./mm")
    assets = os.environ.get("MM_ASSETS", "../shared/assets")
    p.add_argument("--picture", default=os.path.join(assets, "images/chelsea.png"))
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--what", choices=("caption", "embed"), default="caption")
    p.add_argument("--beams", type=int, default=1)
    p.add_argument("--isa", help="mm's instruction set; transformers takes what it finds")
    p.add_argument("--gflop", type=float, help="work of the network for one picture")
    p.add_argument("--warm", action="store_true", help="no whole runs")
    args = p.parse_args()
    if not os.path.exists(args.picture):
        sys.exit(f"{args.picture}: no such picture; set MM_ASSETS, or give --picture")
    return args


def main():
    args = arguments()
    warm, python_warm, cold, python_cold, peaks = [], [], [], [], []
    others = {folder: [] for folder in args.folders[1:]}
    python = PythonSide(args)
    if args.gflop:
        peaks.append(peak(args))
    for _ in range(args.runs):
        if not args.warm:
            cold.append(whole(mm_line(args, args.folders[0], 1)))
        *times, tokens = mm_warm(args, args.folders[0], 0 if args.warm else cold[-1][1])
        warm.append(times)
        python_warm.append(python.once())
        for folder in others:
            others[folder].append(mm_warm(args, folder))
        if args.gflop:
            peaks.append(peak(args))
    python.stop()                              # its memory is not needed any more
    for _ in range(0 if args.warm else args.runs):
        cold.append(whole(mm_line(args, args.folders[0], 1)))
        python_cold.append(whole(python_line(args, 1)))
    if tokens is not None:
        print(f"tokens: {python.tokens} transformers, {tokens} mm" +
              ("" if int(python.tokens) == tokens else ": NOT the same work"))
    print(f"{args.what}, {args.threads} threads, {args.runs} rounds, "
          f"{os.path.basename(args.picture)}, load average {os.getloadavg()[1]:.1f}"
          + (f", {args.beams} beams" if args.beams > 1 else ""))
    for i, kind in enumerate(("network", "warm", "warm processor")[:2 if args.warm else 3]):
        report(kind, [t[i] for t in warm], [t[i] for t in python_warm], 1.3 if i == 1 else None)
    for i, kind in enumerate(("whole", "whole processor") if cold else ()):
        report(kind, [t[i] for t in cold], [t[i] for t in python_cold], None if i else 3.5)
    if args.gflop:
        report_percent(args, peaks, warm, python_warm)
    report_others(args, others, warm)


if __name__ == "__main__":
    main()
