"""tiny.py -- makes the tiny checkpoints and the answers under test/data/models.

    python tiny.py FOLDER            writes everything into FOLDER

Sizes that show mistakes: widths that are no multiples of 8, n_heads != head_dim, vision width !=
text width, numbers of tokens that are no multiples of 8, pictures that a patch does not divide.
Asserted: two pictures give different answers; sequences end by [SEP] and by length.
"""
import os
import sys

import torch
from transformers import (BlipForConditionalGeneration, BlipForImageTextRetrieval,
                          BlipForQuestionAnswering)

import common
from models import (bert_answers, bert_folder, blip_folder, blip_generation, blip_matching,
                    clip_answers, clip_folder)

PICTURES = {"wide.png": (53, 37, 0), "tall.png": (31, 58, 1)}


def check_captions(answers):
    """Two pictures give different words; some sequences end by [SEP], some by length."""
    for how in ("greedy", "beams"):
        texts = {c["image"]: c[how]["text"] for c in answers.cases
                 if c["text"] == answers.cases[0]["text"]}
        assert len(set(texts.values())) == len(texts) > 1, (answers.name, how, texts)
        stops = {c[how]["stop"] for c in answers.cases}
        assert stops == {"eos", "length"}, (answers.name, how, stops)


def make_blip(out):
    text = dict(hidden_size=36, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=28)
    vision = dict(hidden_size=44, intermediate_size=54, num_hidden_layers=2, num_attention_heads=4,
                  image_size=40, patch_size=8)
    cases = [("wide.png", "a picture of"), ("tall.png", "a picture of"), ("wide.png", None),
             ("tall.png", None),
             ("tall.png", "the small cat is sitting next to a large red table with two")]
    for name, dtype, copies in (("blip-caption", torch.float32, False),
                                ("blip-caption-f16", torch.float16, True),
                                ("blip-caption-bf16", torch.bfloat16, False)):
        folder = blip_folder(out, name, BlipForConditionalGeneration, text, vision,
                             seed=CAPTION_SEED, sep=CAPTION_SEP, dtype=dtype, tied_copies=copies,
                             position_ids=dtype == torch.float32)
        check_captions(blip_generation(out, name, folder, BlipForConditionalGeneration, cases,
                                       traced=dtype == torch.float32))

    both = dict(hidden_size=28, num_hidden_layers=2)
    folder = blip_folder(
        out, "blip-vqa", BlipForQuestionAnswering,
        dict(both, intermediate_size=50, num_attention_heads=2, max_position_embeddings=30),
        dict(both, intermediate_size=56, num_attention_heads=4, image_size=35, patch_size=7),
        seed=VQA_SEED, sep=VQA_SEP, tied_copies=True)
    cases = [("wide.png", "what color is the cat?"), ("tall.png", "what color is the cat?"),
             ("wide.png", "How many men are there in the picture?"), ("tall.png", "is it?")]
    check_captions(blip_generation(out, "blip-vqa", folder, BlipForQuestionAnswering, cases))

    folder = blip_folder(
        out, "blip-itm", BlipForImageTextRetrieval,
        dict(text, num_attention_heads=4, hidden_size=28, max_position_embeddings=33),
        dict(vision, hidden_size=42, num_attention_heads=3), seed=5, position_ids=True)
    texts = ["a cat and a dog", "two women sitting on a table in the street.", "Sky!"]
    answers = blip_matching(out, "blip-itm", folder, [("wide.png", texts), ("tall.png", texts)])
    match = [c["match"] for c in answers.cases]
    assert min(abs(a - b) for a, b in zip(match[:3], match[3:])) > 0.003, match


def make_clip(out):
    texts = ["a photo of a cat", "a photo of two small dogs, sitting next to a red car.",
             "Straße 42!", "a picture of the man and the woman standing on the street with a "
             "large black dog in the car"]
    text = dict(hidden_size=28, intermediate_size=52, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=21, hidden_act="quick_gelu")
    vision = dict(hidden_size=44, intermediate_size=42, num_hidden_layers=3, num_attention_heads=4,
                  image_size=30, patch_size=7, hidden_act="quick_gelu")
    folder = clip_folder(out, "clip", text, vision, seed=7, position_ids=True)
    clip_answers(out, "clip", folder, list(PICTURES), texts)
    text = dict(text, hidden_size=20, num_attention_heads=2, hidden_act="gelu")
    vision = dict(vision, hidden_size=36, num_attention_heads=3, num_hidden_layers=2, image_size=33,
                  patch_size=11, hidden_act="gelu")
    for name, dtype in (("clip-gelu", torch.float32), ("clip-gelu-f16", torch.float16)):
        folder = clip_folder(out, name, text, vision, seed=8, dtype=dtype, legacy=False)
        clip_answers(out, name, folder, list(PICTURES), texts, traced=dtype == torch.float32)


def make_bert(out):
    texts = ["a cat sitting on the table", "What color is the sky? 42 are blue, two are red.", "",
             "中é word", "the man and the woman standing next to a large black car in the street "
             "with two dogs and three cats"]
    size = dict(hidden_size=36, intermediate_size=52, num_hidden_layers=3, num_attention_heads=3,
                max_position_embeddings=40)
    folder = bert_folder(out, "bert-mean", size, seed=9, max_seq=18)
    bert_answers(out, "bert-mean", folder, texts, max_seq=18)
    size = dict(size, hidden_size=28, num_attention_heads=2, num_hidden_layers=2,
                max_position_embeddings=19)
    folder = bert_folder(out, "bert-legacy", size, seed=10, legacy=True, pooling="cls",
                         normalize=False, tokenizer_json=False)
    bert_answers(out, "bert-legacy", folder, texts, prefix="bert.", pooling="cls")
    folder = bert_folder(out, "bert-bf16", size, seed=11, dtype=torch.bfloat16, modules=False)
    bert_answers(out, "bert-bf16", folder, texts)


# Chosen so that greedy and beam search end by [SEP] for some inputs and by length for others.
CAPTION_SEED, CAPTION_SEP, VQA_SEED, VQA_SEP = 4, 4.2, 2, 2.0


def main(out):
    os.makedirs(os.path.join(out, "pictures"), exist_ok=True)
    for name, (w, h, kind) in PICTURES.items():
        common.picture(w, h, kind).save(os.path.join(out, "pictures", name))
    make_clip(out)
    make_bert(out)
    make_blip(out)


if __name__ == "__main__":
    main(sys.argv[1])
