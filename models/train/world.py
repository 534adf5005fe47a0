"""The world of the tiny models: scenes of one to three emoji pictures on a simple background.

A Scene is a description in fractions of the picture; draw() makes pixels of any size from it, so
the same scene can be a 64 x 64 training picture or a 1024 x 768 file for the real processor.

    sprites [64, 64] RGBA --turn, scale--> on a background --light, noise, JPEG--> uint8 [h, w, 3]

Besides the picture a scene has its caption and, for training only, what each 8 x 8 patch shows.

Easy to get wrong
- The models squash the whole picture to a square. A thing in a 4:3 picture is therefore narrow in
  the square: Scene.aspect carries that, and a thing's side is a fraction of the geometric mean of
  the sides.
- Left of / above must be true in the square and in the picture alike: hence the margin CLEAR.
- Pairs that are held out must not meet anywhere in training, mosaics included.
- Sprites are scaled with premultiplied alpha (PIL's mode RGBa), or dark seams appear.
"""

import io
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from concepts import (ABOVE, BACKGROUNDS, COLOURS, CONCEPTS, LANDSCAPES, LEFT_OF, SPRITES, caption,
                      held_out, mentions)

SIZE, GRID = 64, 8                      # picture side and patches per side, as the models have them
ANGLES = range(-15, 16, 3)              # sprites are turned by one of these
ASPECTS, ASPECT_ODDS = (1.0, 4 / 3, 3 / 4, 3 / 2, 16 / 9), (.45, .25, .15, .08, .07)
SIDES = {1: (.38, .85), 2: (.34, .52), 3: (.30, .42)}
CLEAR = 1.35                            # |dx| and |dy| of a pair differ at least by this factor
APART = .12                             # of three, each is this much further to the right
GROUND = list(COLOURS.values())
BANDS = list(LANDSCAPES.values())


@dataclass
class Scene:
    aspect: float                       # width / height
    background: int
    things: list                        # (concept, x, y, side): centre and side in fractions

    def boxes(self):
        """[n, 4]: x0, y0, x1, y1 in fractions."""
        k = np.sqrt(self.aspect)
        return np.array([(x - s / k / 2, y - s * k / 2, x + s / k / 2, y + s * k / 2)
                         for _, x, y, s in self.things])

    def groups(self):
        """What the caption mentions, in its order, and the relation that joins it."""
        if len(self.things) == 2 and self.things[0][0] != self.things[1][0]:
            a, b = self.things
            beside = abs(a[1] - b[1]) > abs(a[2] - b[2])
            first, second = sorted((a, b), key=lambda t: t[1] if beside else t[2])
            return [(first[0], 1), (second[0], 1)], LEFT_OF if beside else ABOVE
        ordered = sorted(self.things, key=lambda t: t[1])
        return mentions([t[0] for t in ordered]), ", "

    def caption(self):
        groups, relation = self.groups()
        return caption(groups, self.background, relation)

    def is_clear(self):
        """Nothing hides another, and the order of the caption can be seen."""
        boxes = self.boxes()
        for i in range(len(boxes)):
            for j in range(i):
                a, b = boxes[i], boxes[j]
                w, h = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
                area = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
                if w > 0 and h > 0 and w * h > .08 * area:
                    return False
        xy = np.array([t[1:3] for t in self.things])
        if len(xy) == 2:
            dx, dy = abs(xy[0] - xy[1])
            return max(dx, dy) >= CLEAR * min(dx, dy)
        return len(xy) < 3 or np.diff(np.sort(xy[:, 0])).min() > APART


class World:
    def __init__(self, folder):
        """folder: where CODE.png of every sprite lies, 64 x 64 RGBA."""
        self.sprites = [self.turned(os.path.join(folder, code + ".png")) for code in SPRITES]
        n = len(CONCEPTS)
        self.together = np.array([[not held_out(a, b) for b in range(n)] for a in range(n)])
        upright = [turns[len(turns) // 2] for turns in self.sprites]
        self.visible = np.array([[self.stands_out(s, b) for b in range(len(BACKGROUNDS))]
                                 for s in upright])

    @staticmethod
    def turned(path):
        """A sprite at every angle of ANGLES; turned ones are larger by their corners."""
        image = Image.open(path).convert("RGBA")
        return [image.rotate(a, Image.BICUBIC, expand=True).convert("RGBa") for a in ANGLES]

    @staticmethod
    def stands_out(sprite, background):
        """White on white is no fair question: enough of a thing must differ from what is behind."""
        pixels = np.asarray(Image.frombytes("RGBA", sprite.size, sprite.tobytes()), np.float32)
        colours = pixels[pixels[..., 3] > 200][:, :3]
        k = background - len(GROUND)
        behind = [GROUND[background]] if k < 0 else BANDS[k]
        return all((np.abs(colours - np.float32(b)).sum(1) > 110).mean() > .4 for b in behind)

    # --- scenes ---------------------------------------------------------------------------------

    def concepts_for(self, rng, n, background, must_be_held_out=False):
        """n different concepts that stand out; no held-out pair, or at least one if asked for."""
        while True:
            allowed = self.visible[:, background].copy()
            chosen = []
            for _ in range(n):
                left = np.flatnonzero(allowed)
                if not len(left):
                    break
                chosen.append(int(rng.choice(left)))
                allowed[chosen[-1]] = False
                if not must_be_held_out:
                    allowed &= self.together[chosen[-1]]
            pairs = [held_out(a, b) for a in chosen for b in chosen]
            if len(chosen) == n and (not must_be_held_out or any(pairs)):
                return chosen

    def arrange(self, rng, concepts, background, aspect):
        """Places for the things, by trying; None if they do not fit (a caller tries again)."""
        n, k = len(concepts), np.sqrt(aspect)
        for _ in range(60):
            things = []
            for c in concepts:
                side = rng.uniform(*SIDES[n])
                w, h = side / k / 2 * .92, side * k / 2 * .92        # may be cut by 4 % at an edge
                things.append((c, rng.uniform(w, 1 - w) if w < .5 else .5,
                               rng.uniform(h, 1 - h) if h < .5 else .5, side))
            scene = Scene(aspect, background, things)
            if scene.is_clear():
                return scene
        return None

    def scene(self, rng, n, equal=1, test=False, aspect=None):
        """n things, `equal` of them the same concept. test: with a held-out pair (if n > equal)."""
        while True:
            background = int(rng.integers(len(BACKGROUNDS)))
            chosen = self.concepts_for(rng, n - equal + 1, background, test and n > equal)
            concepts = chosen + chosen[:1] * (equal - 1)
            rng.shuffle(concepts)
            scene = self.arrange(rng, [int(c) for c in concepts], background,
                                 aspect or float(rng.choice(ASPECTS, p=ASPECT_ODDS)))
            if scene:
                return scene

    def training_scene(self, rng, odds=(.30, .35, .35)):
        """One to three things; of several, a quarter has equal ones."""
        n = 1 + int(rng.choice(3, p=odds))
        equal = int(rng.integers(2, n + 1)) if n > 1 and rng.random() < .27 else 1
        return self.scene(rng, n, equal)

    def mosaic(self, rng):
        """1, 4 or 9 cells with a thing in nearly each: many labels for the price of one picture."""
        g = 1 + int(rng.choice(3, p=(.15, .55, .30)))
        background = int(rng.integers(len(BACKGROUNDS)))
        cells = [c for c in range(g * g) if g == 1 or rng.random() < .92]
        concepts = self.concepts_for(rng, len(cells), background)
        things = []
        for cell, c in zip(cells, concepts):
            side = rng.uniform(.45, .95) if g == 1 else rng.uniform(.72, 1.0) / g
            slack = max(0, 1 / g - side) + .1 / g
            x, y = ((v + .5) / g + rng.uniform(-.5, .5) * slack for v in (cell % g, cell // g))
            things.append((c, x, y, side))
        return Scene(float(rng.choice(ASPECTS, p=ASPECT_ODDS)), background, things)

    # --- pixels ---------------------------------------------------------------------------------

    def ground(self, rng, background, w, h):
        """[h, w, 3] float32: a colour, often with a gentle gradient, or two bands."""
        def shade(rgb):
            return np.clip(np.float32(rgb) * rng.uniform(.9, 1.1) + rng.uniform(-12, 12, 3), 0, 255)
        k = background - len(GROUND)
        if k >= 0:
            picture = np.empty((h, w, 3), np.float32)
            horizon = int(h * rng.uniform(.4, .7))
            picture[:horizon], picture[horizon:] = shade(BANDS[k][0]), shade(BANDS[k][1])
            return picture
        picture = np.broadcast_to(np.float32(shade(GROUND[background])), (h, w, 3))
        if rng.random() < .5:
            slope = rng.uniform(-.15, .15, 2)
            ramp = (1 + slope[0] * np.linspace(-1, 1, w)[None, :, None]
                    + slope[1] * np.linspace(-1, 1, h)[:, None, None])
            picture = picture * ramp.astype(np.float32)
        return np.array(picture, np.float32)

    def draw(self, rng, scene, w=SIZE, h=SIZE, turn=.7):
        """uint8 [h, w, 3] and float32 [n, GRID, GRID]: how much of each patch each thing covers.
        turn: the share of things that are turned; all may be mirrored."""
        picture = self.ground(rng, scene.background, w, h)
        covered = np.zeros((len(scene.things), GRID, GRID), np.float32)
        for i, (thing, box) in enumerate(zip(scene.things, scene.boxes())):
            turns = self.sprites[thing[0]]
            turned = rng.random() < turn
            sprite = turns[int(rng.integers(len(turns))) if turned else len(turns) // 2]
            grow = sprite.size[0] / 64 - 1              # the corners of a turned sprite
            x0, y0, x1, y1 = box + grow / 2 * np.array([box[0] - box[2], box[1] - box[3],
                                                        box[2] - box[0], box[3] - box[1]])
            sw, sh = max(1, round((x1 - x0) * w)), max(1, round((y1 - y0) * h))
            scaled = sprite.resize((sw, sh), Image.BICUBIC)
            rgba = np.frombuffer(scaled.tobytes(), np.uint8).reshape(sh, sw, 4).astype(np.float32)
            if rng.random() < .5:
                rgba = rgba[:, ::-1]
            left, top = round(x0 * w), round(y0 * h)
            l, t, r, b = max(0, left), max(0, top), min(w, left + sw), min(h, top + sh)
            rgba = rgba[t - top:b - top, l - left:r - left]
            alpha = rgba[..., 3:] / 255
            part = picture[t:b, l:r]
            part *= 1 - alpha
            part += rgba[..., :3] * np.float32(rng.uniform(.88, 1.1))
            covered[i] = self.cover(rgba[..., 3], l, t, w, h)
        return np.clip(picture, 0, 255).astype(np.uint8), covered

    @staticmethod
    def cover(alpha, left, top, w, h):
        """float32 [GRID, GRID]: mean alpha (0-1) in each patch, of a thing pasted at left, top."""
        mask = np.zeros((h, w), np.uint8)
        mask[top:top + alpha.shape[0], left:left + alpha.shape[1]] = alpha
        return np.asarray(Image.fromarray(mask).resize((GRID, GRID), Image.BOX)) / np.float32(255)

    def spoil(self, rng, pixels):
        """Light, noise and JPEG, each on a share of the pictures."""
        x = pixels.astype(np.float32) * np.float32(rng.uniform(.72, 1.1))
        if rng.random() < .15:
            x += rng.normal(0, rng.uniform(1, 6), x.shape).astype(np.float32)
        pixels = np.clip(x, 0, 255).astype(np.uint8)
        if rng.random() < .2:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(55, 96)))
            pixels = np.asarray(Image.open(file))
        return pixels

    def example(self, rng, scene):
        """A training picture uint8 [SIZE, SIZE, 3] and its patch cover. Most are drawn small at
        once; the rest as a file would come: drawn large, sometimes tilted, and shrunk."""
        if rng.random() < .78:
            pixels, covered = self.draw(rng, scene)
            return self.spoil(rng, pixels), covered
        side = rng.uniform(80, 200)
        w, h = round(side * np.sqrt(scene.aspect)), round(side / np.sqrt(scene.aspect))
        pixels, covered = self.draw(rng, scene, w, h)
        image = Image.fromarray(self.spoil(rng, pixels))
        if rng.random() < .4:
            image = tilt(image, rng.uniform(-6, 6))
        return np.asarray(image.resize((SIZE, SIZE), Image.BICUBIC)), covered


def tilt(image, degrees):
    """The whole picture turned a little; the corners show more of what was at the edge."""
    w, h = image.size
    wider = np.pad(np.asarray(image), ((h // 8,) * 2, (w // 8,) * 2, (0, 0)), "edge")
    turned = Image.fromarray(wider).rotate(degrees, Image.BILINEAR)
    return turned.crop((w // 8, h // 8, w // 8 + w, h // 8 + h))
