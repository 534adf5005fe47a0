"""What must hold in the world before a model is trained on it: a minute, no training.

    python models/train/check.py [--sprites FOLDER]

Prints each property with the number of cases, and fails at the first that does not hold.
"""

import argparse
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from batches import Batches
from concepts import BACKGROUNDS, CONCEPTS, PHRASES, held_out, parse
from layouts import TEXT_LENGTH
from sprites import find_sprites
from world import World


def pairs_of(scene):
    concepts = {t[0] for t in scene.things}
    return [held_out(a, b) for a in concepts for b in concepts if a < b]


def training_never_has_a_held_out_pair(world, batches, rng):
    scenes = [world.training_scene(rng) for _ in range(5000)]
    scenes += [world.mosaic(rng) for _ in range(3000)]
    assert not any(any(pairs_of(s)) for s in scenes)
    return len(scenes)


def every_test_scene_has_one(world, batches, rng):
    scenes = [world.scene(rng, n, test=True) for n in (2, 3) for _ in range(500)]
    assert all(any(pairs_of(s)) for s in scenes)
    return len(scenes)


def a_caption_says_its_scene(world, batches, rng):
    for i in range(3000):
        scene = world.training_scene(rng)
        said, relation, background = parse(scene.caption())
        assert (said, relation) == scene.groups(), scene.caption()
        assert background == scene.background, scene.caption()
    return 3000


def every_phrase_survives_the_tokenizer(world, batches, rng):
    for text in PHRASES:
        text += " " + BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
        ids = batches.wordpiece(text).input_ids
        assert batches.text(ids) == text and len(ids) <= TEXT_LENGTH, text
    return len(PHRASES)


def every_word_is_one_symbol_of_clip(world, batches, rng):
    for text in PHRASES:
        assert len(batches.bpe(text).input_ids) == len(text.split()) + 2, text
    return len(PHRASES)


def any_text_has_symbols(world, batches, rng):
    """No text becomes CLIP's unknown symbol, which would end it; nor ASCII the captioner's."""
    end = batches.bpe.eos_token_id
    for i in range(2000):
        text = "".join(chr(c) for c in rng.integers(33, 0x3000, size=3))
        assert end not in batches.bpe(text).input_ids[1:-1], text
        text = "".join(chr(c) for c in rng.integers(33, 127, size=8))
        assert 1 not in batches.wordpiece(text).input_ids, text
    return 4000


def labels_name_what_is_there(world, batches, rng):
    scenes, batch = batches.examples(rng, 400, .5)
    for scene, thing in zip(scenes, batch["thing"].tolist()):
        there = {t[0] for t in scene.things}
        assert {t for t in thing if 0 <= t < len(CONCEPTS)} <= there
    return len(scenes)


def main():
    parser = argparse.ArgumentParser(description="Checks the world of the tiny models.")
    parser.add_argument("--sprites")
    parser.add_argument("--state", default="build/train")
    args = parser.parse_args()
    world = World(find_sprites(args.sprites, args.state))
    batches, rng = Batches(world), np.random.default_rng(5)
    for check in (training_never_has_a_held_out_pair, every_test_scene_has_one,
                  a_caption_says_its_scene, every_phrase_survives_the_tokenizer,
                  every_word_is_one_symbol_of_clip, any_text_has_symbols,
                  labels_name_what_is_there):
        cases = check(world, batches, rng)
        print(f"{check.__name__.replace('_', ' ')}: {cases} cases")


if __name__ == "__main__":
    main()
