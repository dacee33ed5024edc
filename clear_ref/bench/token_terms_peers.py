"""The peers of `bench`: implementations of the same losses, ours and others'.

Every peer computes one number from tensors; its backward pass computes the gradient of the first:
    all    (student, labels, teacher): mean cross-entropy of the labelled rows
           + sum of KL(teacher || student) + sum of KL(student || teacher), over every row
    ce     (student, labels): the cross-entropy alone
    head   (hidden, labels, head): the cross-entropy of hidden @ head.T, product included
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clear_ref.data.batches import IGNORE
from clear_ref.losses.terms import token_terms

LossFunction = Callable[..., Tensor]  # the tensors of a task -> scalar


@dataclass(frozen=True)
class Peer:
    """One implementation.

    make  returns its loss, a function of the task's tensors; ImportError if a package is missing
    note  what it does more or less than the others
    """

    make: Callable[[], LossFunction]
    task: str = "all"
    needs_gpu: bool = False
    note: str = ""


def _labelled_mean(nll: Tensor, labels: Tensor) -> Tensor:
    return nll.sum() / (labels != IGNORE).sum()


def _ours(impl: str) -> LossFunction:
    def loss(student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        terms = token_terms(student, labels, teacher, impl=impl, entropy=False)
        assert terms.kl_teacher_student is not None and terms.kl_student_teacher is not None
        return (
            _labelled_mean(terms.nll, labels)
            + terms.kl_teacher_student.sum()
            + terms.kl_student_teacher.sum()
        )

    return loss


def _ours_one_pass(student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    one = torch.ones(len(labels), device=labels.device)
    planned = {
        "nll": one / (labels != IGNORE).sum(),
        "kl_teacher_student": one,
        "kl_student_teacher": one,
    }
    terms = token_terms(student, labels, teacher, impl="native", entropy=False, planned=planned)
    assert terms.kl_teacher_student is not None and terms.kl_student_teacher is not None
    return (
        _labelled_mean(terms.nll, labels)
        + terms.kl_teacher_student.sum()
        + terms.kl_student_teacher.sum()
    )


def _ours_ce(student: Tensor, labels: Tensor) -> Tensor:
    terms = token_terms(student, labels, impl="native", entropy=False)
    return _labelled_mean(terms.nll, labels)


def _ours_head(hidden: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    return _ours_ce(hidden @ head.T, labels)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_p, log_q, log_target=True, reduction="sum")


def _eager(student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    return (
        F.cross_entropy(student, labels, ignore_index=IGNORE)
        + _kl(F.log_softmax(student, -1), F.log_softmax(teacher, -1))
        + _kl(F.log_softmax(teacher, -1), F.log_softmax(student, -1))
    )


def _eager_fp32(student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    return _eager(student.float(), labels, teacher.float())


def _eager_tuned(student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    log_p = F.log_softmax(student, -1)
    log_q = F.log_softmax(teacher, -1)
    return F.nll_loss(log_p, labels, ignore_index=IGNORE) + _kl(log_p, log_q) + _kl(log_q, log_p)


def _liger() -> LossFunction:
    liger = importlib.import_module("liger_kernel.transformers.functional")

    def loss(student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        log_p = F.log_softmax(student, -1)
        log_q = F.log_softmax(teacher, -1)
        return (
            liger.liger_cross_entropy(student.clone(), labels, ignore_index=IGNORE)
            + liger.liger_kl_div(log_p, log_q, reduction="sum", log_target=True)
            + len(labels) * liger.liger_jsd(log_p, log_q, None, 1.0)
        )

    return loss


def _liger_ce() -> LossFunction:
    liger = importlib.import_module("liger_kernel.transformers.functional")

    def loss(student: Tensor, labels: Tensor) -> Tensor:
        return liger.liger_cross_entropy(student.clone(), labels, ignore_index=IGNORE)

    return loss


def _flash_attn_ce() -> LossFunction:
    flash = importlib.import_module("flash_attn.ops.triton.cross_entropy")

    def loss(student: Tensor, labels: Tensor) -> Tensor:
        nll = flash.cross_entropy_loss(student, labels, ignore_index=IGNORE)[0]
        return _labelled_mean(nll.float(), labels)

    return loss


def _cut_cross_entropy() -> LossFunction:
    cut = importlib.import_module("cut_cross_entropy")

    def loss(hidden: Tensor, labels: Tensor, head: Tensor) -> Tensor:
        return cut.linear_cross_entropy(hidden, head, labels, ignore_index=IGNORE)

    return loss


def _torch_linear_ce(hidden: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    # Not in every version of torch; where it is missing the peer is absent.
    return getattr(F, "linear_cross_entropy")(hidden, head, labels, ignore_index=IGNORE)  # noqa: B009


PEERS = {
    "ours native": Peer(lambda: _ours("native")),
    "ours one pass": Peer(
        lambda: _ours_one_pass, note="the upstream gradient planned: the gradient with the columns"
    ),
    "ours torch": Peer(lambda: _ours("torch")),
    "eager": Peer(
        lambda: _eager, note="the released code's formulation: log_softmax again for every term"
    ),
    "eager fp32": Peer(lambda: _eager_fp32, note="the same after .float()"),
    "eager tuned": Peer(lambda: _eager_tuned, note="one log_softmax per tensor"),
    "compile eager": Peer(
        lambda: torch.compile(_eager, dynamic=False), note="torch.compile of eager"
    ),
    "compile tuned": Peer(
        lambda: torch.compile(_eager_tuned, dynamic=False), note="torch.compile of eager tuned"
    ),
    "liger": Peer(
        _liger,
        needs_gpu=True,
        note="CE on a copy of the logits (it overwrites them); KLDiv, JSD(1) of log_softmax",
    ),
    "ours native ce": Peer(lambda: _ours_ce, "ce", True),
    "liger ce": Peer(_liger_ce, "ce", True, "on a copy of the logits, which it overwrites"),
    "flash-attn ce": Peer(_flash_attn_ce, "ce", True),
    "ours native head": Peer(lambda: _ours_head, "head", True, "a matrix product, then the kernel"),
    "cut cross-entropy": Peer(_cut_cross_entropy, "head", True),
    "linear_cross_entropy": Peer(lambda: _torch_linear_ce, "head", True, "torch.nn.functional"),
}
