"""Batches: scenes of the world as the tensors that layouts.py's losses take.

    pixels     [B, 3, 64, 64]   as the image processors give them
    thing      [B, 64]          concept of each patch, N for background, -1 where it is mixed
    rank       [B, 64]          the patch's thing is this mention of the caption; -1: none
    count      [B, 64]          how many of its kind there are, less one; -1: none
    things     [B, N]           which concepts are in the picture
    background [B]
    ids        [B, n]           caption for the captioner: [DEC] ... [SEP] [PAD]
    sentences  [N + B, n]       for CLIP: every concept's name in one template, then the captions
"""

import tempfile

import numpy as np
import torch
from transformers import BertTokenizer, CLIPTokenizer

from concepts import CONCEPTS, article
from layouts import MEAN, N, STD
from tokens import DEC, TEMPLATES, write_bpe, write_wordpiece

SOLID, EMPTY = .20, .05              # a patch is a thing's from this cover on, or background below


def tokenizers():
    """The real ones, from the very files that are shipped."""
    with tempfile.TemporaryDirectory() as folder:
        write_wordpiece(folder + "/a")
        write_bpe(folder + "/b")
        return (BertTokenizer.from_pretrained(folder + "/a"),
                CLIPTokenizer.from_pretrained(folder + "/b"))


def to_pixels(pictures):
    """uint8 [B, h, w, 3] -> float32 [B, 3, h, w]"""
    x = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2), np.float32)
    return torch.as_tensor((x / 255 - MEAN) / STD)


class Batches:
    def __init__(self, world):
        self.world = world
        self.wordpiece, self.bpe = tokenizers()
        self.named = [f"{article(c)} {c}" for c in CONCEPTS]

    def examples(self, rng, n, mosaics):
        """n training scenes, this share of them mosaics: (scenes, tensors without texts)."""
        world = self.world
        scenes = [world.mosaic(rng) if rng.random() < mosaics else world.training_scene(rng)
                  for _ in range(n)]
        return scenes, self.labelled(scenes, [world.example(rng, s) for s in scenes])

    @staticmethod
    def labelled(scenes, drawn):
        """scenes, and for each (picture, cover [things, GRID, GRID])."""
        thing = np.full((len(scenes), 64), N)
        rank, count = np.full((2, len(scenes), 64), -1)
        things = np.zeros((len(scenes), N), np.float32)
        for i, (scene, (_, cover)) in enumerate(zip(scenes, drawn)):
            cover = cover.reshape(len(cover), 64)
            concepts = np.array([t[0] for t in scene.things])
            most = concepts[cover.argmax(0)]
            solid, empty = cover.max(0) > SOLID, cover.max(0) < EMPTY
            thing[i] = np.where(solid, most, np.where(empty, N, -1))
            things[i, concepts] = 1
            if len(concepts) <= 3:
                for r, (concept, n) in enumerate(scene.groups()[0]):
                    rank[i, solid & (most == concept)] = r
                    count[i, solid & (most == concept)] = n - 1
        return {"pixels": to_pixels([d[0] for d in drawn]), "thing": torch.as_tensor(thing),
                "rank": torch.as_tensor(rank), "count": torch.as_tensor(count),
                "things": torch.as_tensor(things),
                "background": torch.as_tensor([s.background for s in scenes])}

    def for_tower(self, rng, n, mosaics):
        return self.examples(rng, n, mosaics)[1]

    def for_captioner(self, rng, n, mosaics):
        scenes, batch = self.examples(rng, n, 0)
        captions = [s.caption() for s in scenes]
        ids = self.wordpiece(captions, padding=True, return_tensors="pt").input_ids
        ids[:, 0] = DEC
        return batch | {"ids": ids.to(batch["pixels"].device)}

    def for_clip(self, rng, n, mosaics):
        """More single things than elsewhere."""
        world = self.world
        scenes = [world.training_scene(rng, (.65, .2, .15)) for _ in range(n)]
        batch = self.labelled(scenes, [world.example(rng, s) for s in scenes])
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        names = self.named if template == "a photo of {}." else CONCEPTS
        sentences = [template.format(c) for c in names] + [s.caption() for s in scenes]
        ids = self.bpe(sentences, padding=True, return_tensors="pt").input_ids
        return batch | {"sentences": ids.to(batch["pixels"].device)}

    def text(self, ids):
        """The captioner's ids as a caption."""
        return self.wordpiece.decode(ids, skip_special_tokens=True)
