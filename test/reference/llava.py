"""llava.py -- tiny checkpoints of LLaVA in the layouts that are published, and what comes of them.

    python llava.py DIR

Writes DIR/NAME/ and DIR/NAME.answers.* for each row of TINY; DIR/pictures must be there (tiny.py).

  llava-hf      layouts of transformers: LlavaForConditionalGeneration runs them
  llava-first   the authors' own: their code is not part of any package, but it is short: CLIP's
                tower, one or more linears, LLaMA; here these three run one after the other, with
                the pictures padded as the authors' expand2square does

Ids: a token IMAGE stands for each row of the picture, as transformers' processor expands it.
"""
import json
import os
import sys

import common                             # first: it keeps everything offline
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
SIZE = {"crop_size": {"height": 28, "width": 28}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN,
        "image_std": STD, "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": 28}}


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


def pictures(out, processor, pad=False):
    for extra, name in enumerate(("wide.png", "tall.png")):
        img = Image.open(os.path.join(out, "pictures", name)).convert("RGB")
        if pad:                              # expand2square
            side = max(img.size)
            square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in MEAN))
            square.paste(img, ((side - img.width) // 2, (side - img.height) // 2))
            img = square
        yield extra, name, processor(images=img, return_tensors="pt")["pixel_values"].float()


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
              "vision_feature_select_strategy": select, "text_config": {"model_type": "llama", **TEXT},
              "vision_config": {"model_type": "clip_vision_model", **VISION}}
    common.write_json(folder, "config.json", config)
    model = LlavaForConditionalGeneration(LlavaConfig(**json.loads(json.dumps(config)))).eval()
    common.draw(model, seed, weight_std)
    tensors = {hf_name(k, new): v.to(dtype) for k, v in model.state_dict().items()}
    common.write_checkpoint(folder, tensors, dtype)
    kind = "LlavaImageProcessor" if pad else "CLIPImageProcessor"
    common.write_json(folder, "preprocessor_config.json",
                      {**SIZE, "image_processor_type": kind, **({"do_pad": True} if pad else {})})
    processor = (LlavaImageProcessorPil if pad else CLIPImageProcessorPil).from_pretrained(folder)
    model.load_state_dict({k: v.to(dtype).float() for k, v in model.state_dict().items()})
    model.generation_config = GenerationConfig()
    answers = Answers(out, name)
    for extra, picture, pixels in pictures(out, processor):
        ids = prompt(16 + (select == "full"), extra)
        made = model.generate(input_ids=torch.tensor([ids]), pixel_values=pixels, generation_config=OPTIONS)
        rows = model.get_image_features(pixel_values=pixels).pooler_output[0]
        if extra == 0:
            answers.tensors["pixel_values"] = pixels
        record(answers, picture, ids, made, len(ids))
        answers.tensors[f"cases.{extra}.rows"] = rows
    answers.write()
    print(name, [c.tolist()[:4] for k, c in answers.tensors.items() if "greedy.margin" in k])


def first(out, name, seed, dtype, projector, pad, inside):
    """inside: the tower is in the checkpoint, as after training it too."""
    folder = os.path.join(out, name)
    tower_folder = os.path.join(folder, "tower")
    os.makedirs(tower_folder, exist_ok=True)
    tower = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
    text = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    n = 1 if projector == "linear" else 2
    linears = torch.nn.ModuleDict({f"linear_{3 - n + i}": torch.nn.Linear(VISION["hidden_size"] if i == 0
              else TEXT["hidden_size"], TEXT["hidden_size"]) for i in range(n)})
    both = torch.nn.ModuleDict({"vision_model": tower, "projector": linears, "text": text})
    common.draw(both, seed, weight_std)
    for p in both.parameters():
        p.data = p.data.to(dtype).float()
    tensors = dict(text.state_dict())
    for i, l in enumerate(linears.values()):
        place = "model.mm_projector" + (f".{2 * i}" if n > 1 else "")
        tensors |= {f"{place}.weight": l.weight.data, f"{place}.bias": l.bias.data}
    towers = {k if k.startswith("vision_model") else "vision_model." + k: v for k, v in tower.state_dict().items()}
    if inside:
        tensors |= {"model.vision_tower.vision_tower." + k: v for k, v in towers.items()}
        towers = {k: torch.zeros_like(v) for k, v in towers.items()}
    common.write_checkpoint(folder, tensors, dtype)
    common.write_checkpoint(tower_folder, towers, dtype)
    common.write_json(tower_folder, "config.json", {"architectures": ["CLIPVisionModel"],
                      "model_type": "clip_vision_model", **VISION})
    common.write_json(tower_folder, "preprocessor_config.json", {**SIZE, "image_processor_type": "CLIPImageProcessor"})
    common.write_json(folder, "config.json", {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava" if projector == "linear" else "llava_llama",
        "mm_vision_tower": f"test/data/models/{name}/tower", "mm_hidden_size": VISION["hidden_size"],
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        **({} if projector == "linear" else {"mm_projector_type": projector}),
        "image_aspect_ratio": "pad" if pad else None, **TEXT})
    processor = CLIPImageProcessorPil.from_pretrained(tower_folder)
    text.generation_config = GenerationConfig()
    answers = Answers(out, name)
    for extra, picture, pixels in pictures(out, processor, pad):
        x = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        for i, l in enumerate(linears.values()):
            x = l(torch.nn.functional.gelu(x) if i else x)
        ids = prompt(x.shape[1], extra)
        embedded = text.model.embed_tokens(torch.tensor([ids]))
        embedded[0, torch.tensor(ids) == IMAGE] = x[0]
        made = text.generate(inputs_embeds=embedded, generation_config=OPTIONS)
        if extra == 0:
            answers.tensors["pixel_values"] = pixels
        record(answers, picture, ids, made, 0)
        answers.tensors[f"cases.{extra}.rows"] = x[0]
    answers.write()
    print(name, [c.tolist()[:4] for k, c in answers.tensors.items() if "greedy.margin" in k])


def main(out):
    hf(out, "llava", 201, F16, new=False, layer=-2, select="default", pad=False)
    hf(out, "llava-new", 202, BF16, new=True, layer=[-2, 1], select="full", pad=True)
    first(out, "llava-first", 203, F16, "linear", pad=False, inside=False)
    first(out, "llava-first-mlp", 204, BF16, "mlp2x_gelu", pad=True, inside=True)


if __name__ == "__main__":
    main(sys.argv[1])
