"""Trains the tiny captioner and the tiny CLIP from nothing. One command, resumable at any time:

    python models/train/train.py [--sprites FOLDER] [--state FOLDER] [--minutes M] [STAGE ...]

Stages, in order (all of them if none is named; a finished one is skipped):

    tower     the image tower alone, from labels of its patches: mosaics of up to nine things, then
              scenes. Dense labels teach it in minutes what captions alone would take hours for.
    decoder   the captioner's text decoder reads the frozen tower's tokens
    caption   both together, the patch labels kept on
    clip      the tower in CLIP's layout and its text encoder (needs only the first stage)

    scenes --draw--> batch --loss--> gradients --sum over workers--> AdamW --every minutes--> state

The state of a stage is one file, STATE/STAGE.pt, replaced whole; SIGTERM and Ctrl-C save it and
stop. A step is SHARDS shards of pictures, drawn from (seed, stage, step, shard): so a stopped run
goes on with the scenes it would have seen, and the number of workers changes the time, not the
result (beyond the order of sums).

Easy to get wrong
- One schedule per stage: warm up, stay, fall. Starting the rate anew costs a minute of quality.
- Small matrices do not share well between threads; processes with one thread each do.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.multiprocessing as mp

import watch
from batches import Batches
from layouts import Captioner, Clip, Tower
from sprites import find_sprites
from world import World

SEED, SHARDS = 1, 2
WARM_UP, FALL, LAST = 100, .35, .03       # steps up; share of the steps that falls; to this part
SAVE_EVERY, LOG_EVERY = 150, 20            # seconds


@dataclass
class Stage:
    pictures: int                   # drawn and learnt from, in all
    shard: int                      # pictures of one shard; a step has SHARDS of them. The decoder
                                    # reads each REUSE times
    rates: dict                     # learning rate by the beginning of a parameter's name; "": rest
    mosaics: float = 0              # until this part of the steps all are mosaics, then a quarter


STAGES = {
    "tower": Stage(96_000, 16, {"": 2e-3}, mosaics=.5),
    "decoder": Stage(32_000, 8, {"": 2e-3}),
    "caption": Stage(120_000, 16, {"blip.vision": 7e-4, "heads": 7e-4, "": 1e-3}),
    "clip": Stage(72_000, 24, {"clip.vision": 8e-4, "heads": 8e-4, "": 2e-3}),
}


def read(folder, stage):
    path = os.path.join(folder, stage + ".pt")
    return torch.load(path, weights_only=True) if os.path.exists(path) else None


def write(folder, stage, state):
    """Replaces the file whole: a crash leaves the old or the new one."""
    path = os.path.join(folder, stage + ".pt")
    with open(path + ".tmp", "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


def build(name, folder, batches):
    """The model of a stage, with what the stage before has learnt."""
    torch.manual_seed(SEED)
    if name == "tower":
        return Tower()
    before = read(folder, "decoder" if name == "caption" else "tower")
    if not before or not before["done"]:
        sys.exit(f"stage {name} needs a finished stage before it")
    if name == "clip":
        model = Clip()
        pixels = batches.for_tower(np.random.default_rng(SEED), 64, 0)["pixels"]
        model.take_tower(before["model"], pixels)
        return model
    model = Captioner(frozen=name == "decoder")
    if name == "decoder":
        model.take_tower(before["model"])
    else:
        model.load_state_dict(before["model"])
    return model


def optimizer(model, rates):
    """AdamW; decay on matrices only, and not on positions (to_clip put something large there)."""
    groups = defaultdict(list)
    for name, p in model.named_parameters():
        start = max((s for s in rates if name.startswith(s)), key=len)
        decays = p.dim() > 1 and "position" not in name and "class_embedding" not in name
        groups[start, decays].append(p)
    groups = [{"params": params, "rate": rates[start], "weight_decay": .05 * decays}
              for (start, decays), params in groups.items()]
    return torch.optim.AdamW(groups, betas=(.9, .98), fused=True)


def schedule(step, steps):
    up = min(1, (step + 1) / WARM_UP)
    fall = min(1, (steps - step) / (steps * FALL))
    return up * (LAST + (1 - LAST) * fall)


class Team:
    """Workers that add up their gradients in shared memory. Two rounds of buffers, so that one
    meeting a step is enough; with one worker there is nothing to do."""

    def __init__(self, workers, numbers):
        self.workers = workers
        self.gradients = torch.zeros(2, workers, numbers, device="cpu").share_memory_()
        self.stop = torch.zeros(2, dtype=torch.bool, device="cpu").share_memory_()
        self.meeting = mp.get_context("fork").Barrier(workers)

    def add_up(self, rank, step, params, stop):
        """Every worker then has the sum. True if worker 0 says stop."""
        here = step % 2
        if rank == 0:
            self.stop[here] = stop
        if self.workers > 1:
            torch.cat([p.grad.flatten() for p in params], out=self.gradients[here, rank])
            self.meeting.wait(timeout=1800)
            total = self.gradients[here].sum(0)
            for p, g in zip(params, total.split([p.numel() for p in params])):
                p.grad.copy_(g.view_as(p))
        return bool(self.stop[here])


class Log:
    """Means of what the losses report, a line now and then, on stdout and in STATE/log.txt."""

    def __init__(self, folder, stage):
        self.file, self.stage = open(os.path.join(folder, "log.txt"), "a"), stage
        self.sums, self.n = defaultdict(float), defaultdict(int)
        self.since, self.pictures = time.time(), 0

    def line(self, text):
        text = f"{time.strftime('%H:%M:%S')} {self.stage}: {text}"
        print(text, flush=True)
        print(text, file=self.file, flush=True)

    def step(self, step, steps, pictures, values):
        for k, v in values.items():
            if v == v:
                self.sums[k] += v
                self.n[k] += 1
        self.pictures += pictures
        if time.time() - self.since > LOG_EVERY:
            means = " ".join(f"{k} {s / self.n[k]:.3f}" for k, s in self.sums.items())
            speed = self.pictures / (time.time() - self.since)
            self.line(f"step {step}/{steps} {speed:.0f} pictures/s {means}")
            self.sums.clear(), self.n.clear()
            self.since, self.pictures = time.time(), 0


def work(rank, name, args, batches, team, deadline, wanted):
    """One worker of a stage; worker 0 logs, watches and saves."""
    stage = STAGES[name]
    torch.set_num_threads(1)
    steps = int(stage.pictures * args.scale) // (stage.shard * SHARDS)
    model = build(name, args.state, batches)
    trained = model.trained() if name == "decoder" else model
    params = [p for p in trained.parameters() if p.requires_grad]
    adam = optimizer(trained, stage.rates)
    first, spent, cpu = 0, 0., -time.process_time() * team.workers
    if saved := read(args.state, name):
        model.load_state_dict(saved["model"])
        adam.load_state_dict(saved["optimizer"])
        first, spent, cpu = saved["step"], saved["seconds"], cpu + saved["cpu"]
    draw = getattr(batches, {"tower": "for_tower", "clip": "for_clip"}.get(name, "for_captioner"))
    log = Log(args.state, name) if rank == 0 else None
    started = last_save = time.time()

    def save(step):
        write(args.state, name, {
            "model": model.state_dict(), "optimizer": adam.state_dict(), "step": step,
            "pictures": step * stage.shard * SHARDS, "seconds": spent + time.time() - started,
            "cpu": cpu + time.process_time() * team.workers, "done": step == steps})

    for step in range(first, steps):
        mosaics = 0 if not stage.mosaics else 1 if step < stage.mosaics * steps else .25
        for shard in range(rank, SHARDS, team.workers):
            rng = np.random.default_rng([SEED, list(STAGES).index(name), step, shard])
            batch = draw(rng, stage.shard, mosaics)
            with torch.autocast(args.device, torch.bfloat16):
                loss, values = model.loss(batch)
            (loss / SHARDS).backward()
            if rank == 0:
                log.step(step, steps, stage.shard * min(team.workers, SHARDS), values)
        stop = team.add_up(rank, step, params, wanted["stop"] or time.time() > deadline)
        torch.nn.utils.clip_grad_norm_(params, 1.)
        for group in adam.param_groups:
            group["lr"] = group["rate"] * schedule(step, steps)
        adam.step()
        adam.zero_grad(set_to_none=False)
        if rank == 0 and (step + 1) % max(250, steps // 10) == 0:
            log.line(f"step {step + 1} held-out: {watch.quick(model, batches, args.device)}")
        if rank == 0 and (stop or time.time() - last_save > SAVE_EVERY):
            save(step + 1)
            last_save = time.time()
        if stop:
            return
    if rank == 0:
        save(steps)
        minutes = (spent + time.time() - started) / 60
        cpu_minutes = (cpu + time.process_time() * team.workers) / 60
        log.line(f"done, {minutes:.1f} minutes, {cpu_minutes:.1f} of processor time")


def run_stage(name, args, batches, deadline, wanted):
    """True if the stage is finished."""
    saved = read(args.state, name)
    if saved and saved["done"]:
        return True
    numbers = sum(p.numel() for p in build(name, args.state, batches).parameters())
    if name == "decoder":
        numbers = sum(p.numel() for p in Captioner(frozen=True).trained().parameters())
    team = Team(args.workers, numbers)
    others = [mp.get_context("fork").Process(
        target=work, args=(rank, name, args, batches, team, deadline, wanted), daemon=True)
        for rank in range(1, args.workers)]
    for p in others:
        p.start()
    work(0, name, args, batches, team, deadline, wanted)
    for p in others:
        p.join()
    return read(args.state, name)["done"]


def main():
    parser = argparse.ArgumentParser(description="Trains the tiny models.")
    parser.add_argument("stages", nargs="*", metavar="STAGE",
                        help=f"of {', '.join(STAGES)}; default: all")
    parser.add_argument("--sprites",
                        help="folder of CODE.png files; default: fetched with npm into STATE")
    parser.add_argument("--state", default="build/train",
                        help="where the training is kept (%(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="stop after this time; the next run goes on")
    parser.add_argument("--workers", type=int, default=SHARDS, choices=(1, SHARDS))
    parser.add_argument("--scale", type=float, default=1,
                        help="a fraction of the pictures of every stage")
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cuda":
        args.workers = 1
        torch.set_default_device("cuda")
    torch.set_num_threads(1)
    os.makedirs(args.state, exist_ok=True)
    batches = Batches(World(find_sprites(args.sprites, args.state)))
    wanted = {"stop": False}
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: wanted.update(stop=True))
    deadline = time.time() + 60 * args.minutes
    for name in args.stages or STAGES:
        if not run_stage(name, args, batches, deadline, wanted):
            break


if __name__ == "__main__":
    main()
