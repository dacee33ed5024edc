"""A loss function of another project: import it, call it on a case, and check what it returns.

A function that cannot be loaded is a UserError; what goes wrong on one case fails this case alone.
"""

import hashlib
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.oracle.reference.rows import Batches

from .vector_set import Entry

FRAMEWORKS = ("torch", "numpy")
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}

Gradients = dict[str, np.ndarray]
Arguments = dict[str, dict[str, np.ndarray | torch.Tensor]]


class CaseFailed(Exception):
    """A case on which a function returns nothing that can be judged; the text says why."""


class Answer(NamedTuple):
    """What a function returned for a case.

    gradients       d loss / d student tensor by batch; None without any
    dtype           dtype of the loss, such as float32; "" for a number of Python
    gradient_dtype  the coarsest dtype of the gradients; "" without any
    """

    loss: float
    gradients: Gradients | None
    dtype: str
    gradient_dtype: str


@dataclass(frozen=True)
class JudgedFunction:
    """A function(method, batches, options), as --impl names it.

    name        module:function
    framework   "torch" or "numpy": the kind of arrays that it takes
    dtype       a key of DTYPES: the dtype of the floating-point arrays that it takes
    arithmetic  a key of DTYPES, in which it declares to compute; "" if it declares nothing
    """

    name: str
    function: Callable[..., object]
    framework: str
    dtype: str
    arithmetic: str = ""

    def __call__(self, entry: Entry, batches: Batches) -> Answer:
        """What it returns on a case's arrays; the gradients are its own, or autograd's.

        raises  CaseFailed if the function raises, changes its input, or returns anything that is
                no finite number
        """
        arguments = self.arguments(batches)
        fingerprint_before = fingerprint(arguments)
        try:
            returned = self.function(entry["method"], arguments, options_of(entry))
        except (Exception, SystemExit) as error:
            text = f"raised {type(error).__name__}: {one_line(error, 160)}"
            raise CaseFailed(text + _hint(error, arguments)) from None
        return answer_of(returned, entry, batches, arguments, fingerprint_before)

    def arguments(self, batches: Batches) -> Arguments:
        """The arrays as the function gets them, new ones."""
        found: Arguments = {}
        for name, batch in batches.items():
            found[name] = {key: self.convert(key, array) for key, array in batch.items()}
        return found

    def convert(self, key: str, array: np.ndarray) -> np.ndarray | torch.Tensor:
        """A new array or tensor; floats in self.dtype, the student's tensors with requires_grad.

        Control vectors are no bfloat16 numbers; they are in float32 then.
        """
        is_float = array.dtype == np.float64
        if self.framework == "numpy":
            return array.astype(self.dtype) if is_float else array.copy()
        tensor = torch.from_numpy(array.copy())
        if not is_float:
            return tensor
        if key == "control" and self.dtype == "bfloat16":
            return tensor.to(torch.float32)
        return tensor.to(DTYPES[self.dtype]).requires_grad_(key in ("logits", "hidden"))


def _hint(error: BaseException, arguments: Arguments) -> str:
    """The option that hands over the batch or teacher that the function has not found, or ""."""
    asked_for = error.args[0] if isinstance(error, KeyError) and error.args else None
    has_batch = asked_for in arguments
    has_teacher = all(f"teacher_{_student_tensor(one)}" in one for one in arguments.values())
    if (asked_for in ("forget", "retain", "idk") and not has_batch) or (
        asked_for in ("teacher_logits", "teacher_hidden") and not has_teacher
    ):
        return "; --all-batches hands over every batch and the teacher"
    return ""


def options_of(entry: Entry) -> dict[str, str | int | float]:
    """The options that a function gets: every option of the semantics, and their name."""
    return {**entry["options"], "semantics": entry["semantics"]}


def answer_of(
    returned: object,
    entry: Entry,
    batches: Batches,
    arguments: Arguments,
    fingerprint_before: str,
) -> Answer:
    """The Answer that a function returned for `arguments`; CaseFailed as above.

    batches             the arrays from which the arguments were made
    fingerprint_before  of the arguments, before the function got them
    """
    try:
        loss, gradients = _loss_and_gradients(returned, arguments)
    except Exception as error:
        raise CaseFailed(f"raised {type(error).__name__}: {one_line(error, 160)}") from None
    if fingerprint(arguments) != fingerprint_before:
        raise CaseFailed("changed its inputs; expected unchanged inputs: work on a copy")
    checked_loss = check_loss(loss)
    if gradients is None:
        return Answer(checked_loss, None, _dtype_of(loss), "")
    checked = check_gradients(gradients, batches, list(entry["batches"]))
    dtypes = [_dtype_of(gradient) for gradient in cast(dict, gradients).values()]
    coarsest = min(dtypes, key=lambda dtype: list(DTYPES)[::-1].index(dtype))
    return Answer(checked_loss, checked, _dtype_of(loss), coarsest)


def check_loss(loss: object) -> float:
    """The loss as a float; CaseFailed if it is no finite scalar."""
    shape = tuple(getattr(loss, "shape", ()))
    is_number = isinstance(loss, (int, float, np.ndarray, np.generic, torch.Tensor))
    if not is_number or shape:
        found = f"a {type(loss).__name__}" + (f" of shape {list(shape)}" if shape else "")
        raise CaseFailed(f"returned {found}; expected a number, or (a number, {{batch: gradient}})")
    number = float(loss.detach() if isinstance(loss, torch.Tensor) else cast(float, loss))
    if not math.isfinite(number):
        raise CaseFailed(f"returned {number}; expected a finite loss")
    return number


def check_gradients(gradients: object, batches: Batches, needed: list[str]) -> Gradients:
    """The gradients in float64, zeros where a batch may be left out.

    needed  the batches of which a gradient is needed
    raises  CaseFailed for a wrong batch, shape or number
    """
    is_dict = isinstance(gradients, dict)
    if not isinstance(gradients, dict) or not set(needed) <= gradients.keys() <= batches.keys():
        found = (
            str(sorted(map(str, cast(dict, gradients)))) if is_dict else type(gradients).__name__
        )
        raise CaseFailed(f"returned gradients of {found}; expected a dict of " + ", ".join(needed))
    checked = {}
    for name, batch in batches.items():
        expected = batch[_student_tensor(batch)].shape
        array = _float64(gradients[name]) if name in gradients else np.zeros(expected)
        if array.shape != expected:
            raise CaseFailed(
                f"returned a gradient of {name} of shape {list(array.shape)}; "
                f"expected {list(expected)}"
            )
        if not np.isfinite(array).all():
            index = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            raise CaseFailed(
                f"returned {array[tuple(index)]} in the gradient of {name} at {index}; "
                "expected finite numbers"
            )
        checked[name] = array
    return checked


def _dtype_of(value: object) -> str:
    """float64, float32 or bfloat16 (float16 counts as that); "" for a number of Python."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return ""
    name = str(dtype).removeprefix("torch.")
    if name in DTYPES:
        return name
    return "bfloat16" if name == "float16" else "float64"


def load(
    name: str, framework: str, dtype: str, arithmetic: str = "", option: str = "--impl"
) -> JudgedFunction:
    """The function `module:function`, searched in the working directory too.

    option      the one that named it, for errors
    framework   "torch", "numpy" or "": the function's attribute `framework`, torch without one
    arithmetic  a key of DTYPES, or "": the function's attribute `arithmetic`, none without one
    raises      UserError if there is no such function, or framework or dtype is unknown
    """
    return judged(name, _import_function(name, option), framework, dtype, arithmetic)


def judged(
    name: str, function: Callable[..., object], framework: str, dtype: str, arithmetic: str
) -> JudgedFunction:
    """A function under a name; arguments and errors as in `load`."""
    arithmetic = arithmetic or getattr(function, "arithmetic", "")
    if arithmetic and arithmetic not in DTYPES:
        raise UserError(f"--arithmetic is {arithmetic!r}; expected one of {', '.join(DTYPES)}")
    framework = framework or getattr(function, "framework", "torch")
    if framework not in FRAMEWORKS:
        raise UserError(f"--framework is {framework!r}; expected one of {', '.join(FRAMEWORKS)}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if framework == "numpy" and dtype == "bfloat16":
        raise UserError(
            "--dtype is bfloat16 with numpy, which has no bfloat16; expected float64 or float32, "
            "or --framework torch"
        )
    return JudgedFunction(name, function, framework, dtype, arithmetic)


def _import_function(name: str, option: str) -> Callable[..., object]:
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name or module_name.endswith(".py"):
        raise UserError(
            f"{option} is {name!r}; expected module:function, such as mylosses:loss for the "
            "function loss of mylosses.py"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{option} {name}: module {module_name} does not import ({type(error).__name__}: "
            f"{one_line(error, 160)}); expected a module of the working directory or of an "
            "installed package"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(
            f"{option} {name}: {module_name} has no function {function_name}; expected one of its "
            "functions"
        )
    return function


def _student_tensor(batch: Mapping[str, object]) -> str:
    return "logits" if "logits" in batch else "hidden"


def _loss_and_gradients(returned: object, arguments: Arguments) -> tuple[object, object]:
    """(loss, gradients): as returned, or by autograd if the loss has a grad_fn; else None."""
    if isinstance(returned, tuple) and len(returned) == 2:
        loss, gradients = returned
    else:
        loss, gradients = returned, None
    is_scalar_tensor = isinstance(loss, torch.Tensor) and loss.ndim == 0
    if gradients is None and is_scalar_tensor and loss.grad_fn is not None:
        gradients = _differentiate(loss, arguments)
    return loss, gradients


def _differentiate(loss: torch.Tensor, batches: Arguments) -> dict[str, torch.Tensor]:
    """d loss / d student tensor by batch; zeros for a batch that the loss does not read."""
    leaves = {}
    for name, batch in batches.items():
        leaves[name] = cast(torch.Tensor, batch[_student_tensor(batch)])  # the loss is a tensor too
    computed = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    gradients = {}
    for (name, leaf), gradient in zip(leaves.items(), computed, strict=True):
        gradients[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return gradients


def _float64(array: object) -> np.ndarray:
    """The array in float64; CaseFailed for anything that holds no numbers."""
    if isinstance(array, torch.Tensor):
        return array.detach().double().numpy()
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise CaseFailed(f"returned a gradient that is no array ({one_line(error)})") from None


def fingerprint(batches: Arguments) -> str:
    """SHA-256 over the name, shape and bytes of every array of every batch."""
    sha256 = hashlib.sha256()
    for name, batch in batches.items():
        for key, array in batch.items():
            if isinstance(array, torch.Tensor):
                array = array.detach().contiguous().view(torch.uint8).numpy()
            sha256.update(f"{name}/{key}\n{np.shape(array)}\n".encode())
            sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()
