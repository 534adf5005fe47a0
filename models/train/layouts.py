"""The models, in transformers' own classes, and the heads that help them learn.

    tower      BlipVisionModel                64 x 64 -> 1 + 8*8 tokens of 128
    captioner  BlipForConditionalGeneration   tower + 2-layer text decoder
    clip       CLIPModel                      the same tower in CLIP's layout + 2-layer text encoder

Each is wrapped in a module with loss(batch) -> (loss, {name: value}); the heads live in the wrapper
and are thrown away, so that what is saved is exactly the published layout.

Easy to get wrong
- Positions start as strong 2-D sines. Left at the usual tiny start they are too weak to be used,
  and the decoder then names things it cannot put in order.
- CLIP has a LayerNorm before its first layer, BLIP has none, and it ruins a tower that was trained
  without. to_clip() starts it as (nearly) the identity; see there.
- bfloat16 halves the time of a step. Attention stays "eager": the fused one is slow for 65 tokens.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import (BlipConfig, BlipForConditionalGeneration, CLIPConfig, CLIPModel)

from concepts import BACKGROUNDS, CONCEPTS
from tokens import DEC, PAD, SEP, bpe, wordpiece
from world import GRID, SIZE

WIDTH, HEADS, MLP, LAYERS, TEXT_LAYERS, TEXT_LENGTH = 128, 4, 256, 5, 2, 32
INIT_STD, POSITION_SIZE = .06, 1.4
N = len(CONCEPTS)
MEAN, STD = .5, .5                          # of the pixels, in both preprocessor_config.json
FAR = 64.                                   # see to_clip()
POOL, REUSE = 2048, 4                       # see Pool


def sines():
    """[GRID*GRID, WIDTH]: sin, cos of row and column, a quarter each; pi/16 to 3 pi/4 a patch."""
    quarter = WIDTH // 4
    frequency = torch.logspace(math.log10(math.pi / 16), math.log10(.75 * math.pi), quarter)
    angle = torch.arange(GRID)[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], 1)                          # [GRID, WIDTH/2]
    row, column = wave[:, None].expand(GRID, GRID, -1), wave[None].expand(GRID, GRID, -1)
    return POSITION_SIZE * torch.cat([row, column], 2).reshape(GRID * GRID, WIDTH)


def start(module):
    """Matrices from a normal distribution, larger than the default: small models learn sooner."""
    for name, p in module.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, 0, INIT_STD)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    return module


def blip():
    sizes = dict(hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS)
    config = BlipConfig(
        vision_config=dict(**sizes, num_hidden_layers=LAYERS, image_size=SIZE,
                           patch_size=SIZE // GRID),
        text_config=dict(**sizes, num_hidden_layers=TEXT_LAYERS, vocab_size=len(wordpiece()),
                         max_position_embeddings=TEXT_LENGTH, encoder_hidden_size=WIDTH,
                         bos_token_id=DEC, eos_token_id=SEP, sep_token_id=SEP, pad_token_id=PAD),
        projection_dim=WIDTH, image_text_hidden_size=WIDTH)
    model = start(BlipForConditionalGeneration(config))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding[0, 1:] = sines()
        model.text_decoder.bert.embeddings.word_embeddings.weight[PAD] = 0
    return model


def clip():
    sizes = dict(hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS,
                 hidden_act="gelu", projection_dim=WIDTH)
    last = len(bpe()[0]) - 1
    config = CLIPConfig(
        vision_config=dict(**sizes, num_hidden_layers=LAYERS, image_size=SIZE,
                           patch_size=SIZE // GRID),
        text_config=dict(**sizes, num_hidden_layers=TEXT_LAYERS, vocab_size=last + 1,
                         max_position_embeddings=TEXT_LENGTH,
                         bos_token_id=last - 1, eos_token_id=last, pad_token_id=last),
        projection_dim=WIDTH)
    config._attn_implementation = "eager"
    return start(CLIPModel(config))


class PatchHeads(nn.Module):
    """What each patch token should know: which thing it shows, as which mention of the caption, how
    many of it there are, and where it is; and the class token: the background and all things."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(WIDTH, N + 1 + 3 + 3 + GRID + GRID)
        self.whole = nn.Linear(WIDTH, N + len(BACKGROUNDS))
        start(self)

    def split(self, tokens):
        """[B, 1 + GRID*GRID, WIDTH] -> thing, rank, count, row, column, things, background"""
        patch, whole = self.patch(tokens[:, 1:]).float(), self.whole(tokens[:, 0]).float()
        return *patch.split([N + 1, 3, 3, GRID, GRID], 2), *whole.split([N, len(BACKGROUNDS)], 1)

    def loss(self, tokens, batch):
        thing, rank, count, row, column, things, background = self.split(tokens)
        weight = torch.ones(N + 1)
        weight[N] = .15                                          # most patches are background
        place = torch.arange(GRID).expand(len(tokens), GRID, GRID)
        parts = {
            "thing": cross_entropy(thing, batch["thing"], weight),
            "rank": cross_entropy(rank, batch["rank"]),
            "count": cross_entropy(count, batch["count"]),
            "place": .1 * (cross_entropy(row, place.mT.flatten(1))
                           + cross_entropy(column, place.flatten(1))),
            "things": 2. * F.binary_cross_entropy_with_logits(things, batch["things"]),
            "background": .3 * F.cross_entropy(background, batch["background"]),
        }
        some = batch["thing"][:4]                                # argmax is slow: a few will do
        known = (some >= 0) & (some < N)
        right = (thing[:4].argmax(2) == some)[known].float().mean().item()
        return sum(parts.values()), {**{k: v.item() for k, v in parts.items()}, "patches": right}


def cross_entropy(scores, target, weight=None):
    """[B, T, C] scores, [B, T] targets; -1: no opinion. Zero where there is no target at all."""
    if not (target >= 0).any():
        return scores.sum() * 0
    return F.cross_entropy(scores.flatten(0, 1), target.flatten(), weight, ignore_index=-1)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = blip().vision_model
        self.heads = PatchHeads()

    def tokens(self, pixels):
        return self.vision(pixels).last_hidden_state

    def loss(self, batch):
        return self.heads.loss(self.tokens(batch["pixels"]), batch)


class Pool:
    """The last POOL pictures as the frozen tower sees them, to be read several times: for the
    decoder alone, the picture and the tower are most of the time of a step."""

    def __init__(self):
        self.tokens = torch.empty(POOL, 1 + GRID * GRID, WIDTH)
        self.ids = torch.full((POOL, TEXT_LENGTH), PAD)
        self.n = 0                                               # ever put in

    def exchange(self, tokens, ids):
        """Puts in a few pictures and takes out REUSE times as many, at random."""
        at = torch.arange(self.n, self.n + len(ids)) % POOL
        self.n += len(ids)
        self.tokens[at] = tokens.float()
        self.ids[at] = F.pad(ids, (0, TEXT_LENGTH - ids.shape[1]), value=PAD)
        take = torch.randint(min(self.n, POOL), (REUSE * len(ids),))
        ids = self.ids[take]
        return self.tokens[take], ids[:, :int((ids != PAD).sum(1).max())]


class Captioner(nn.Module):
    """frozen: the tower only gives features, and the decoder learns to read them."""

    def __init__(self, frozen=False):
        super().__init__()
        self.blip, self.heads, self.frozen = blip(), PatchHeads(), frozen
        self.pool = Pool() if frozen else None

    def take_tower(self, state):
        self.blip.vision_model.load_state_dict(sub_state(state, "vision."))
        self.heads.load_state_dict(sub_state(state, "heads."))

    def trained(self):
        return self.blip.text_decoder if self.frozen else self

    def tokens(self, pixels):
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            return self.blip.vision_model(pixels).last_hidden_state

    def scores(self, ids, tokens):
        decoder = self.blip.text_decoder
        return decoder(ids, encoder_hidden_states=tokens, use_cache=False).logits

    def loss(self, batch):
        tokens = self.tokens(batch["pixels"])
        ids = batch["ids"]                                       # [DEC] a dog ... [SEP] [PAD]
        if self.frozen:
            tokens, ids = self.pool.exchange(tokens, ids)
        scores = self.scores(ids[:, :-1], tokens)
        target = torch.where(ids[:, 1:] == PAD, -1, ids[:, 1:])
        words = cross_entropy(scores.float(), target)
        if self.frozen:
            return words, {"words": words.item()}
        heads, seen = self.heads.loss(tokens, batch)
        return words + .5 * heads, {"words": words.item(), **seen}

    @torch.no_grad()
    def captions(self, pixels):
        """Greedy, without a cache: ids [B, n]; for watching the training."""
        tokens = self.tokens(pixels)
        ids = torch.full((len(pixels), 1), DEC)
        done = torch.zeros(len(pixels), dtype=torch.bool)
        while ids.shape[1] < TEXT_LENGTH and not done.all():
            best = torch.where(done, PAD, self.scores(ids, tokens)[:, -1].argmax(1))
            done |= best == SEP
            ids = torch.cat([ids, best[:, None]], 1)
        return ids


class Clip(nn.Module):
    """Pictures against sentences: the names of all concepts (in one template, another each step)
    and the captions of the batch."""

    def __init__(self):
        super().__init__()
        self.clip, self.heads = clip(), PatchHeads()

    def take_tower(self, state, pixels):
        to_clip(self.clip.vision_model, sub_state(state, "vision."), pixels)
        self.heads.load_state_dict(sub_state(state, "heads."))

    def hidden(self, pixels):
        """All tokens, normalised as CLIP does with its class token. [B, 65, WIDTH]"""
        vision = self.clip.vision_model
        return vision.post_layernorm(vision(pixels).last_hidden_state)

    def image_vectors(self, hidden):
        return F.normalize(self.clip.visual_projection(hidden[:, 0]).float(), dim=-1)

    def text_vectors(self, ids):
        pooled = self.clip.text_model(ids).pooler_output
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def loss(self, batch):
        hidden = self.hidden(batch["pixels"])
        image, text = self.image_vectors(hidden), self.text_vectors(batch["sentences"])
        scale = self.clip.logit_scale.clamp(max=math.log(100)).exp()
        names, captions = (scale * image @ text.T).split([N, len(image)], 1)
        present = batch["things"] / batch["things"].sum(1, keepdim=True)
        naming = F.cross_entropy(names, present)
        own = torch.arange(len(image))
        pairing = (F.cross_entropy(captions, own) + F.cross_entropy(captions.T, own)) / 2
        heads, seen = self.heads.loss(hidden, batch)
        one = batch["things"].sum(1) == 1
        right = (names.argmax(1) == batch["things"].argmax(1))[one].float().mean().item()
        return naming + .5 * pairing + .5 * heads, {
            "naming": naming.item(), "pairing": pairing.item(), "named": right, **seen}


def sub_state(state, prefix):
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


@torch.no_grad()
def to_clip(vision, state, pixels):
    """Puts a BLIP tower's weights into a CLIP tower that computes (nearly) the same.

    Names and shapes differ a little: q, k, v apart, no bias of the patches (it goes into the
    positions). And CLIP normalises the tokens first. That changes little if all tokens have the
    same large component: add FAR to one channel of every position and -FAR to another; the standard
    deviation is then nearly FAR * sqrt(2 / WIDTH) whatever the rest is, the norm's weight
    multiplies by it again and its bias takes FAR away. (The mean that the norm removes would be
    removed by the first layer's own norm anyway.) Training goes on from there."""
    new = {}
    for name, value in state.items():
        if ".qkv." in name:
            for part, piece in zip("qkv", value.chunk(3)):
                new[name.replace("qkv", part + "_proj")] = piece
        else:
            new[name.replace("self_attn.projection", "self_attn.out_proj")] = value
    bias = new.pop("embeddings.patch_embedding.bias")
    position = new.pop("embeddings.position_embedding")[0].clone()
    new["embeddings.class_embedding"] = new["embeddings.class_embedding"].flatten()
    position[1:] += bias
    far = torch.zeros(WIDTH)
    far[0], far[1] = FAR, -FAR
    new["embeddings.position_embedding.weight"] = position + far
    new["pre_layrnorm.weight"], new["pre_layrnorm.bias"] = torch.ones(WIDTH), -far
    vision.load_state_dict(new, strict=False)
    sizes = vision.embeddings(pixels).var(-1, correction=0)
    vision.pre_layrnorm.weight.fill_(sizes.mean().sqrt())
    return vision
