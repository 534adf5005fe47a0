"""generation.py -- BLIP's generate() as transformers runs it, with what a comparison needs recorded.

For each sequence: the ids (prompt included), the logits of every step of the greedy one, and the
margins: how far the reference's choice was from the next best one. Two programs whose logits differ
by less than half a margin must choose the same token.

  greedy: margin[i] = best logit - second best logit of step i
  beams:  margin[i] = smallest gap between neighbours among the 2B+1 best candidates of step i (their
          order decides which live, which finish and in which place), and for the last entry the gap
          between the best two finished hypotheses
"""
import torch
from transformers.generation.utils import GenerationMixin


class BeamMargins:
    """While active, notes the gaps between the candidates that beam search ranks at each step."""

    def __enter__(self):
        self.margins, self.finished = [], None
        self.rank, self.finish = GenerationMixin._get_top_k_continuations, GenerationMixin._update_finished_beams
        outer = self

        def rank(model, accumulated_log_probs, *args, **kwargs):
            best = torch.topk(accumulated_log_probs[0], kwargs["beams_to_keep"] + 1)[0]
            outer.margins.append((best[:-1] - best[1:]).min().item())
            return outer.rank(model, accumulated_log_probs, *args, **kwargs)

        def finish(model, *args, **kwargs):
            out = outer.finish(model, *args, **kwargs)
            outer.finished = out[1][0]
            return out
        GenerationMixin._get_top_k_continuations = rank
        GenerationMixin._update_finished_beams = finish
        return self

    def __exit__(self, *exc):
        GenerationMixin._get_top_k_continuations = self.rank
        GenerationMixin._update_finished_beams = self.finish
        self.margins.append((self.finished[0] - self.finished[1]).item())


def greedy(model, **inputs):
    """{ids, logits [steps, n_vocab], margin [steps]} of model.generate() without options."""
    out = model.generate(**inputs, return_dict_in_generate=True, output_logits=True)
    logits = torch.stack([step[0] for step in out.logits])
    best = torch.topk(logits, 2)[0]
    return {"ids": out.sequences[0].int(), "logits": logits, "margin": best[:, 0] - best[:, 1]}


def beams(model, n, **inputs):
    """{ids, score [1], margin [steps + 1]} of model.generate(num_beams=n)."""
    with BeamMargins() as b:
        out = model.generate(**inputs, num_beams=n, return_dict_in_generate=True, output_scores=True)
    return {"ids": out.sequences[0].int(), "score": out.sequences_scores.clone(),
            "margin": torch.tensor(b.margins)}
