"""compare.py -- holds `mm` against the reference, on tiny or full-size checkpoints.

    python compare.py FOLDER NAME [--mm ./mm] [--trace FILE] [-v] [-- options for mm]

FOLDER/NAME is a checkpoint that tiny.py or full.py made, NAME.answers.* lie beside it. Runs mm the
way the answers were made: the traced case with --exact --trace, then every case for its tokens,
vectors or scores. With --trace FILE, only compares that file with the intermediates.

  intermediates  NMSE = sum (got - want)^2 / sum want^2 per tensor, at most 1e-10. Reported: those
                 that are over, the worst, names that the reference does not have, how many of its
                 names were not traced (that is no error: it names every module)
  tokens         equal, unless the reference's smallest margin of that case is below 1e-4: then the
                 rounding of either program may decide
  vectors        cosine at least 0.999999; scores and cosines within 1e-4
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

NMSE, MARGIN, COSINE, SCORE = 1e-10, 1e-4, 0.999999, 1e-4


def nmse(got, want):
    got, want = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    return ((got - want) ** 2).sum() / max((want ** 2).sum(), 1e-30)


def compare_trace(path, answers, verbose, traced=None):
    """Number of tensors that are wrong. traced: what names the reference recorded; None: all."""
    trace = load_file(path)
    wrong, worst, unknown = [], (0.0, "none"), []
    for name, got in trace.items():
        if name not in answers:
            unknown += [name] if not traced or re.fullmatch(traced, name) else []
        elif got.shape != answers[name].shape:
            wrong.append(name)
            print(f"  {name}: shape {list(got.shape)}, expected {list(answers[name].shape)}")
        else:
            e = nmse(got, answers[name])
            worst = max(worst, (e, name))
            if verbose or not e <= NMSE:
                print(f"  {name}: NMSE {e:.2e}")
            wrong += [name] if not e <= NMSE else []
    known = [n for n in answers if not n.startswith("cases.") and n != "pixel_values"]
    print(f"  intermediates: {len(set(trace) & set(answers))} compared, {len(wrong)} wrong, worst "
          f"NMSE {worst[0]:.1e} ({worst[1]}), "
          f"{len(set(known) - set(trace))} of the reference not traced")
    if unknown:
        print(f"  not in the reference: {len(unknown)}, such as {unknown[:3]}")
    if not trace:
        print("  nothing was traced")
    return len(wrong) + len(unknown) + (not trace)


class Runner:
    """Runs mm on one checkpoint."""

    def __init__(self, args):
        self.mm, self.model = args.mm, os.path.join(args.folder, args.name)
        self.pictures, self.options = os.path.join(args.folder, "pictures"), args.options

    def __call__(self, command, image=None, *more):
        """The records of one run."""
        files = [os.path.join(self.pictures, image)] if image else []
        line = [self.mm, command, "-m", self.model, "--json", "--exact", *self.options, *more]
        line += files
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"  {' '.join(line)}: exit status {done.returncode}: {done.stderr.strip()[:300]}")
            return None
        return [json.loads(r) for r in done.stdout.splitlines()]


def check(ok, what):
    if not ok:
        print("  " + what)
    return not ok


def compare_text(mm, case, how):
    """Tokens and text of a caption or an answer, greedy or with 3 beams."""
    prompt = ["-p", case["text"]] if case["text"] is not None else []
    records = mm("caption", case["image"], *prompt, *(["--beams", "3"] if how == "beams" else []))
    if records is None:
        return 1
    want = case[how]
    n_new = len(want["ids"]) - len(records[0]["ids"])        # mm lists what was generated
    got = want["ids"][:max(n_new, 0)] + records[0]["ids"]
    unclear = want["margin"] < MARGIN
    label = f"{case['image']} {case['text']!r} {how}, margin {want['margin']:.1e}"
    if got != want["ids"] and unclear:
        print(f"  {label}: other tokens, but the reference itself was not clear")
        return 0
    wrong = check(got == want["ids"], f"{label}: {got}, expected {want['ids']}")
    if not wrong:
        stop = "length" if records[0]["stop"] == "context" else records[0]["stop"]
        wrong = check(stop == want["stop"], f"{label}: stop {stop}, expected {want['stop']}")
        wrong += check(records[0]["text"] == want["text"].strip(),
                       f"{label}: text {records[0]['text']!r}, expected {want['text']!r}")
    return wrong


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def compare_vector(mm, case, want):
    """An embedding; normalised or not does not matter to the cosine."""
    text = ["--text", case["text"]] if case["text"] is not None else []
    records = mm("embed", case["image"], *text)
    if records is None:
        return 1
    c = cosine(records[0]["vector"], want)
    return check(c >= COSINE, f"{case['image'] or case['text']!r}: cosine {c:.8f}")


def compare_scores(mm, image, texts, want):
    """Zero-shot scores, or P(match) and the contrastive cosine; want: {text: {score, itc}}."""
    path = tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8")
    path.write("\n".join(texts) + "\n")
    path.flush()
    records = mm("classify", image, "--labels", "@" + path.name, "--label-template", "{}")
    if records is None:
        return 1
    wrong = 0
    for got in records[0]["labels"]:
        for key, value in want[got["label"]].items():
            wrong += check(key in got and abs(got[key] - value) <= SCORE,
                           f"{image} {got['label']!r}: {key} {got.get(key)}, expected {value}")
    return wrong + check(len(records[0]["labels"]) == len(texts), f"{image}: labels are missing")


def traced_run(mm, kind, cases, path):
    """The run whose intermediates the answers hold: README.md says which."""
    first, trace = cases[0], ["--trace", path]
    if kind == "text":
        prompt = ["-p", first["text"]] if first["text"] is not None else []
        return mm("caption", first["image"], *trace, *prompt, "--max-tokens", "4")
    if kind == "match":
        texts = [c["text"] for c in cases if c["image"] == first["image"]]
        return mm("classify", first["image"], *trace, "--labels",
                  ",".join(t.replace(",", "") for t in texts), "--label-template", "{}")
    texts = [c["text"] for c in cases if c["text"] is not None]
    texts = texts if kind == "clip" else texts[:2]
    return mm("embed", first["image"], *trace, *[a for t in texts for a in ("--text", t)])


def compare_all(args, cases, answers, traced):
    mm = Runner(args)
    kind = ("text" if "greedy" in cases[0] else "match" if "match" in cases[0]
            else "clip" if "scores" in cases[0] else "bert")
    wrong = 0
    if any(not k.startswith("cases.") and k != "pixel_values" for k in answers):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.safetensors")
            wrong += (compare_trace(path, answers, args.verbose, traced)
                      if traced_run(mm, kind, cases, path) is not None else 1)
    for i, case in enumerate(cases):
        if kind == "text":
            wrong += compare_text(mm, case, "greedy") + compare_text(mm, case, "beams")
        elif kind in ("clip", "bert"):
            wrong += compare_vector(mm, case, answers[f"cases.{i}.vector"])
    texts = list(dict.fromkeys(c["text"] for c in cases if c["text"] is not None))
    for image in dict.fromkeys(c["image"] for c in cases if c["image"] and kind != "text"):
        mine = [c for c in cases if c["image"] == image]
        want = ({c["text"]: {"score": c["match"], "itc": c["cosine"]} for c in mine}
                if kind == "match" else
                {t: {"score": s} for t, s in zip(texts, mine[0]["scores"])})
        wrong += compare_scores(mm, image, texts, want)
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder")
    p.add_argument("name")
    p.add_argument("--mm", default="./mm")
    p.add_argument("--trace", help="compare this file only")
    p.add_argument("-v", "--verbose", action="store_true", help="the NMSE of every tensor")
    p.add_argument("options", nargs="*", help="further options for mm, after --")
    args = p.parse_args()
    base = os.path.join(args.folder, args.name)
    answers = load_file(base + ".answers.safetensors")
    with open(base + ".answers.json", encoding="utf-8") as f:
        facts = json.load(f)
    cases, traced = facts["cases"], facts.get("traced")
    print(f"{args.name}:")
    wrong = (compare_trace(args.trace, answers, args.verbose, traced) if args.trace
             else compare_all(args, cases, answers, traced))
    print(f"{args.name}: {'all equal' if not wrong else f'{wrong} wrong'}, {len(cases)} cases")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
