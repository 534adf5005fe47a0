"""common.py -- what the scripts that make reference data share.

Weights that are the same on every machine, tiny tokenizers in the published file formats, small
pictures, and a recorder that names every intermediate of a transformers model as `mm --trace` does.

Easy to get wrong:
  - torch.randn is not the same on every CPU; here weights come from the integers of PCG64.
  - transformers gives BLIP's vision tower a standard deviation of 1e-10: then captions do not
    depend on the picture. No weight here comes from the models' own initialisation.
  - a hook sees the tensor itself: embeddings are changed in place later, so outputs are copied.
"""
import json
import os
import re
import shutil
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_TQDM", "1")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

torch.set_num_threads(int(os.environ.get("REFERENCE_THREADS", "2")))
torch.set_grad_enabled(False)


# --- Weights ------------------------------------------------------------------------------------

def uniform(seed, name, shape, std, mean=0.0):
    """Uniform numbers of this mean and standard deviation: the same everywhere, others by name."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    u = rng.random(tuple(shape), dtype=np.float32)
    return torch.from_numpy(np.asarray((u - np.float32(0.5)) * np.float32(std * 12 ** 0.5)
                                       + np.float32(mean)))


def draw(model, seed, std):
    """Fills all parameters of a model. std(name, parameter) gives (standard deviation, mean)."""
    for name, p in model.named_parameters():
        s, mean = std(name, p)
        p.data.copy_(uniform(seed, name, p.shape, s, mean))


def write_checkpoint(folder, tensors, dtype=torch.float32):
    """model.safetensors with metadata as published; floats rounded to dtype, integers kept."""
    shared = {}                               # safetensors refuses tensors that share memory
    for k, v in tensors.items():
        v = v.to(dtype) if v.is_floating_point() else v
        shared.setdefault(v.data_ptr(), []).append(k)
        tensors[k] = v.clone() if len(shared[v.data_ptr()]) > 1 else v.contiguous()
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def load_exactly(cls, folder):
    """The model of a folder in f32; fails where a tensor of the model is not in the file."""
    model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = [k for k in info["missing_keys"] if "position_ids" not in k]
    assert not missing and not info["mismatched_keys"], (folder, missing, info["mismatched_keys"])
    return model.eval()


# --- The recorder -------------------------------------------------------------------------------

class Trace:
    """Records the output of every module under its name; the k-th further call gets '.k'.

    Left out: dropouts, activations, lists, and what only passes on its last part (whole models,
    encoders). Of a tuple or a ModelOutput the first tensor counts. Where `rename` gives another
    name, that is used; None drops the module.
    """
    only = None                  # a regular expression: record no other names
    SKIP = ("Dropout", "Activation", "ModuleList", "Model", "Encoder", "MLMHead")

    def __init__(self, model, rename=lambda name: name):
        self.tensors, self.count, self.handles = {}, {}, []
        for name, module in model.named_modules():
            kind = type(module).__name__
            as_name = rename(name) if name else None
            wanted = as_name and (not self.only or re.fullmatch(self.only, as_name))
            if wanted and not any(kind.endswith(s) for s in self.SKIP):
                self.handles.append(module.register_forward_hook(self.hook(as_name)))

    def hook(self, name):
        def record(module, args, output):
            t = output
            while not torch.is_tensor(t):
                t = t[0]
            k = self.count[name] = self.count.get(name, -1) + 1
            key = name if k == 0 else f"{name}.{k}"
            self.tensors[key] = t.detach().float().clone().contiguous()
        return record

    def stop(self):
        for h in self.handles:
            h.remove()
        return self.tensors


# --- Pictures -----------------------------------------------------------------------------------

def picture(w, h, kind):
    """Smooth colours with edges in them; another picture for each kind."""
    y, x = np.mgrid[0:h, 0:w]
    a = np.zeros((h, w, 3), np.uint8)
    for c in range(3):
        wave = (x * (3 + 2 * kind + c) + y * (7 - c) * (1 + kind)) % 97
        disc = ((x - w * (0.3 + 0.1 * c)) ** 2 + (y - h * 0.5) ** 2 < (h * (0.2 + 0.1 * kind)) ** 2)
        a[..., c] = (wave * (2 - (c + kind) % 2) + 60 * (disc ^ (c == kind % 3))) % 256
    return Image.fromarray(a)


# --- Tokenizers ---------------------------------------------------------------------------------

WORDS = ("the a an of in on at and with is it to what how many color are there picture photo cat "
         "dog man woman red blue green sitting standing next table street tree car sky house two "
         "three black white small large").split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_vocab():
    """A WordPiece vocabulary: special tokens, signs, letters, '##' letters, words, some endings."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    return (SPECIAL + list("!',-.?:") + list("0123456789") + letters + ["é", "中"]
            + ["##" + c for c in letters + list("0123456789")] + ["##ing", "##ed", "##er", "##est"]
            + [w for w in WORDS if len(w) > 1])


def bert_tokenizer_json(vocab):
    """The tokenizer.json of a BERT checkpoint (uncased), as the hub has it."""
    ids = {t: i for i, t in enumerate(vocab)}

    def special(t):
        return {"id": t, "ids": [ids[t]], "tokens": [t]}

    def piece(t, segment):
        return {"SpecialToken": {"id": t, "type_id": segment}}

    def text(name, segment):
        return {"Sequence": {"id": name, "type_id": segment}}
    single = [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[t], "special": True, "content": t, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False} for t in SPECIAL],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single,
                           "pair": single + [text("B", 1), piece("[SEP]", 1)],
                           "special_tokens": {t: special(t) for t in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": ids},
    }


def write_bert_tokenizer(folder, max_length, processor=None, tokenizer_json=True, vocab_file=None):
    """vocab.txt, tokenizer_config.json, special_tokens_map.json and tokenizer.json."""
    vocab = bert_vocab()
    if vocab_file:
        with open(vocab_file, encoding="utf-8") as f:
            vocab = f.read().split("\n")[:-1]
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(vocab) + "\n")
    config = {"cls_token": "[CLS]", "do_basic_tokenize": True, "do_lower_case": True,
              "mask_token": "[MASK]", "model_max_length": max_length, "never_split": None,
              "pad_token": "[PAD]", "sep_token": "[SEP]", "strip_accents": None,
              "tokenize_chinese_chars": True, "tokenizer_class": "BertTokenizer",
              "unk_token": "[UNK]"}
    if processor:
        config["processor_class"] = processor
    write_json(folder, "tokenizer_config.json", config)
    write_json(folder, "special_tokens_map.json",
               {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]",
                "sep_token": "[SEP]", "unk_token": "[UNK]"})
    if tokenizer_json:
        write_json(folder, "tokenizer.json", bert_tokenizer_json(vocab))
    return vocab


def byte_symbols():
    """GPT-2's table of 256 printable characters for the 256 bytes, in CLIP's order."""
    own = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    other = [b for b in range(256) if b not in own]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(len(other))]


def clip_merges():
    """Merges that join each word of WORDS from the left, in an order in which each can apply."""
    merges = []
    for word in WORDS:
        parts = list(word[:-1]) + [word[-1] + "</w>"]
        while len(parts) > 1:                     # apply what there is, then join the first two
            for pair in merges:
                i = 0
                while i + 1 < len(parts):
                    if (parts[i], parts[i + 1]) == pair:
                        parts[i:i + 2] = [pair[0] + pair[1]]
                    i += 1
            if len(parts) > 1 and len(merges) < 60:
                merges.append((parts[0], parts[1]))
            else:
                break
    return merges


def write_clip_tokenizer(folder, max_length, files=None):
    """vocab.json, merges.txt, tokenizer.json, two configurations, as in an OpenAI CLIP repository.
    files: the folder to take the first three from, instead of making tiny ones."""
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
             "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    write_json(folder, "special_tokens_map.json", names)
    write_json(folder, "tokenizer_config.json", {
        **names, "add_prefix_space": False, "errors": "replace", "do_lower_case": True,
        "model_max_length": max_length, "tokenizer_class": "CLIPTokenizer"})
    if files:
        for name in ("vocab.json", "merges.txt", "tokenizer.json"):
            shutil.copy(os.path.join(files, name), folder)
        with open(os.path.join(folder, "vocab.json"), encoding="utf-8") as f:
            vocab = json.load(f)
        return vocab, vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    return tiny_clip_tokenizer(folder)


def tiny_clip_tokenizer(folder):
    """512 byte symbols, the merges of WORDS, and the two special tokens."""
    symbols = byte_symbols()
    merges = clip_merges()
    pieces = symbols + [s + "</w>" for s in symbols]
    for a, b in merges:
        if a + b not in pieces:
            pieces.append(a + b)
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {t: i for i, t in enumerate(pieces)}
    bos, eos = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    write_json(folder, "vocab.json", vocab)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    token = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    write_json(folder, "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": bos, "content": "<|startoftext|>", "normalized": True, **token},
                         {"id": eos, "content": "<|endoftext|>", "normalized": False, **token}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {
                "Regex": "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d"
                         "|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
             "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}]},
        "post_processor": {"type": "RobertaProcessing", "sep": ["<|endoftext|>", eos],
                           "cls": ["<|startoftext|>", bos], "trim_offsets": False,
                           "add_prefix_space": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<|endoftext|>",
                  "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": False,
                  "vocab": vocab, "merges": [f"{a} {b}" for a, b in merges]}})
    return vocab, bos, eos
