"""A quick look at a model in training, on a few held-out scenes (evaluate.py is the measure)."""

import numpy as np
import torch

from concepts import CONCEPTS, parse
from layouts import N, Captioner, Clip
from tokens import TEMPLATES

SCENES, SEED = 96, 77


def scenes_and_pixels(batches, n):
    """Cached: the same scenes every time."""
    if n not in CACHE:
        rng = np.random.default_rng([SEED, n])
        scenes = [batches.world.scene(rng, n, test=n > 1) for _ in range(SCENES)]
        CACHE[n] = scenes, batches.labelled(scenes, [batches.world.example(rng, s) for s in scenes])
    return CACHE[n]


CACHE = {}


@torch.no_grad()
def quick(model, batches, device):
    """One line: 1, 2 and 3 things."""
    with torch.autocast(device, torch.bfloat16):
        if isinstance(model, Captioner):
            return captions(model, batches)
        if isinstance(model, Clip):
            return zero_shot(model, batches)
        return patches(model, batches)


def patches(model, batches):
    """Per thing: the concept that has most of the log-probability summed over its patches."""
    line = []
    for n in (1, 2, 3):
        scenes, batch = scenes_and_pixels(batches, n)
        thing, rank, count, *_ = model.heads.split(model.tokens(batch["pixels"]))
        scores, right = thing.log_softmax(2), 0
        for i, scene in enumerate(scenes):
            for c in {t[0] for t in scene.things}:
                right += int(scores[i, batch["thing"][i] == c].sum(0)[:N].argmax() == c)
        known = batch["rank"] >= 0
        ranks = (rank.argmax(2) == batch["rank"])[known].float().mean()
        line.append(f"{n}: {right / (n * SCENES):.3f} rank {ranks:.2f}")
    return ", ".join(line)


def captions(model, batches):
    line = []
    for n in (1, 2, 3):
        scenes, batch = scenes_and_pixels(batches, n)
        named = exact = 0
        for scene, ids in zip(scenes, model.captions(batch["pixels"]).tolist()):
            text = batches.text(ids)
            named += {t[0] for t in scene.things} == {c for c, _ in parse(text)[0]}
            exact += text == scene.caption()
        line.append(f"{n}: just these named {named / SCENES:.3f} exact {exact / SCENES:.3f}")
    return ", ".join(line)


def zero_shot(model, batches):
    scenes, batch = scenes_and_pixels(batches, 1)
    names = [TEMPLATES[0].format(c) for c in CONCEPTS]
    ids = batches.bpe(names, padding=True, return_tensors="pt").input_ids
    image = model.image_vectors(model.hidden(batch["pixels"]))
    best = (image @ model.text_vectors(ids.to(image.device)).T).argmax(1).tolist()
    return f"top-1 {np.mean([b == s.things[0][0] for b, s in zip(best, scenes)]):.3f}"
