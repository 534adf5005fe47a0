"""beams.py -- what transformers' greedy and beam search make of toy models.

    python beams.py FILE

A toy model is a table: the logits of the next token depend on the last two tokens only, through a
little generator of random numbers that test/sample.c has too, so that the file holds no weights:

    state = (seed * 1000003 + a) * 1000003 + b, for the last two tokens a, b
    for each token: state = state * 6364136223846793005 + 1442695040888963407  (mod 2^64)
                    logit = (state >> 40) / 2^24 * spread, + end_bonus for the end token 0

Each line of the file: seed n_vocab spread end_bonus beams max_tokens prompt(2 ids) | ids, prompt
included | mean log-probability. Spread and bonus are multiples of 1/4, so all logits are exact in
f32. Cases that were closer than 1e-4 anywhere are left out: they could go either way.
"""
import sys

import common                             # first: it keeps everything offline
import torch
from generation import BeamMargins
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

MASK = (1 << 64) - 1


def next_logits(seed, n_vocab, spread, bonus, a, b):
    state = ((seed * 1000003 + a) * 1000003 + b) & MASK
    out = []
    for _ in range(n_vocab):
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        out.append((state >> 40) / 2 ** 24 * spread)
    out[0] += bonus
    return out


class Toy(PreTrainedModel, GenerationMixin):
    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    def forward(self, input_ids, **kwargs):
        rows = [next_logits(*self.toy, int(s[-2]), int(s[-1])) for s in input_ids]
        return CausalLMOutput(logits=torch.tensor(rows, dtype=torch.float32)[:, None])


def run(model, case):
    seed, n_vocab, spread, bonus, beams, max_tokens, a, b = case
    model.toy = (seed, n_vocab, spread, bonus)
    options = GenerationConfig(num_beams=beams, max_new_tokens=max_tokens, eos_token_id=0, pad_token_id=0,
                               use_cache=False)
    ids = torch.tensor([[a, b]])
    if beams == 1:
        out = model.generate(ids, generation_config=options, return_dict_in_generate=True, output_logits=True)
        steps = torch.log_softmax(torch.stack([s[0] for s in out.logits]), -1)
        best = torch.topk(steps, 2)[0]
        return out.sequences[0].tolist(), best[:, 0].mean().item(), (best[:, 0] - best[:, 1]).min().item()
    with BeamMargins() as margins:
        out = model.generate(ids, generation_config=options, return_dict_in_generate=True, output_scores=True)
    return out.sequences[0].tolist(), out.sequences_scores[0].item(), min(margins.margins)


def main(path):
    model = Toy(PreTrainedConfig())
    lines = []
    for seed in range(400):
        pick = torch.Generator().manual_seed(seed)
        one = lambda *of: of[int(torch.randint(len(of), (1,), generator=pick))]
        beams, n_vocab = one(1, 2, 2, 3, 3, 4, 5, 8), one(17, 31, 60)
        case = (seed, n_vocab, one(1.0, 2.5, 6.0), one(-1.0, 0.0, 0.5, 1.0, 2.0, 4.0), beams,
                one(1, 2, 3, 8, 20, 40), one(1, 2, 3), one(4, 5, 6))
        ids, score, margin = run(model, case)
        if margin > 1e-4:
            lines.append(f"{' '.join(str(c) for c in case)} | {' '.join(map(str, ids))} | {score:.6f}\n")
    with open(path, "w") as f:
        f.writelines(lines)


if __name__ == "__main__":
    main(sys.argv[1])
