"""token_terms says in one line what it cannot do: torch.func, forward mode, inference tensors."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jacrev, jvp, vmap

from clear_ref.common.errors import ShapeError
from clear_ref.losses import native, token_terms

IMPLS = ("torch", *(["native"] if native.built() else []))
STUDENT = torch.arange(15.0).reshape(3, 5).sin()
LABELS = torch.tensor([0, 1, 4])


def forward_mode(f):
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(STUDENT, torch.ones(3, 5)))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: grad(f)(STUDENT),
        lambda f: jacrev(f)(STUDENT),
        lambda f: jvp(f, (STUDENT,), (torch.ones(3, 5),)),
        lambda f: vmap(f)(STUDENT.repeat(2, 1, 1)),
        forward_mode,
    ],
)
def test_a_transform_is_one_clear_line(transform, impl):
    """forward mode gave a value without its derivative, the others torch's internal message."""
    with pytest.raises(ShapeError, match="student_logits is inside torch.func .*backward\\(\\)"):
        transform(lambda student: token_terms(student, LABELS, STUDENT.cos(), impl=impl).nll.sum())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("which", ["teacher_logits", "labels"])
def test_a_tensor_of_inference_mode_is_one_clear_line(which, impl):
    with torch.inference_mode():
        made = {"teacher_logits": STUDENT.cos(), "labels": LABELS.clone()}
    given = {"teacher_logits": STUDENT.cos(), "labels": LABELS} | {which: made[which]}
    student = STUDENT.clone().requires_grad_()
    with pytest.raises(ShapeError, match=f"{which} was made under torch.inference_mode.*clone"):
        token_terms(student, impl=impl, **given)
    with torch.no_grad():
        without = token_terms(student, impl=impl, **given).nll
    cloned = token_terms(student, impl=impl, **given | {which: made[which].clone()}).nll
    assert torch.equal(without, cloned)
    with torch.inference_mode():
        assert torch.equal(token_terms(student, impl=impl, **given).nll, without)
