"""Writes the trained models as published checkpoints look: models/tiny-caption, models/tiny-clip,
f16, with tokenizer, processor, configuration and card. evaluate.py --write adds the figures.

    python models/train/export.py [--state FOLDER] [--to FOLDER]

Easy to get wrong
- preprocessor_config.json squashes the whole picture to a square; CLIP's usual crop loses sides.
- transformers shares the captioner's output matrix with its word embeddings: the file has it once.
"""

import argparse
import os
import textwrap

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import GenerationConfig

from concepts import BACKGROUNDS, CONCEPTS
from layouts import MEAN, STD, Captioner, Clip
from sprites import PACKAGE
from tokens import DEC, PAD, SEP, TEMPLATES, write_bpe, write_json, write_wordpiece
from train import read
from world import SIZE

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

CARD = """---
license: apache-2.0
library_name: transformers
tags: [{tag}]
---

# {title}

{what}
Trained from nothing, on scenes composed of emoji pictures, by `models/train/` of this
repository; the smallest complete model of its kind that one can read, run and train again.

It knows scenes of one to three of the things below on a simple background, and nothing else. **It
does not understand photographs**: there it gives an answer, and the answer means nothing.

## Data and licence

The pictures are composed by `models/train/world.py` from the Noto emoji graphics (Apache License
2.0, Google), as the npm package {package} has them (64-pixel folder).
No photograph and no text of others was used. The weights are under the Apache License 2.0 too.

## Size and training cost

{size}

## Use

{use}

The picture is squashed to {side} x {side} pixels, whatever its shape, without a crop.

## What it knows

{n} things:
{concepts}.

Backgrounds:
{backgrounds}.

## Measured quality

Not measured yet: `models/train/evaluate.py --write`.

## Limits

- Emoji-like pictures only, at most three things, each at least a quarter of the picture's side.
- Every thing has one drawing (turned by up to 15 degrees, mirrored, darker or lighter).
- Its sentences have one grammar: "a dog", "two dogs", "a dog to the left of a cat", "a dog above a
  cat", "a dog, a cat and a bus", then the background.
- Things of one shape and colour are mixed up most.
{limits}"""


def wrapped(words):
    return textwrap.fill(", ".join(words), 96)


def processor(folder, kind, model):
    write_json(folder, "preprocessor_config.json", {
        "image_processor_type": kind, "processor_class": model, "do_convert_rgb": True,
        "do_resize": True, "size": {"height": SIZE, "width": SIZE}, "resample": 3,
        "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [MEAN] * 3, "image_std": [STD] * 3})


def cost(state, stages):
    """One sentence a stage, from what the training wrote down."""
    lines = []
    for name in stages:
        saved = read(state, name)
        if saved:
            pictures, minutes = saved["pictures"], saved["cpu"] / 60
            lines.append(f"- {name}: {pictures:,} pictures, about {minutes:.0f} CPU minutes"
                         + ("" if saved["done"] else " (not finished)"))
    return "\n".join(lines)


def card(folder, model, state, stages, **words):
    n = sum(p.numel() for p in model.parameters())
    with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as f:
        f.write(CARD.format(
            package=PACKAGE, side=SIZE, n=len(CONCEPTS), concepts=wrapped(CONCEPTS),
            backgrounds=wrapped(BACKGROUNDS),
            size=f"{n:,} parameters in float16. Training:\n\n{cost(state, stages)}", **words))


def save(model, folder):
    """Half precision, as the figures were measured."""
    os.makedirs(folder, exist_ok=True)
    model.half().save_pretrained(folder)
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)


def export_captioner(state, folder):
    model = Captioner()
    model.load_state_dict(read(state, "caption")["model"])
    model.blip.generation_config = GenerationConfig(
        bos_token_id=DEC, eos_token_id=SEP, pad_token_id=PAD)
    save(model.blip, folder)
    write_wordpiece(folder)
    processor(folder, "BlipImageProcessor", "BlipProcessor")
    card(folder, model.blip, state, ["tower", "decoder", "caption"],
         tag="image-to-text", title="tiny-caption",
         what="A caption for a picture: transformers' BlipForConditionalGeneration, very small.",
         use="`mm caption -m models/tiny-caption picture.png`, or transformers' BlipProcessor and\n"
             "BlipForConditionalGeneration.",
         limits="- It answers no questions, and was not trained to go on with a given text.\n")


def export_clip(state, folder):
    model = Clip()
    model.load_state_dict(read(state, "clip")["model"])
    save(model.clip, folder)
    write_bpe(folder)
    processor(folder, "CLIPImageProcessor", "CLIPProcessor")
    with open(os.path.join(folder, "concepts.txt"), "w", encoding="utf-8") as f:
        f.writelines(c + "\n" for c in CONCEPTS)
    templates = ", ".join(f'"{t}"' for t in TEMPLATES)
    card(folder, model.clip, state, ["tower", "clip"],
         tag="zero-shot-image-classification", title="tiny-clip",
         what="Vectors of pictures and sentences, to compare: transformers' CLIPModel, very small.",
         use="`mm classify -m models/tiny-clip --labels dog,cat picture.png`, or transformers'\n"
             "CLIPProcessor and CLIPModel. `concepts.txt` has the things it knows. Trained with\n"
             f"{templates},\nand with the captions of scenes.",
         limits="- Words it never met have vectors without meaning.\n")


def main():
    parser = argparse.ArgumentParser(description="Writes the checkpoints.")
    parser.add_argument("--state", default="build/train")
    parser.add_argument("--to", default=HERE, help="the folder of both (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, stage, write in (("tiny-caption", "caption", export_captioner),
                               ("tiny-clip", "clip", export_clip)):
        if read(args.state, stage):
            write(args.state, os.path.join(args.to, name))
            print(f"wrote {os.path.join(args.to, name)}")


if __name__ == "__main__":
    main()
