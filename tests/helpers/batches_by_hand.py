"""Batches small enough for values by hand, and the numbers that follow from them.

Vocabulary {0, 1}. A batch is written as the probability that the student gives to each answer
token, one list per sequence. Lengths differ within a batch, so a token mean, a sequence mean and a
sequence sum are three numbers. Every row that is no answer row (prompt, padding) holds logits that
would change the value if they were read.

Notation: L2 = log 2, L3 = log 3; the nll of probability 1/2^k is k L2. Distributions of two values
(p, 1-p): KL(1/2 || 3/4) = 1/2 log(2/3) + 1/2 log 2 = L2 - L3/2
and KL(3/4 || 1/2) = 3/4 log(3/2) + 1/4 log(1/2) = 3/4 L3 - L2.

    FORGET   student 1/2 1/4 | 1/16   nll 1 2 | 4 (L2)     token mean 7/3 L2       sums 3 L2 | 4 L2
             teacher 1/4 1/4 | 1/8    nll 2 2 | 3 (L2)                             sums 4 L2 | 3 L2
             log-ratio student/teacher of the answers: +L2 | -L2
             KL(teacher || student) rows: KL(1/4 || 1/2) = KL(3/4 || 1/2) = 3/4 L3 - L2;  0;
                KL(1/8 || 1/16) = 1/8 L2 + 7/8 log((7/8) / (15/16)) = 1/8 L2 + 7/8 log(14/15)
    IDK      student 1/8 | 1/2 1/2    nll 3 | 1 1 (L2)     token mean 5/3 L2
                                                           sequence mean (3 + 1)/2 L2 = 2 L2
             teacher 1/2 | 1/4 1/2    nll 1 | 2 1 (L2)     log-ratio: -2 L2 | +L2
    RETAIN   student 1/2 3/4 | 1/4    nll L2, log 4/3 | log 4
                                      token mean (L2 + log 4/3 + log 4)/3 = 1/3 log(32/3)
             teacher 1/2 1/2 | 1/2    KL rows: 0, K | K
                                      K = 3/4 L3 - L2 (student || teacher)
                                       or L2 - L3/2 (teacher || student)
                                      sequence mean ((0 + K)/2 + K)/2 = 3/4 K
                                      (a token mean would be 2/3 K)
    RANDOM   1/2 1/2 | 1/2 -> L2;  1/4 1/4 | 1/4 -> 2 L2;  1/2 1/4 | 1/2 -> 4/3 L2
"""

from math import log

import torch

from clear_ref.losses import IGNORE, Outputs

L2, L3 = log(2), log(3)
K_STUDENT_TEACHER, K_TEACHER_STUDENT = 3 / 4 * L3 - L2, L2 - L3 / 2
FORGET_KL = ((3 / 4 * L3 - L2) / 2 + L2 / 8 + 7 / 8 * log(14 / 15)) / 2
RETAIN_NLL = log(32 / 3) / 3


def batch(student, teacher=None, left=False):
    """Outputs of answers given by their tokens' probabilities.

    Each sequence has two prompt tokens, its answer, and padding to length 6, on the left or right.
    """
    b, t = len(student), 6
    labels, mask = torch.full((b, t), IGNORE), torch.zeros(b, t, dtype=torch.int64)
    student_logits, teacher_logits = (
        torch.tensor(pair, dtype=torch.float64).repeat(b, t, 1) for pair in ([3, -4], [5, -2])
    )
    for s, answer in enumerate(student):
        start = t - 2 - len(answer) if left else 0
        mask[s, start : start + 2 + len(answer)] = 1
        for i in range(len(answer)):
            token, row = (s + i) % 2, start + 1 + i
            labels[s, row + 1] = token
            for logits, table in ((student_logits, student), (teacher_logits, teacher)):
                if table is not None:
                    logits[s, row, token], logits[s, row, 1 - token] = (
                        log(table[s][i]),
                        log(1 - table[s][i]),
                    )
    return Outputs(student_logits, labels, None if teacher is None else teacher_logits, mask)


def batches(names, left=False):
    """{name: Outputs} of the batches above."""
    tables = {
        "forget": ([[1 / 2, 1 / 4], [1 / 16]], [[1 / 4, 1 / 4], [1 / 8]]),
        "idk": ([[1 / 8], [1 / 2, 1 / 2]], [[1 / 2], [1 / 4, 1 / 2]]),
        "retain": ([[1 / 2, 3 / 4], [1 / 4]], [[1 / 2, 1 / 2], [1 / 2]]),
        "random1": ([[1 / 2, 1 / 2], [1 / 2]],),
        "random2": ([[1 / 4, 1 / 4], [1 / 4]],),
        "random3": ([[1 / 2, 1 / 4], [1 / 2]],),
    }
    return {name: batch(*tables[name], left=left) for name in names}
