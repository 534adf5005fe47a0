"""generation.py -- BLIP's generate() as transformers runs it, with all that a comparison needs.

For each sequence: the ids (prompt included), the logits of every step of the greedy one, and the
margins: how far the reference's choice was from the next best one. Two programs whose logits differ
by less than half a margin must choose the same token.

  greedy: margin[i] = best logit - second best logit of step i
  beams:  margin[i] = the smallest of: the gaps between neighbours among the 2B+1 best candidates of
          step i (their order decides which live, which finish and in which place), and the distance
          from the other side of the rule that ends the search; the last entry is the gap between
          the best two finished hypotheses
"""
import torch
from transformers.generation.utils import GenerationMixin


class BeamMargins:
    """While active, notes how clear each decision of beam search is. One sentence at a time."""
    HOOKED = ("_get_top_k_continuations", "_update_finished_beams", "_check_early_stop_heuristic")

    def __enter__(self):
        self.margins, self.finished = [], None
        self.real = {name: GenerationMixin.__dict__[name] for name in self.HOOKED}
        rank, finish, stop = (getattr(GenerationMixin, name) for name in self.HOOKED)

        def ranked(model, accumulated_log_probs, **kwargs):
            best = torch.topk(accumulated_log_probs[0], kwargs["beams_to_keep"] + 1)[0]
            self.margins.append((best[:-1] - best[1:]).min().item())
            return rank(model, accumulated_log_probs, **kwargs)

        def finished(model, **kwargs):
            out = finish(model, **kwargs)
            self.finished = out[1][0]
            return out

        def stopped(running_beam_scores, beam_scores, is_sent_finished, cur_len, decoder_prompt_len,
                    **kwargs):
            if is_sent_finished.all():
                best = running_beam_scores[0, 0] / (cur_len - decoder_prompt_len)
                gap = (best - beam_scores[0].min()).abs().item()
                self.margins[-1] = min(self.margins[-1], gap)
            return stop(running_beam_scores=running_beam_scores, beam_scores=beam_scores,
                        is_sent_finished=is_sent_finished, cur_len=cur_len,
                        decoder_prompt_len=decoder_prompt_len, **kwargs)
        GenerationMixin._get_top_k_continuations = ranked
        GenerationMixin._update_finished_beams = finished
        GenerationMixin._check_early_stop_heuristic = staticmethod(stopped)
        return self

    def __exit__(self, *exc):
        for name, f in self.real.items():
            setattr(GenerationMixin, name, f)
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
        out = model.generate(**inputs, num_beams=n, return_dict_in_generate=True,
                             output_scores=True)
    return {"ids": out.sequences[0].int(), "score": out.sequences_scores.clone(),
            "margin": torch.tensor(b.margins)}
