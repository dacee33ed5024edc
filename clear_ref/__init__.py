"""clear_ref: the reference implementation of CLEAR, the benchmark for making vision-language models forget people.

Names used everywhere
  B batch, T position, V vocabulary, D width, P image patches, n rows of logits
  student   the model being changed           teacher   the frozen one
  batches   forget, retain, idk (the forget prompt, a refusal for an answer), random1.. (the forget prompt, others' answers)
  logp      natural log-probability           nll = -logp           p   probability
  kl_teacher_student  KL(teacher || student)  kl_student_teacher  KL(student || teacher)
  row       one position's logits; row sets: answer, attention (real positions), all
  variants  paper, original, released, released@DATE
"""

from .data.records import Record
from .evaluation import metrics
from .losses.outputs import Outputs
from .losses.terms import TokenTerms, token_terms
from .methods import method_loss
from .methods.loss import Loss
from .model.vlm import VLM, load

__all__ = [
    "Loss",
    "Outputs",
    "Record",
    "TokenTerms",
    "VLM",
    "load",
    "method_loss",
    "metrics",
    "token_terms",
]
