"""The few scenes of models/demo: 640 x 480 and 480 x 640 files that training cannot have seen.

    python models/train/demo.py [--sprites FOLDER]
"""

import argparse
import os

import numpy as np
from PIL import Image

from concepts import BACKGROUNDS, CONCEPTS
from sprites import find_sprites
from world import World

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCENES = {                                   # file: concepts, background, shape
    "one.png": (["castle"], "in a meadow", 4 / 3),
    "two.png": (["penguin", "umbrella"], "in the snow", 4 / 3),
    "three.png": (["dog", "piano", "slice of pizza"], "on a blue background", 4 / 3),
    "equal.png": (["rocket", "rocket"], "at night", 3 / 4),
}


def main():
    parser = argparse.ArgumentParser(description="Draws the demo scenes.")
    parser.add_argument("--sprites")
    parser.add_argument("--state", default="build/train")
    parser.add_argument("--to", default=os.path.join(HERE, "demo"))
    args = parser.parse_args()
    world, rng = World(find_sprites(args.sprites, args.state)), np.random.default_rng(3)
    os.makedirs(args.to, exist_ok=True)
    for name, (concepts, background, aspect) in SCENES.items():
        scene = None
        while not scene:
            scene = world.arrange(rng, [CONCEPTS.index(c) for c in concepts],
                                  BACKGROUNDS.index(background), aspect)
        size = (640, 480) if aspect > 1 else (480, 640)
        pixels, _ = world.draw(rng, scene, *size, turn=0)
        Image.fromarray(pixels).save(os.path.join(args.to, name), optimize=True)
        print(f"{name}: {scene.caption()}")


if __name__ == "__main__":
    main()
