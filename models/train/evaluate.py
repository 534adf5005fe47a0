"""Measures the exported models as a user gets them: f16 files, transformers' own processors and
generate(), scenes drawn as files of ordinary sizes. Seeds of its own, and every scene of two or
three things has a pair of concepts that training never showed together.

    python models/train/evaluate.py [--sprites FOLDER] [--scenes 500] [--write]

--write puts the tables into the two model cards.

    named      every thing is named              false      mentions of what is not there, of all
    clean      ... and nothing else is           order      relation and order right, if clean
    exact      the caption, word for word        background the place or colour right

Easy to get wrong
- A repeated name is a false mention ("a dog and a dog" for one dog), or babbling would be free.
- Equal things ("two dogs") contain no pair and are easy to name: they have a table of their own.
"""

import argparse
import io
import os
import re

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (AutoProcessor, BlipForConditionalGeneration, CLIPModel)

from concepts import CONCEPTS, parse
from sprites import find_sprites
from tokens import TEMPLATES
from world import World, tilt

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SEED, BATCH = 2024, 50


# --- scenes as files ----------------------------------------------------------------------------

def file_size(scene, area=512 * 512):
    return round((area * scene.aspect) ** .5), round((area / scene.aspect) ** .5)


def plain(world, rng, scene):
    return Image.fromarray(world.draw(rng, scene, *file_size(scene))[0])


def of_size(w, h):
    return lambda world, rng, scene: Image.fromarray(world.draw(rng, scene, w, h)[0])


def jpeg70(world, rng, scene):
    file = io.BytesIO()
    plain(world, rng, scene).save(file, "JPEG", quality=70)
    return Image.open(file).convert("RGB")


def tilted(world, rng, scene):
    return tilt(plain(world, rng, scene), 5 * rng.choice([-1, 1]))


def darkened(world, rng, scene):
    return plain(world, rng, scene).point(lambda v: v * .75)


ROBUST = {"1024x768": of_size(1024, 768), "200x150": of_size(200, 150), "JPEG quality 70": jpeg70,
          "turned by 5 degrees": tilted, "darkened to 75 %": darkened}


def draw_all(world, scenes, draw=plain):
    """The randomness of drawing (turns, mirrors, shades) comes from the scene's number."""
    return (draw(world, np.random.default_rng([SEED, i]), s) for i, s in enumerate(scenes))


# --- captions -----------------------------------------------------------------------------------

class Captions:
    def __init__(self, folder):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def __call__(self, pictures):
        """Captions, and the mean probability of each one's words."""
        texts, sure = [], []
        for group in grouped(pictures):
            pixels = self.processor(images=group, return_tensors="pt").pixel_values
            out = self.model.generate(pixel_values=pixels, output_scores=True,
                                      return_dict_in_generate=True)
            texts += self.processor.batch_decode(out.sequences, skip_special_tokens=True)
            best = torch.stack(out.scores, 1).softmax(2).amax(2)
            written = (out.sequences[:, -best.shape[1]:] != 0).float()
            sure += ((best * written).sum(1) / written.sum(1)).tolist()
        return texts, sure


def confidence(captions, scenes_sure, folder):
    """How far the mean word probability tells photographs from scenes."""
    files = [os.path.join(folder, f) for f in sorted(os.listdir(folder))]
    texts, sure = captions(Image.open(f).convert("RGB") for f in files)
    for f, text, s in zip(files, texts, sure):
        print(f"{s:.3f} {os.path.basename(f)}: {text}")
    lines = [f"Mean word probability of {len(scenes_sure)} scenes and {len(files)} photographs:\n"]
    for limit in (.99, .97, .95, .9, .8):
        scenes, photos = (sum(s < limit for s in x) / len(x) for x in (scenes_sure, sure))
        lines.append(f"below {limit}: {100 * scenes:.1f} % of the scenes, "
                     f"{100 * photos:.1f} % of the photographs")
    return "\n- ".join(lines)


def grouped(items, n=BATCH):
    group = []
    for item in items:
        group.append(item)
        if len(group) == n:
            yield group
            group = []
    if group:
        yield group


def score(scenes, texts):
    """Shares, as the top of this file names them."""
    rows = [score_one(s, t) for s, t in zip(scenes, texts)]
    total = {k: sum(r[k] for r in rows) for k in rows[0]}
    n = len(rows)
    return {"named": total["named"] / n, "clean": total["clean"] / n,
            "recall": total["found"] / total["things"], "false": total["wrong"] / total["mentions"],
            "background": total["background"] / n, "exact": total["exact"] / n,
            "order": total["ordered"] / max(1, total["clean"]),
            "count": total["counted"] / max(1, total["found"])}


def score_one(scene, text):
    groups, relation = scene.groups()
    said, said_relation, background = parse(text)
    true, names = dict(groups), [c for c, _ in said]
    found = [c for c in true if c in names]
    wrong = sum(c not in true or c in names[:i] for i, c in enumerate(names))
    named = len(found) == len(true)
    clean = named and not wrong
    return {"named": named, "clean": clean, "found": len(found), "things": len(true),
            "wrong": wrong, "mentions": len(names),
            "background": background == scene.background, "exact": text == scene.caption(),
            "ordered": clean and names == list(true) and said_relation == relation,
            "counted": sum(dict(said)[c] == true[c] for c in found)}


# --- zero-shot classification -------------------------------------------------------------------

class ZeroShot:
    def __init__(self, folder):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def of_pictures(self, pictures):
        """[n, WIDTH], of length 1."""
        vectors = [self.model.get_image_features(**self.processor(images=g, return_tensors="pt"))
                   for g in grouped(pictures)]
        return F.normalize(torch.cat([v.pooler_output for v in vectors]), dim=-1)

    @torch.no_grad()
    def of_sentences(self, sentences):
        vectors = [self.model.get_text_features(
            **self.processor(text=g, padding=True, return_tensors="pt"))
                   for g in grouped(sentences)]
        return F.normalize(torch.cat([v.pooler_output for v in vectors]), dim=-1)

    def top(self, pictures, scenes):
        """Shares of single things that are first, and among the first five, of all concepts."""
        names = self.of_sentences([TEMPLATES[0].format(c) for c in CONCEPTS])
        places = (self.of_pictures(pictures) @ names.T).argsort(1, descending=True)
        truth = torch.tensor([[s.things[0][0]] for s in scenes])
        return {f"top-{k}": (places[:, :k] == truth).any(1).float().mean().item() for k in (1, 5)}

    def choices(self, world, rng, scenes):
        """Share of scenes whose own caption beats two of other scenes of the same kind."""
        cosines = self.of_pictures(draw_all(world, scenes)) @ self.of_sentences(
            [s.caption() for s in scenes]).T
        n, right = len(scenes), 0
        for i in range(n):
            others = cosines[i, (i + rng.integers(1, n, size=2)) % n]
            right += int(cosines[i, i] > others.max())
        return right / n


# --- the tables ---------------------------------------------------------------------------------

def table(rows, columns):
    """rows: {name: {column: share}}; a share that is missing or None stays empty."""
    lines = [["scenes", *columns], ["---"] * (len(columns) + 1)]
    for name, row in rows.items():
        shares = [row.get(c) for c in columns]
        lines.append([name, *("" if s is None else f"{100 * s:.1f}" for s in shares)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def make_scenes(world, count, aspect=None):
    """{row: scenes}; two and three things are different here, equal ones have their own row."""
    kinds = {"one thing": (1, 1), "two things": (2, 1), "three things": (3, 1),
             "two or three equal": (0, 0)}
    scenes = {}
    for k, (name, (n, equal)) in enumerate(kinds.items()):
        rng = np.random.default_rng([SEED, k])
        def one():
            if n:
                return world.scene(rng, n, equal, n > 1, aspect)
            m = int(rng.integers(2, 4))
            return world.scene(rng, m, int(rng.integers(2, m + 1)), True, aspect)
        scenes[name] = [one() for _ in range(count)]
    return scenes


def evaluate_captions(world, scenes, wide, folder, hard, photos):
    captions = Captions(folder)
    rows, robust, sure = {}, {}, []
    for name, group in scenes.items():
        texts, probabilities = captions(draw_all(world, group))
        rows[name] = score(group, texts)
        sure += probabilities
    for name in ("one thing", "two things", "three things"):
        for how, draw in ROBUST.items():
            group = (wide if "x" in how else scenes)[name][:hard]
            robust[f"{name}, {how}"] = score(group, captions(draw_all(world, group, draw))[0])
    for name in rows:
        if name != "two or three equal":
            rows[name]["count"] = None
        else:
            rows[name]["order"] = None
    columns = ["named", "clean", "recall", "false", "background", "exact", "order", "count"]
    n = len(scenes["one thing"])
    return (f"""Per cent, {n} scenes a row. named: every thing is named; clean: and nothing else is;
recall: per thing; false: false mentions per mention; order: relation and order right where clean;
count: the number right where the thing is named.

""" + table(rows, columns) + f"\n\nHarder pictures of such scenes, {hard} a row:\n\n"
            + table(robust, ["named", "clean", "false", "background"])
            + (photos and "\n\n" + confidence(captions, sure, photos)))


def evaluate_zero_shot(world, scenes, wide, folder, hard, _):
    model = ZeroShot(folder)
    one = scenes["one thing"]
    rows = {}
    for how, draw in {"as drawn": plain, **ROBUST}.items():
        group = wide["one thing"] if "x" in how else one
        group = group if draw is plain else group[:hard]
        rows["one thing, " + how] = model.top(draw_all(world, group, draw), group)
    for name in ("one thing", "two things", "three things"):
        rng = np.random.default_rng(SEED)
        share = model.choices(world, rng, scenes[name])
        rows[name + ": own caption of three"] = {"top-1": share}
    n = len(one)
    return (f"""Per cent, {n} scenes a row ({hard} of the harder ones); single things over all
{len(CONCEPTS)} concepts with the sentence "{TEMPLATES[0]}".

""" + table(rows, ["top-1", "top-5"]))


def write_card(folder, text):
    """Replaces the card's section of that title."""
    path = os.path.join(folder, "README.md")
    card = open(path, encoding="utf-8").read()
    card = re.sub(r"(## Measured quality\n).*?(?=\n## |\Z)",
                  lambda m: m.group(1) + "\n" + text + "\n", card, flags=re.S)
    with open(path, "w", encoding="utf-8") as f:
        f.write(card)


def main():
    parser = argparse.ArgumentParser(
        description="Measures the tiny models on scenes they cannot have seen.")
    parser.add_argument("--sprites",
                        help="folder of CODE.png files; default: fetched with npm into STATE")
    parser.add_argument("--state", default="build/train")
    parser.add_argument("--models", default=HERE,
                        help="where tiny-caption and tiny-clip are (%(default)s)")
    parser.add_argument("--scenes", type=int, default=500, help="per row (%(default)s)")
    parser.add_argument("--robust", type=int, help="per row of the harder pictures (as --scenes)")
    parser.add_argument("--photos", default="", help="a folder of photographs, for the confidence")
    parser.add_argument("--write", action="store_true", help="put the tables into the model cards")
    args = parser.parse_args()
    torch.set_num_threads(2)
    world = World(find_sprites(args.sprites, args.state))
    scenes, wide = make_scenes(world, args.scenes), make_scenes(world, args.scenes, 4 / 3)
    hard = args.robust or args.scenes
    for name, evaluate in (("tiny-caption", evaluate_captions), ("tiny-clip", evaluate_zero_shot)):
        folder = os.path.join(args.models, name)
        if os.path.isdir(folder):
            text = evaluate(world, scenes, wide, folder, hard, args.photos)
            print(f"\n{name}\n\n{text}", flush=True)
            if args.write:
                write_card(folder, text)


if __name__ == "__main__":
    main()
