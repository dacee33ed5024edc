"""RMU: drive the forget records' hidden states to one random direction, keep the retain records' where they were.

paper      L = mean_s mean_t ||h_forget - c u||^2 + alpha mean_s mean_t ||h_retain - h_teacher||^2           App. B.10
           h [D] one decoder layer's output, ||.||^2 the sum of squares over D; u = v / ||v||, v ~ U[0,1)^D, fixed
released   L = beta MSE(mean_t h_forget [B,D], v [B,1,D]) + MSE(h_retain, h_teacher)             mm/trainer.py:302-326
           v = 300 v' / ||v'||, v' ~ U[0,1), its norm taken over all of B x D
           before 2025-03-30: a new random vector at every step, MSE per token
original   L = MSE(h_forget, c u) + alpha MSE(h_retain, h_teacher), padding included;  c = 20, alpha = 100; only the
           down projections of layers 5-7 are trained                                            WMDP, rmu/unlearn.py

needs      hidden states of forget; of retain also the teacher's (the model before unlearning); no logits
positions  every real token, prompt and image included (row set attention): mean over the tokens of each sequence, then
           over sequences; squares are summed over D, not averaged
resolved   R1 layer 7, 0-based: the output of decoder layer 7 of 0, 1, ...; smaller models need another.
           R2 c is not given: 300, the released value.
           R3 alpha is named in the text and absent from the formula: 1, on the retain term.
           R4 one u for the whole run, a function of the seed alone.
deviations D1 the tokens' mean activation is compared, not each token's.
           D2 B control vectors, each of norm about 300 / sqrt(B), and broadcasting [B,D] against [B,1,D] compares every
              sample with every vector; only B = 1 is clean. The first batch fixes B.
           D3 the mean runs over padding too. D4 squares are averaged over D. D5 the weight, beta, is on forget.
           D6 as released it cannot start on stock LLaVA or on Qwen2-VL: it reads attributes that they lack.
at teacher the retain term and its gradient are 0
"""

from dataclasses import dataclass

import torch

from ..data.draws import uniform_vector
from ..errors import UserError
from ..losses.reductions import sequence_mean
from ..losses.formulas import accumulation_dtype
from ..settings import setting
from .loss import Loss, Need, Variant, check_finite


@dataclass(frozen=True)
class Options:
    layer: int = setting(7, "decoder layer, 0-based, whose output is steered", "paper App. B.10")
    c: float = setting(300.0, "length of the target vector", "released code (mm/trainer.py); the paper gives none")
    alpha: float = setting(1.0, "weight of the retain term", "paper App. B.10 names it; its formula has none: 1")
    seed: int = setting(0, "fixes the direction u")

    def __post_init__(self):
        check_finite(self, "c", "alpha")
        if self.layer < 0:
            raise UserError(f"option layer is {self.layer}; expected a decoder layer, counted from 0")


def control_vector(seed, width) -> torch.Tensor:
    """u [width], float64, norm 1, every entry >= 0: a pure function of its arguments."""
    v = torch.from_numpy(uniform_vector(seed, "rmu control vector", width))
    return v / v.norm()


def paper(splits, options) -> Loss:
    forget, retain = splits["forget"], splits["retain"]
    h_forget, h_retain = real_tokens(forget, forget.hidden), real_tokens(retain, retain.hidden)
    h_teacher = real_tokens(retain, retain.teacher_hidden).detach()
    target = (options.c * control_vector(options.seed, h_forget.shape[1])).to(h_forget).expand_as(h_forget)
    forget_distance = (h_forget - target).square().sum(1)
    retain_distance = (h_retain - h_teacher).square().sum(1)
    return Loss.of(forget_distance=sequence_mean(forget, forget_distance, "attention"),
                   retain_distance=options.alpha * sequence_mean(retain, retain_distance, "attention"))


def real_tokens(split, hidden):
    """[n, D]: hidden [B, T, D] at the real tokens of the batch, in fp32 (float64 stays)."""
    rows = split.rows("attention")
    return hidden[rows.sequence, rows.position].to(accumulation_dtype(hidden))


VARIANTS = {"paper": Variant(loss=paper, needs={"forget": Need(rows=None, hidden=True),
                                                "retain": Need(rows=None, teacher=True, hidden=True)})}
