"""Two row functions of the released code of npo; they read every entry of the vocabulary.

Each takes logits [n, V] of student and teacher and returns [n]. Computed in fp32 (float64 stays)
by plain PyTorch; the gradient is the student's only.
"""

import torch
from torch import Tensor

from .formulas import accumulation_dtype


def log_one_plus_ratio(
    student_logits: Tensor, teacher_logits: Tensor, beta: float, floor: float = 1e-8
) -> Tensor:
    """[n]: mean over the vocabulary of log(1 + (p / (q + floor))^beta).

    p, q are the probabilities of student and teacher.
    With a = p / (q + floor): dz = c - p sum c,  c = (beta / V) a^beta / (1 + a^beta).
    """
    dtype = accumulation_dtype(student_logits, teacher_logits)
    p = student_logits.to(dtype).softmax(-1)
    q = teacher_logits.to(dtype).softmax(-1)
    return torch.log1p((p / (q + floor)) ** beta).mean(-1)


def log_one_plus_log_ratio(student_logits: Tensor, teacher_logits: Tensor, beta: float) -> Tensor:
    """[n]: mean over the vocabulary of log(1 + (log p - log q)^beta).

    NaN as soon as one log-ratio is below -1.
    """
    dtype = accumulation_dtype(student_logits, teacher_logits)
    log_p = student_logits.to(dtype).log_softmax(-1)
    log_q = teacher_logits.to(dtype).log_softmax(-1)
    return torch.log(1 + (log_p - log_q) ** beta).mean(-1)
