"""The rows of the table of row scalars that both implementations compute."""

# Rows of the table that `stats` returns and whose upstream gradients `dlogits` takes. An lse is
# kept in two parts, lse + lse_low: the low part is what rounding lost, and without it p is wrong by
# 8e-6 at logits of scale 30. The numbers from which the gradients of kl_student_teacher and entropy
# are computed are kept relative to the student's largest column (TOP, and the teacher's logit
# there), each in two parts too: GAP = mean of (z - t) - (top - teacher_at_top), DROP = mean of
# z - top, both under p. If one p is almost 1, the gradient is proportional to GAP or DROP, and
# small; computed as a difference of log-probabilities and KL it would have no correct digits.
N_STATS = 16
(
    LSE,
    NLL,
    TEACHER_LSE,
    TEACHER_NLL,
    KL_TEACHER_STUDENT,
    KL_STUDENT_TEACHER,
    ENTROPY,
    TEACHER_ENTROPY,
    LSE_LOW,
    TEACHER_LSE_LOW,
    TOP,
    TEACHER_AT_TOP,
    GAP,
    GAP_LOW,
    DROP,
    DROP_LOW,
) = range(N_STATS)
# Where predictions are asked for, the table has two more rows, which have no gradient.
N_STATS_AND_PREDICTIONS = 18
ARG_MAX, LOG_P_SQUARED = range(N_STATS, N_STATS_AND_PREDICTIONS)

COLUMNS = {  # of TokenTerms: those with a gradient
    "lse": LSE,
    "nll": NLL,
    "entropy": ENTROPY,
    "kl_teacher_student": KL_TEACHER_STUDENT,
    "kl_student_teacher": KL_STUDENT_TEACHER,
}
