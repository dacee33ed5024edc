"""clear_ref: the reference implementation of CLEAR, a benchmark for unlearning in vision-language
models.

Names used everywhere (clear_ref/README.md has the whole table)
  B batch, T position, V vocabulary, D width, P image patches, n rows of logits
  student   the model being changed           teacher   the frozen model it is compared with
  batches   forget, retain, idk (the forget question with a refusal for an answer),
            random1, random2, ... (the forget question with answers of others)
  logp      natural log-probability           nll = -logp           p   probability
  kl_teacher_student  KL(teacher || student)  kl_student_teacher  KL(student || teacher)
  row       one position's logits; row sets: answer, attention (real positions), all
  semantics paper, original, released, released@DATE
"""

from typing import TYPE_CHECKING

from .common.public_names import public_names

if TYPE_CHECKING:
    from .data.records import Record
    from .evaluation import metrics
    from .losses.outputs import Outputs
    from .losses.terms import TokenTerms, token_terms
    from .methods import method_loss
    from .methods.loss import Loss
    from .mini.load import load
    from .model.vlm import VLM
else:
    # Imported when first used: a command that computes nothing does not wait for torch.
    __getattr__ = public_names(
        __name__,
        {
            "Record": "data.records",
            "metrics": "evaluation.metrics",
            "Outputs": "losses.outputs",
            "TokenTerms": "losses.terms",
            "token_terms": "losses.terms",
            "method_loss": "methods",
            "Loss": "methods.loss",
            "load": "mini.load",
            "VLM": "model.vlm",
        },
    )

__version__ = "0.1.0"

__all__ = [
    "Loss",
    "Outputs",
    "Record",
    "TokenTerms",
    "VLM",
    "__version__",
    "load",
    "method_loss",
    "metrics",
    "token_terms",
]
