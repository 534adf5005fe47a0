"""minilm.py -- sentence vectors of a real sentence encoder, as transformers computes them.

    python minilm.py MODEL FOLDER      writes FOLDER/minilm.answers.json and .safetensors

MODEL is a directory with sentence-transformers/all-MiniLM-L6-v2 or a model like it, without
modules.json: its vectors are the mean over all tokens. The weights are not committed, only these
answers; the test skips where there is no model.
"""
import os
import sys

import common                             # first: it keeps everything offline
import torch
from common import write_json
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertModel

TEXTS = ["a cat sat on the mat", "a kitten rests on a rug", "the stock market fell",
         "", "Hello, World! 42", "Ça va? 日本語 and e-mail: a.b@c.org"]


def main(model_dir, out):
    model, tok = common.load_exactly(BertModel, model_dir), AutoTokenizer.from_pretrained(model_dir)
    tensors, cases = {}, []
    for i, text in enumerate(TEXTS):
        t = tok(text, return_tensors="pt")
        v = model(**t).last_hidden_state[0].mean(0)
        tensors[f"cases.{i}.input_ids"] = t["input_ids"][0].int()
        tensors[f"cases.{i}.vector_normalized"] = torch.nn.functional.normalize(v, dim=0)
        cases.append({"image": None, "text": text})
    save_file(tensors, os.path.join(out, "minilm.answers.safetensors"))
    write_json(out, "minilm.answers.json", {"model": "minilm", "cases": cases})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
