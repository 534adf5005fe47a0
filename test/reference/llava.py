"""llava.py -- tiny checkpoints of LLaVA in the layouts that are published, and what comes of them.

    python llava.py DIR [--full PHOTO...] [--only NAME...] [--llava-code FOLDER]

Writes DIR/NAME/ and DIR/NAME.answers.* for each row of TINY; DIR/pictures must be there (tiny.py).
--full writes the widths of LLaVA-1.5-7B instead, with two language layers and all of the tower's,
asked about these photos (kept in DIR/pictures, as PNG), to be tested by `test/language DIR NAME...`.

  llava-hf      layouts of transformers: LlavaForConditionalGeneration runs them
  llava-first   the authors' own: their code is not part of any package, but it is short: CLIP's
                tower, one or more linears, LLaMA; here these three run one after the other, with
                the pictures padded as the authors' expand2square does. With --llava-code their
                code answers (published.py)

Ids: a token IMAGE stands for each row of the picture, as transformers' processor expands it.
"""
import argparse
import json
import os

import common                             # first: it keeps everything offline
import published
import torch
from language import BF16, F16, LLAMA, std
from models import MEAN, STD, Answers, vision_std
from PIL import Image
from transformers import (CLIPVisionConfig, CLIPVisionModel, GenerationConfig, LlamaConfig,
                          LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

IMAGE, NEW = 60, 32
TEXT = dict(LLAMA, num_key_value_heads=6)
VISION = dict(hidden_size=36, intermediate_size=44, num_hidden_layers=3, num_attention_heads=3,
              image_size=28, patch_size=7, hidden_act="quick_gelu", projection_dim=20)
TEXT_7B = dict(LLAMA, hidden_size=4096, intermediate_size=11008, num_attention_heads=32,
               num_key_value_heads=32, head_dim=128, vocab_size=32064, max_position_embeddings=4096)
VISION_L14 = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                  image_size=336, patch_size=14, hidden_act="quick_gelu", projection_dim=768)


class Sizes:
    """What the rows share: tiny numbers, or the published ones."""
    text, vision, pictures = TEXT, VISION, ("wide.png", "tall.png")
    code = None                              # a folder with the authors' code


def processing():
    size = Sizes.vision["image_size"]
    return {"crop_size": {"height": size, "width": size}, "do_center_crop": True, "do_convert_rgb": True,
            "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN,
            "image_std": STD, "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": size}}


def n_patches():
    return (Sizes.vision["image_size"] // Sizes.vision["patch_size"]) ** 2


def weight_std(name, p):
    if "projector" in name:                  # rows of the size of embedded tokens
        d = p.shape[-1]
        last = "linear_2" in name
        return (0.003, 0) if name.endswith("bias") else ((0.02 if last else 1) / d ** 0.5, 0)
    if "vision" in name:
        return vision_std(name, p)
    return std(name, p, False)


def hf_name(name, new):
    """The name in the file: as the hub's first conversions have it, or as transformers 4.52 wrote."""
    name = name.removeprefix("model.")
    if name.startswith("vision_tower.") and "vision_model" not in name:
        name = name.replace("vision_tower.", "vision_tower.vision_model.")
    if new:
        return name if name.startswith("lm_head") else "model." + name
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.")
    return "language_model." + name if name.startswith("lm_head") else name


def prompt(n_image, extra):
    return [1, 7, 23] + [IMAGE] * n_image + [13, 44, 9 + extra, 31, 5]


def open_pictures(out):
    for extra, name in enumerate(Sizes.pictures):
        yield extra, name, Image.open(os.path.join(out, "pictures", name)).convert("RGB")


def expand2square(img):
    side = max(img.size)
    square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in MEAN))
    square.paste(img, ((side - img.width) // 2, (side - img.height) // 2))
    return square


def pixels_of(img, processor):
    return processor(images=img, return_tensors="pt")["pixel_values"].float()


def round_to(model, dtype):
    """The weights become what the file will hold, in place: two models of this size are too many."""
    for p in model.parameters():
        p.data = p.data.to(dtype).float()


def record(answers, name, ids, made, skip):
    best = torch.topk(torch.stack([x[0] for x in made.logits]), 2)[0]
    answers.add(name, {"input_ids": torch.tensor(ids).int(), "logits": made.logits[0],
                       "greedy.ids": torch.cat([torch.tensor(ids), made.sequences[0][skip:]]).int(),
                       "greedy.margin": best[:, 0] - best[:, 1]}, image=name)


OPTIONS = GenerationConfig(max_new_tokens=NEW, pad_token_id=0, return_dict_in_generate=True, output_logits=True)


def hf(out, name, seed, dtype, new, layer, select, pad):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
              "image_token_index": IMAGE, "projector_hidden_act": "gelu", "vision_feature_layer": layer,
              "vision_feature_select_strategy": select, "text_config": {"model_type": "llama", **Sizes.text},
              "vision_config": {"model_type": "clip_vision_model", **Sizes.vision}}
    common.write_json(folder, "config.json", config)
    model = LlavaForConditionalGeneration(LlavaConfig(**json.loads(json.dumps(config)))).eval()
    common.draw(model, seed, weight_std)
    round_to(model, dtype)
    common.write_checkpoint(folder, {hf_name(k, new): v.to(dtype) for k, v in model.state_dict().items()}, dtype)
    kind = "LlavaImageProcessor" if pad else "CLIPImageProcessor"
    common.write_json(folder, "preprocessor_config.json",
                      {**processing(), "image_processor_type": kind, **({"do_pad": True} if pad else {})})
    processor = (LlavaImageProcessorPil if pad else CLIPImageProcessorPil).from_pretrained(folder)
    model.generation_config = GenerationConfig()
    answers = Answers(out, name)
    for extra, picture, img in open_pictures(out):
        pixels = pixels_of(img, processor)
        ids = prompt(n_patches() + (select == "full"), extra)
        made = model.generate(input_ids=torch.tensor([ids]), pixel_values=pixels, generation_config=OPTIONS)
        rows = model.get_image_features(pixel_values=pixels).pooler_output[0]
        if extra == 0:
            answers.tensors["pixel_values"] = pixels
        record(answers, picture, ids, made, len(ids))
        answers.tensors[f"cases.{extra}.rows"] = rows
    answers.write()
    print(name, [c.tolist()[:4] for k, c in answers.tensors.items() if "greedy.margin" in k])


class Parts:
    """What the authors' code does, part by part."""

    def __init__(self, tower, linears, text, processor, pad):
        self.tower, self.linears, self.text, self.processor, self.pad = tower, linears, text, processor, pad
        text.generation_config = GenerationConfig()

    def pixels(self, img):
        return pixels_of(expand2square(img) if self.pad else img, self.processor)

    def rows(self, pixels):
        x = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        for i, l in enumerate(self.linears.values()):
            x = l(torch.nn.functional.gelu(x) if i else x)
        return x[0]

    def generate(self, ids, pixels):
        embedded = self.text.model.embed_tokens(torch.tensor([ids]))
        embedded[0, torch.tensor(ids) == IMAGE] = self.rows(pixels)
        return self.text.generate(inputs_embeds=embedded, generation_config=OPTIONS)


class Authors:
    """The authors' code itself, over the same weights."""

    def __init__(self, config, tensors, tower, tower_folder):
        cls, config_cls, self.mm_utils = published.llava(Sizes.code)
        keys = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
        self.config = config_cls(**{**keys, "mm_vision_tower": tower_folder, "pretraining_tp": 1})
        self.model = cls(self.config).eval()
        own = self.model.get_vision_tower()
        if not own.is_loaded:
            own.load_model()
        own.vision_tower = tower
        fits = self.model.load_state_dict({k: v for k, v in tensors.items() if "vision_tower" not in k},
                                          strict=False, assign=True)
        assert not fits.unexpected_keys and all("vision_tower" in k for k in fits.missing_keys), fits
        self.model.generation_config = GenerationConfig()

    def pixels(self, img):
        return self.mm_utils.process_images([img], self.model.get_vision_tower().image_processor, self.config).float()

    def rows(self, pixels):
        return self.model.encode_images(pixels)[0]

    def generate(self, ids, pixels):
        first = ids.index(IMAGE)
        marked = ids[:first] + [-200] + [i for i in ids[first:] if i != IMAGE]
        return self.model.generate(torch.tensor([marked]), images=pixels, generation_config=OPTIONS)


def first(out, name, seed, dtype, projector, pad, inside):
    """inside: the tower is in the checkpoint, as after training it too."""
    folder = os.path.join(out, name)
    tower_folder = os.path.join(folder, "tower")
    os.makedirs(tower_folder, exist_ok=True)
    d_image, d = Sizes.vision["hidden_size"], Sizes.text["hidden_size"]
    tower = CLIPVisionModel(CLIPVisionConfig(**Sizes.vision)).eval()
    text = LlamaForCausalLM(LlamaConfig(**Sizes.text)).eval()
    n = 1 if projector == "linear" else 2
    linears = torch.nn.ModuleDict({f"linear_{3 - n + i}": torch.nn.Linear(d if i else d_image, d)
                                   for i in range(n)})
    both = torch.nn.ModuleDict({"vision_model": tower, "projector": linears, "text": text})
    common.draw(both, seed, weight_std)
    round_to(both, dtype)
    tensors = dict(text.state_dict())
    for i, l in enumerate(linears.values()):
        place = "model.mm_projector" + (f".{2 * i}" if n > 1 else "")
        tensors |= {f"{place}.weight": l.weight.data, f"{place}.bias": l.bias.data}
    towers = {k if k.startswith("vision_model") else "vision_model." + k: v for k, v in tower.state_dict().items()}
    if inside:
        tensors |= {"model.vision_tower.vision_tower." + k: v for k, v in towers.items()}
        towers = {k: torch.zeros_like(v) for k, v in towers.items()}
    common.write_checkpoint(folder, dict(tensors), dtype)
    common.write_checkpoint(tower_folder, towers, dtype)
    common.write_json(tower_folder, "config.json", {"architectures": ["CLIPVisionModel"],
                      "model_type": "clip_vision_model", **Sizes.vision})
    common.write_json(tower_folder, "preprocessor_config.json",
                      {**processing(), "image_processor_type": "CLIPImageProcessor"})
    config = {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava" if projector == "linear" else "llava_llama",
        "mm_vision_tower": os.path.abspath(tower_folder) if Sizes.text is TEXT_7B
        else f"test/data/models/{name}/tower", "mm_hidden_size": d_image,
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        **({} if projector == "linear" else {"mm_projector_type": projector}),
        "image_aspect_ratio": "pad" if pad else None, **Sizes.text}
    common.write_json(folder, "config.json", config)
    if Sizes.code:
        m = Authors(config, tensors, tower, tower_folder)
    else:
        m = Parts(tower, linears, text, CLIPImageProcessorPil.from_pretrained(tower_folder), pad)
    answers = Answers(out, name)
    for extra, picture, img in open_pictures(out):
        pixels = m.pixels(img)
        ids = prompt(n_patches(), extra)
        if extra == 0:
            answers.tensors["pixel_values"] = pixels
        record(answers, picture, ids, m.generate(ids, pixels), 0)
        answers.tensors[f"cases.{extra}.rows"] = m.rows(pixels)
    answers.write()
    print(name, [c.tolist()[:4] for k, c in answers.tensors.items() if "greedy.margin" in k])


TINY = [(hf, "llava", 201, F16, dict(new=False, layer=-2, select="default", pad=False)),
        (hf, "llava-new", 202, BF16, dict(new=True, layer=[-2, 1], select="full", pad=True)),
        (first, "llava-first", 203, F16, dict(projector="linear", pad=False, inside=False)),
        (first, "llava-first-mlp", 204, BF16, dict(projector="mlp2x_gelu", pad=True, inside=True))]
FULL = [(hf, "llava-1.5-7b-hf", 211, F16, dict(new=False, layer=-2, select="default", pad=False)),
        (hf, "llava-padded", 212, BF16, dict(new=True, layer=-2, select="default", pad=True)),
        (first, "llava-v1.5-7b", 213, F16, dict(projector="mlp2x_gelu", pad=True, inside=False))]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--full", nargs="+", metavar="PHOTO")
    p.add_argument("--only", nargs="*")
    p.add_argument("--llava-code", help="folder of the authors' repository")
    args = p.parse_args()
    Sizes.code = args.llava_code
    if args.full:
        Sizes.text, Sizes.vision = TEXT_7B, VISION_L14
        Sizes.pictures = [os.path.splitext(os.path.basename(f))[0] + ".png" for f in args.full]
        os.makedirs(os.path.join(args.out, "pictures"), exist_ok=True)
        for photo, name in zip(args.full, Sizes.pictures):
            Image.open(photo).convert("RGB").save(os.path.join(args.out, "pictures", name))
    for make, name, seed, dtype, options in FULL if args.full else TINY:
        if not args.only or name in args.only:
            make(args.out, name, seed, dtype, **options)


if __name__ == "__main__":
    main()
