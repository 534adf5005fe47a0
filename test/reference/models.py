"""models.py -- writes checkpoints of BLIP, CLIP and BERT as the hub has them, and their answers.

Used by tiny.py (committed) and full.py (published sizes). *_folder() writes a model directory with
weights drawn by common.draw(); *_answers() loads it with transformers and records what README.md
describes. Published layout means: the names and copies of tensors, position_ids, generation keys
inside text_config, null dictionaries in OpenAI's config.json, a tokenizer in three formats.

The weights are drawn so that mistakes show: biases and LayerNorm parameters that are not 0 and 1,
residual streams with a variance near 1e-4 (else any epsilon passes), attention that is not uniform,
logits with a spread of about 2.
"""
import json
import os

import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from transformers import (AutoTokenizer, BertConfig, BertModel, BlipConfig,
                          BlipForImageTextRetrieval, CLIPConfig, CLIPModel)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import common
import generation
from common import Trace, write_json

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TRACE_TOKENS = 4             # new tokens while the intermediates are recorded


# --- Drawing weights ----------------------------------------------------------------------------

def norm_std(name, scale=1.0):
    return (0.2 * scale, scale) if name.endswith("weight") else (0.2 * scale, 0.0)


def vision_std(name, p):
    """Pre-norm towers (BLIP, CLIP): the residual stream keeps a standard deviation near 0.012."""
    d = p.shape[-1]
    if "norm" in name or "layrnorm" in name:
        return norm_std(name, 0.012) if "pre_layrnorm" in name else norm_std(name)
    if name.endswith("bias"):
        return (0.3, 0) if "qkv" in name or "fc1" in name or "q_proj" in name else (0.003, 0)
    if "patch_embedding" in name:
        return (0.012 / p[0].numel() ** 0.5, 0)
    if "embedding" in name:
        return (0.008, 0)
    if any(s in name for s in ("qkv", "q_proj", "k_proj")):
        return (1.7 / d ** 0.5, 0)
    if "v_proj" in name or "fc1" in name:
        return (1 / d ** 0.5, 0)
    return (0.015 / d ** 0.5, 0)         # projection, out_proj, fc2: what is added to the stream


def bert_std(name, p, n_layers=2):
    """Post-norm BERT layers. In layer 0 the stream after self-attention is small: see the top. The
    deeper the stack, the less each layer adds: else all positions would end in the same vector."""
    d = p.shape[-1]
    small = "layer.0.attention.output" in name
    share = min(1, (2 / n_layers) ** 0.5) if "output" in name else 1
    if "transform.LayerNorm" in name:
        return norm_std(name, min(35, 210 / d ** 0.5))  # logits of about 2: embeddings are small
    if "LayerNorm" in name:
        std, mean = norm_std(name, 0.012 if small else 1.0)
        return (std * share, mean)
    if "embeddings" in name:
        return (0.02 if "position" in name else 0.01, 0)     # so that words do not repeat for ever
    if name.endswith("bias"):
        return ((0.003 if "layer.0.crossattention.output" in name else 0.3) * share, 0)
    if "layer.0.crossattention.self.query" in name:
        return (100 / d ** 0.5, 0)
    if "layer.0.crossattention.output" in name:
        return (0.012 / d ** 0.5, 0)
    return ((1.7 if "query" in name or "key" in name else share) / d ** 0.5, 0)


def blip_std(name, p, n_layers=2):
    if name.startswith("vision_model"):
        return vision_std(name, p)
    if name.startswith(("vision_proj", "text_proj", "itm_head")):
        return (0.5, 0) if name.endswith("bias") else (1 / p.shape[-1] ** 0.5, 0)
    return bert_std(name, p, n_layers)


def clip_std(name, p):
    if name == "logit_scale":
        return (0, 2.6592)
    if name.endswith("_projection.weight"):
        return (1 / p.shape[-1] ** 0.5, 0)
    return vision_std(name, p)


# --- BLIP ---------------------------------------------------------------------------------------

def blip_config(kind, vocab, text, vision, d_proj):
    """config.json as the hub has it: with the generation keys of an old transformers inside."""
    n = len(vocab)
    return {
        "architectures": [kind], "image_text_hidden_size": d_proj, "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "model_type": "blip", "projection_dim": 28,
        "text_config": {
            "architectures": None, "attention_probs_dropout_prob": 0.0, "bos_token_id": n,
            "encoder_hidden_size": vision["hidden_size"], "eos_token_id": 2, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0, "initializer_range": 0.02, "is_decoder": True,
            "label_smoothing": 0.0, "layer_norm_eps": 1e-12, "max_length": 20, "min_length": 0,
            "model_type": "blip_text_model", "num_beams": 1, "pad_token_id": 0,
            "projection_dim": text["hidden_size"], "sep_token_id": vocab.index("[SEP]"),
            "tie_word_embeddings": True, "use_cache": True, "vocab_size": n + 2, **text},
        "tie_word_embeddings": True, "torch_dtype": "float32", "transformers_version": None,
        "vision_config": {
            "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "gelu",
            "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
            "model_type": "blip_vision_model",
            "num_channels": 3, "projection_dim": 28, **vision}}


def bias_logits(bias, vocab, sep):
    """Words are likelier than letters, special tokens unlikely, and [SEP] as likely as given."""
    for i, t in enumerate(vocab + ["[DEC]", "[ENC]"]):
        bias[i] += -4 if t[0] == "[" and len(t) > 1 else 1.5 if len(t.strip("#")) > 1 else -1
    bias[vocab.index("[SEP]")] = sep


def blip_folder(out, name, cls, text, vision, seed, sep=0.0, dtype=torch.float32,
                tied_copies=False, position_ids=False, d_proj=20, vocab_file=None):
    """Writes a BLIP checkpoint. tied_copies: the file repeats the tied output weights."""
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    vocab = common.write_bert_tokenizer(folder, 512, "BlipProcessor", vocab_file=vocab_file)
    config = blip_config(cls.__name__, vocab, text, vision, d_proj)
    write_json(folder, "config.json", config)
    s = vision["image_size"]
    write_json(folder, "preprocessor_config.json", {
        "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
        "image_mean": MEAN, "image_processor_type": "BlipImageProcessor", "image_std": STD,
        "processor_class": "BlipProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": s, "width": s}, "size_divisor": 32})
    model = cls(BlipConfig(**json.loads(json.dumps(config))))
    common.draw(model, seed, lambda n, p: blip_std(n, p, text["num_hidden_layers"]))
    if hasattr(model, "text_decoder"):
        bias_logits(model.text_decoder.cls.predictions.bias.data, vocab, sep)
    tensors = {k: v for k, v in model.state_dict().items()
               if tied_copies or "cls.predictions.decoder" not in k}
    if position_ids:
        stack = "text_decoder.bert." if hasattr(model, "text_decoder") else "text_encoder."
        ids = torch.arange(text["max_position_embeddings"])[None]
        tensors[stack + "embeddings.position_ids"] = ids
    common.write_checkpoint(folder, tensors, dtype)
    if hasattr(model, "text_decoder"):
        write_json(folder, "generation_config.json",
                   {"_from_model_config": True, "bos_token_id": len(vocab), "eos_token_id": 2,
                    "max_length": 7, "num_beams": 2, "pad_token_id": 0,
                    "transformers_version": None})
    return folder


class Answers:
    """Collects tensors and the JSON description of one checkpoint's answers."""

    def __init__(self, out, name):
        self.out, self.name, self.tensors, self.cases = out, name, {}, []

    def add(self, case, tensors, **facts):
        """case: e.g. 'cases.0.'; facts go to the JSON."""
        self.cases.append({"image": None, "text": None, **facts})
        for k, v in tensors.items():
            self.tensors[f"cases.{len(self.cases) - 1}.{k}"] = v.clone().contiguous()

    def write(self):
        save_file(self.tensors, os.path.join(self.out, self.name + ".answers.safetensors"))
        part = {"traced": Trace.only} if Trace.only else {}     # not all modules, but these
        write_json(self.out, self.name + ".answers.json",
                   {"model": self.name, **part, "cases": self.cases})


def pixels(processor, out, image):
    img = ImageOps.exif_transpose(Image.open(os.path.join(out, "pictures", image))).convert("RGB")
    return processor(images=img, return_tensors="pt")["pixel_values"].float()


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


def keep_trace(answers, trace):
    """BLIP normalises the class token once more for a pooled output that nothing here uses."""
    answers.tensors.update({k: v for k, v in trace.stop().items()
                            if k != "vision_model.post_layernorm.1"})


def blip_generation(out, name, folder, cls, cases, traced=True):
    """Answers of a captioner or VQA model. cases: (image, text or None); the first is traced."""
    model = common.load_exactly(cls, folder)
    processor = BlipImageProcessorPil.from_pretrained(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    sep = model.config.text_config.sep_token_id
    answers = Answers(out, name)
    for i, (image, text) in enumerate(cases):
        inputs = {"pixel_values": pixels(processor, out, image)}
        if text is not None:
            t = tok(text, return_tensors="pt")
            inputs.update(input_ids=t["input_ids"], attention_mask=t["attention_mask"])

        def fresh():                      # generate() overwrites the first id
            return {k: v.clone() for k, v in inputs.items()}
        if i == 0:
            answers.tensors["pixel_values"] = inputs["pixel_values"]
        if i == 0 and traced:
            trace = Trace(model)
            model.generate(**fresh(), max_new_tokens=TRACE_TOKENS)
            keep_trace(answers, trace)
        g, b = generation.greedy(model, **fresh()), generation.beams(model, 3, **fresh())
        tensors = {f"greedy.{k}": v for k, v in g.items()} | {f"beams.{k}": v for k, v in b.items()}
        if text is not None:
            tensors["input_ids"] = inputs["input_ids"][0].int()
        answers.add(i, tensors, image=image, text=text,
                    greedy={"text": decode(tok, g["ids"]), "margin": g["margin"].min().item(),
                            "stop": "eos" if g["ids"][-1] == sep else "length",
                            "ids": g["ids"].tolist()},
                    beams={"text": decode(tok, b["ids"]), "margin": b["margin"].min().item(),
                           "stop": "eos" if b["ids"][-1] == sep else "length",
                           "ids": b["ids"].tolist()})
    answers.write()
    return answers


def blip_matching(out, name, folder, cases):
    """Answers of an image-text matching model. cases: (image, [texts]); the first is traced.

    Order of calls in the trace: the image, then for each text the matching head, then the
    contrastive one (without cross-attention)."""
    model = common.load_exactly(BlipForImageTextRetrieval, folder)
    processor = BlipImageProcessorPil.from_pretrained(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    answers = Answers(out, name)
    for i, (image, texts) in enumerate(cases):
        p = pixels(processor, out, image)
        trace = Trace(model)
        for j, text in enumerate(texts):
            t = dict(tok(text, return_tensors="pt"))
            t.pop("token_type_ids", None)
            itm = model(pixel_values=p, use_itm_head=True, **t).itm_score
            itc = model(pixel_values=p, use_itm_head=False, **t).itm_score
            if i == 0 and j == 0:
                answers.tensors["pixel_values"] = p
            answers.add(i, {"input_ids": t["input_ids"][0].int(), "itm": itm[0],
                            "match": torch.softmax(itm[0], 0)[1:], "cosine": itc[0]},
                        image=image, text=text,
                        match=torch.softmax(itm[0], 0)[1].item(), cosine=itc[0, 0].item())
        made = trace.stop()
        if i == 0:                        # the image tower ran for every text: keep its first run
            answers.tensors.update({k: v for k, v in made.items()
                                    if not k.startswith("vision_") or not k.split(".")[-1].isdigit()
                                    or "layers" == k.split(".")[-2]})
    answers.write()
    return answers


# --- CLIP ---------------------------------------------------------------------------------------

def clip_folder(out, name, text, vision, seed, dtype=torch.float32, position_ids=False, legacy=True,
                d_proj=20, files=None):
    """Writes a CLIP checkpoint. legacy: config.json as OpenAI's, with eos_token_id 2."""
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    vocab, bos, eos = common.write_clip_tokenizer(folder, text["max_position_embeddings"], files)
    ids = (dict(bos_token_id=0, eos_token_id=2, pad_token_id=1) if legacy
           else dict(bos_token_id=bos, eos_token_id=eos, pad_token_id=1))
    config = {
        "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592,
        "model_type": "clip", "projection_dim": d_proj,
        "text_config": {"attention_dropout": 0.0, "layer_norm_eps": 1e-5, "projection_dim": d_proj,
                        "model_type": "clip_text_model", "vocab_size": len(vocab), **ids, **text},
        "torch_dtype": "float32", "transformers_version": None,
        "vision_config": {"attention_dropout": 0.0, "layer_norm_eps": 1e-5, "num_channels": 3,
                          "model_type": "clip_vision_model", "projection_dim": d_proj, **vision}}
    if legacy:                            # null in OpenAI's files
        config.update(text_config_dict=None, vision_config_dict=None)
    write_json(folder, "config.json", config)
    s = vision["image_size"]
    write_json(folder, "preprocessor_config.json", {
        "crop_size": s, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD,
        "resample": 3, "size": s} if legacy else {
        "crop_size": {"height": s, "width": s}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN,
        "image_processor_type": "CLIPImageProcessor", "image_std": STD, "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": s + 4}})
    model = CLIPModel(CLIPConfig(**json.loads(json.dumps(config))))
    common.draw(model, seed, clip_std)
    tensors = dict(model.state_dict())
    if position_ids:
        n = (s // vision["patch_size"]) ** 2 + 1
        tensors["vision_model.embeddings.position_ids"] = torch.arange(n)[None]
        n = text["max_position_embeddings"]
        tensors["text_model.embeddings.position_ids"] = torch.arange(n)[None]
    common.write_checkpoint(folder, tensors, dtype)
    return folder


def clip_answers(out, name, folder, images, texts, traced=True):
    """The trace is of the first picture, then of each text alone (so without padding)."""
    model = common.load_exactly(CLIPModel, folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    n_max = model.config.text_config.max_position_embeddings
    answers = Answers(out, name)
    trace = Trace(model)
    batch = [pixels(processor, out, i) for i in images]
    rows = [model.get_image_features(batch[0]).pooler_output]
    limits = dict(truncation=True, max_length=n_max, return_tensors="pt")
    ids = [tok(t, **limits)["input_ids"] for t in texts]
    words = torch.cat([model.get_text_features(i).pooler_output for i in ids])
    made = trace.stop()
    answers.tensors.update(made if traced else {})
    answers.tensors["pixel_values"] = batch[0]
    rows = torch.cat(rows + [model.get_image_features(p).pooler_output for p in batch[1:]])
    all_texts = tok(texts, padding=True, **limits)       # the batch, padded: the same numbers
    whole = model(pixel_values=torch.cat(batch), **all_texts)
    assert torch.allclose(whole.text_embeds, torch.nn.functional.normalize(words), atol=1e-5)
    for i, image in enumerate(images):
        logits = whole.logits_per_image[i]
        answers.add(i, {"vector": rows[i], "vector_normalized": whole.image_embeds[i],
                        "logits": logits, "scores": torch.softmax(logits, 0)},
                    image=image, scores=torch.softmax(logits, 0).tolist())
    for i, t in enumerate(texts):
        answers.add(i, {"vector": words[i], "vector_normalized": whole.text_embeds[i],
                        "input_ids": ids[i][0].int()}, text=t)
    answers.write()
    gap = (whole.logits_per_image[0] - whole.logits_per_image[1]).abs().max().item()
    assert gap > 0.1, (name, gap)
    return answers


# --- BERT sentence encoders ---------------------------------------------------------------------

def bert_folder(out, name, size, seed, dtype=torch.float32, legacy=False, pooling="mean",
                normalize=True, max_seq=None, modules=True, tokenizer_json=True,
                vocab_file=None):
    """Writes a sentence encoder. legacy: 'bert.' in front, gamma and beta, heads of 2018."""
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    vocab = common.write_bert_tokenizer(folder, 512, tokenizer_json=tokenizer_json,
                                        vocab_file=vocab_file)
    config = {"architectures": ["BertForMaskedLM" if legacy else "BertModel"],
              "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
              "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
              "layer_norm_eps": 1e-12, "model_type": "bert", "pad_token_id": 0,
              "position_embedding_type": "absolute", "transformers_version": "4.8.2",
              "type_vocab_size": 2, "use_cache": True, "vocab_size": len(vocab), **size}
    write_json(folder, "config.json", config)
    model = BertModel(BertConfig(**json.loads(json.dumps(config))))
    common.draw(model, seed, lambda n, p: bert_std(n, p, size["num_hidden_layers"]))
    tensors = dict(model.state_dict())
    if legacy:
        tensors = {"bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma")
                   .replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in tensors.items()}
        d, head = size["hidden_size"], "cls.predictions."
        for k, shape in {head + "bias": [len(vocab)], head + "transform.dense.weight": [d, d],
                         head + "transform.dense.bias": [d],
                         head + "transform.LayerNorm.gamma": [d],
                         head + "transform.LayerNorm.beta": [d],
                         "cls.seq_relationship.weight": [2, d],
                         "cls.seq_relationship.bias": [2]}.items():
            tensors[k] = common.uniform(seed, k, shape, 0.1)
    else:
        tensors["embeddings.position_ids"] = torch.arange(size["max_position_embeddings"])[None]
    common.write_checkpoint(folder, tensors, dtype)
    if modules:
        write_modules(folder, size["hidden_size"], pooling, normalize)
    if max_seq:
        write_json(folder, "sentence_bert_config.json",
                   {"max_seq_length": max_seq, "do_lower_case": False})
    return folder


def write_modules(folder, d, pooling, normalize):
    """modules.json and 1_Pooling/config.json, as sentence-transformers writes them."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    parts += [("2_Normalize", "Normalize")] * normalize
    write_json(folder, "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": "sentence_transformers.models." + kind}
        for i, (path, kind) in enumerate(parts)])
    os.makedirs(os.path.join(folder, "1_Pooling"), exist_ok=True)
    write_json(folder, "1_Pooling/config.json", {
        "word_embedding_dimension": d, "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False})


def bert_answers(out, name, folder, texts, prefix="", pooling="mean", max_seq=None):
    """Each text alone; the first two are traced. Pooled as sentence-transformers does."""
    model, tok = common.load_exactly(BertModel, folder), AutoTokenizer.from_pretrained(folder)
    answers = Answers(out, name)
    longest = max_seq or model.config.max_position_embeddings
    for i, text in enumerate(texts):
        t = tok(text, truncation=True, max_length=longest, return_tensors="pt")
        if i == 0:
            trace = Trace(model, lambda n: None if "pooler" in n else prefix + n)
        h = model(**t).last_hidden_state[0]
        if i == 1:
            answers.tensors.update(trace.stop())
        v = h[0] if pooling == "cls" else h.mean(0)
        answers.add(i, {"input_ids": t["input_ids"][0].int(), "last_hidden_state": h, "vector": v,
                        "vector_normalized": torch.nn.functional.normalize(v, dim=0)}, text=text)
    answers.write()
    return answers
