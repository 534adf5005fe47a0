"""full.py -- checkpoints of the published sizes with random weights, and their answers.

    python full.py OUT MODEL [--dtype f32|f16|bf16] [--pictures DIR] [--limit N]
        [--assets DIR] [--weights-only]

MODEL is a key of MODELS below. Writes OUT/MODEL[-DTYPE]/ (up to 2 GB) and its answers beside it,
laid out as README.md describes; OUT/pictures becomes a link to DIR. Then:

    python compare.py OUT MODEL --mm ./mm

Pictures are the PNG and JPEG files of DIR, in the order of their names, at most --limit of them.
Vocabularies are the real ones, from the assets. Traced are the names of README.md's table only: all
modules of BLIP large would be 3 GB.
"""
import argparse
import os

import torch
from transformers import (BlipForConditionalGeneration, BlipForImageTextRetrieval,
                          BlipForQuestionAnswering)

import models
from common import Trace

# What of the modules' outputs is recorded: the table of README.md.
TRACED = (r"(vision_model|text_model)\.(embeddings|pre_layrnorm|post_layernorm|final_layer_norm"
          r"|encoder\.layers\.\d+(\.self_attn|\.mlp)?)"
          r"|(visual|text)_projection|itm_head|(vision|text)_proj"
          r"|(bert\.|text_encoder\.|text_decoder\.bert\.)?(embeddings"
          r"|encoder\.layer\.\d+(\.attention\.self|\.attention|\.crossattention|\.intermediate)?)"
          r"|text_decoder\.cls\.predictions(\.transform)?")

BERT_BASE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                 num_attention_heads=12, max_position_embeddings=512)
BERT_LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                  num_attention_heads=16, max_position_embeddings=512)
VIT_BASE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12)
VIT_LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                 num_attention_heads=16)
CLIP_TEXT = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12,
                 num_attention_heads=8, max_position_embeddings=77, hidden_act="quick_gelu")
SENTENCES = ["a cat sat on the mat", "What colour is the sky? 42 are blue, two are red.",
             "the stock market fell", " ".join(["a kitten rests on a rug and"] * 100)]


# Each of these writes a checkpoint and returns the function that computes the answers.

def captioner(args, name, vision, sep):
    """Captions of all pictures; the first two also with a text in front."""
    folder = models.blip_folder(args.out, name, BlipForConditionalGeneration, BERT_BASE,
                                dict(vision, image_size=384, patch_size=16), seed=21, sep=sep,
                                dtype=args.torch_dtype, d_proj=256, vocab_file=args.bert_vocab)
    cases = [(p, "a picture of") for p in args.pictures[:2]] + [(p, None) for p in args.pictures]
    return lambda: models.blip_generation(args.out, name, folder, BlipForConditionalGeneration,
                                          cases)


def vqa(args, name, sep):
    folder = models.blip_folder(args.out, name, BlipForQuestionAnswering, BERT_BASE,
                                dict(VIT_BASE, image_size=384, patch_size=16), seed=22, sep=sep,
                                dtype=args.torch_dtype, d_proj=256, vocab_file=args.bert_vocab)
    cases = [(p, "how many dogs are in the picture?") for p in args.pictures]
    cases += [(args.pictures[0], "What colour is the sky?")]
    return lambda: models.blip_generation(args.out, name, folder, BlipForQuestionAnswering, cases)


def itm(args, name):
    folder = models.blip_folder(args.out, name, BlipForImageTextRetrieval, BERT_BASE,
                                dict(VIT_BASE, image_size=384, patch_size=16), seed=23,
                                dtype=args.torch_dtype, d_proj=256, vocab_file=args.bert_vocab)
    texts = ["A woman and her dog sitting in a beach", "an image of a cat", "a motorcycle"]
    return lambda: models.blip_matching(args.out, name, folder,
                                        [(p, texts) for p in args.pictures])


def clip(args, name, text, vision, d_proj):
    folder = models.clip_folder(args.out, name, text, vision, seed=24, dtype=args.torch_dtype,
                                position_ids=True, d_proj=d_proj, files=args.clip_files)
    texts = ["a photo of a cat", "a photo of a dog.", "two astronauts, riding 3 horses!",
             " ".join(["a very long description of a cup of coffee"] * 15)]
    return lambda: models.clip_answers(args.out, name, folder, args.pictures, texts)


def bert(args, name, size):
    folder = models.bert_folder(args.out, name, size, seed=25, dtype=args.torch_dtype,
                                legacy=True, vocab_file=args.bert_vocab)
    return lambda: models.bert_answers(args.out, name, folder, SENTENCES, prefix="bert.")


MODELS = {
    "blip-base": lambda a, n: captioner(a, n, VIT_BASE, 7.0),
    "blip-large": lambda a, n: captioner(a, n, VIT_LARGE, 7.0),
    "blip-vqa-base": lambda a, n: vqa(a, n, 7.0),
    "blip-itm-base": lambda a, n: itm(a, n),
    "clip-b32": lambda a, n: clip(a, n, CLIP_TEXT, dict(
        VIT_BASE, image_size=224, patch_size=32, hidden_act="quick_gelu"), 512),
    "clip-b16": lambda a, n: clip(a, n, CLIP_TEXT, dict(         # its image tower: ViT-B/16
        VIT_BASE, image_size=224, patch_size=16, hidden_act="quick_gelu"), 512),
    "clip-l14-336": lambda a, n: clip(a, n, dict(
        CLIP_TEXT, hidden_size=768, intermediate_size=3072, num_attention_heads=12), dict(
        VIT_LARGE, image_size=336, patch_size=14, hidden_act="quick_gelu"), 768),
    "bert-base": lambda a, n: bert(a, n, BERT_BASE),
    "bert-large": lambda a, n: bert(a, n, BERT_LARGE),
}


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    p.add_argument("model", choices=MODELS)
    p.add_argument("--dtype", default="f32", choices=("f32", "f16", "bf16"))
    p.add_argument("--pictures", help="folder; default: ASSETS/images")
    p.add_argument("--weights-only", action="store_true", help="no answers: for speed.py")
    p.add_argument("--limit", type=int, default=6, help="pictures at most")
    p.add_argument("--assets", default=os.environ.get("MM_ASSETS", "../shared/assets"))
    args = p.parse_args()
    args.torch_dtype = {"f32": torch.float32, "f16": torch.float16,
                        "bf16": torch.bfloat16}[args.dtype]
    args.bert_vocab = os.path.join(args.assets, "tokenizers/bert-base-uncased/vocab.txt")
    args.clip_files = os.path.join(args.assets, "tokenizers/clip")
    folder = os.path.abspath(args.pictures or os.path.join(args.assets, "images"))
    os.makedirs(args.out, exist_ok=True)
    link = os.path.join(args.out, "pictures")
    if os.path.islink(link):
        os.remove(link)
    os.symlink(folder, link)
    names = sorted(n for n in os.listdir(folder) if n.lower().endswith((".png", ".jpg", ".jpeg"))
                   and "truncated" not in n)
    args.pictures = names[:args.limit]
    return args


def main():
    args = arguments()
    name = args.model + ("" if args.dtype == "f32" else "-" + args.dtype)
    Trace.only = TRACED
    answers = MODELS[args.model](args, name)             # writes the checkpoint
    for case in [] if args.weights_only else answers().cases:
        print(name, case)


if __name__ == "__main__":
    main()
