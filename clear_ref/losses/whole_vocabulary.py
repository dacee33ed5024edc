"""Row functions that read every entry of the vocabulary and that only a released code ever meant: plain PyTorch, by row.

Each takes logits [n, V] of student and teacher and returns [n]; fp32 inside (float64 stays), gradient in the student's only.
"""

import torch

from .formulas import accumulation_dtype


def log_one_plus_ratio(student_logits, teacher_logits, beta, floor=1e-8) -> torch.Tensor:
    """[n]: mean over the vocabulary of log(1 + (p / (q + floor))^beta), p the student's probabilities, q the teacher's.

    With a = p / (q + floor): dz = c - p sum c,  c = (beta / V) a^beta / (1 + a^beta).
    """
    dtype = accumulation_dtype(student_logits, teacher_logits)
    p, q = student_logits.to(dtype).softmax(-1), teacher_logits.to(dtype).softmax(-1)
    return torch.log1p((p / (q + floor)) ** beta).mean(-1)


def log_one_plus_log_ratio(student_logits, teacher_logits, beta) -> torch.Tensor:
    """[n]: mean over the vocabulary of log(1 + (log p - log q)^beta): NaN as soon as one log-ratio is below -1."""
    dtype = accumulation_dtype(student_logits, teacher_logits)
    log_ratio = student_logits.to(dtype).log_softmax(-1) - teacher_logits.to(dtype).log_softmax(-1)
    return torch.log(1 + log_ratio**beta).mean(-1)
