"""Someone else's loss function: found by name, called on a case, its answer checked for being an answer at all."""

import hashlib
import importlib
import math
import os
import sys
from dataclasses import dataclass

import numpy as np
import torch

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

FRAMEWORKS = ("torch", "numpy")
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Foreign:
    """A function(method, batches, options), as `--impl` names it, and how it wants its arrays."""

    name: str
    function: object
    framework: str
    dtype: str

    def __call__(self, entry, batches) -> tuple[float, dict[str, np.ndarray] | None]:
        """Its loss and, where it gives one, d loss / d student tensor by batch, on a case's arrays.

        raises  UserError naming the case if it raises, returns anything else or a number that is not finite, or changes its input
        """
        case = entry["id"]
        given = {
            name: {key: self.as_wanted(key, array) for key, array in batch.items()}
            for name, batch in batches.items()
        }
        before = fingerprint(given)
        try:
            returned = self.function(
                entry["method"], given, {**entry["options"], "semantics": entry["semantics"]}
            )
            value, gradients = (
                returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
            )
            if (
                gradients is None
                and isinstance(value, torch.Tensor)
                and value.ndim == 0
                and value.grad_fn is not None
            ):
                gradients = self.differentiate(value, given)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{case}: {self.name} raised {type(error).__name__}: {one_line(error, 160)}; "
                "expected a loss (--methods names the methods to ask for)"
            ) from None
        if fingerprint(given) != before:
            raise UserError(
                f"{case}: {self.name} changed its inputs; expected them as they were: work on a copy"
            )
        return self.number(case, value), None if gradients is None else self.arrays(
            case, gradients, batches
        )

    def as_wanted(self, key, array):
        """A fresh array or tensor; floats in the dtype asked for, the student's tensors as leaves that want a gradient."""
        if self.framework == "numpy":
            return array.astype(self.dtype) if array.dtype == np.float64 else array.copy()
        tensor = torch.from_numpy(array.copy())
        if array.dtype != np.float64:
            return tensor
        return tensor.to(DTYPES[self.dtype]).requires_grad_(key in ("logits", "hidden"))

    def differentiate(self, value, given):
        """d value / d student tensor by batch, by autograd; zeros for a batch that it does not read."""
        leaves = {
            name: batch["logits" if "logits" in batch else "hidden"]
            for name, batch in given.items()
        }
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if one is None else one
            for (name, leaf), one in zip(leaves.items(), found)
        }

    def number(self, case, value) -> float:
        """The loss as a float."""
        shape = getattr(value, "shape", ())
        if (
            not isinstance(value, (int, float, np.ndarray, np.generic, torch.Tensor))
            or math.prod(shape) != 1
            or len(shape)
        ):
            found = f"a {type(value).__name__}" + (f" of shape {list(shape)}" if len(shape) else "")
            raise UserError(
                f"{case}: {self.name} returned {found}; expected a number, or (a number, {{batch: gradient}})"
            )
        number = float(value.detach() if isinstance(value, torch.Tensor) else value)
        if not math.isfinite(number):
            raise UserError(f"{case}: {self.name} returned {number}; expected a finite loss")
        return number

    def arrays(self, case, gradients, batches) -> dict[str, np.ndarray]:
        """The gradients in float64."""
        if not isinstance(gradients, dict) or gradients.keys() != batches.keys():
            found = (
                sorted(map(str, gradients))
                if isinstance(gradients, dict)
                else type(gradients).__name__
            )
            raise UserError(
                f"{case}: {self.name} returned gradients of {found}; expected a dict of {', '.join(batches)}"
            )
        found = {}
        for name, gradient in gradients.items():
            expected = batches[name]["logits" if "logits" in batches[name] else "hidden"].shape
            array = (
                gradient.detach().double().numpy()
                if isinstance(gradient, torch.Tensor)
                else np.asarray(gradient, np.float64)
            )
            if array.shape != expected:
                raise UserError(
                    f"{case}: {self.name} returned a gradient of {name} of shape {list(array.shape)}; "
                    f"expected {list(expected)}"
                )
            if not np.isfinite(array).all():
                where = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
                raise UserError(
                    f"{case}: {self.name} returned {array[tuple(where)]} in the gradient of {name} at {where}; "
                    "expected finite numbers"
                )
            found[name] = array
        return found


def load(name, framework, dtype) -> Foreign:
    """The Foreign of module:function, looked up in the working directory too; UserError where there is none."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(f"--impl is {name!r}; expected module:function, such as mylosses.npo:loss")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"--impl {name}: module {module_name} does not import ({type(error).__name__}: {one_line(error, 160)}); "
            "expected a module of the working directory or of an installed package"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(
            f"--impl {name}: {module_name} has no function {function_name}; expected one of its functions"
        )
    framework = framework or getattr(function, "framework", "torch")
    for option, value, choices in (("framework", framework, FRAMEWORKS), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise UserError(f"--{option} is {value!r}; expected one of {', '.join(choices)}")
    if framework == "numpy" and dtype == "bfloat16":
        raise UserError(
            "--dtype is bfloat16 with numpy, which has none; expected float64 or float32, or --framework torch"
        )
    return Foreign(name, function, framework, dtype)


def fingerprint(given) -> str:
    """SHA-256 over every array of every batch, and their names."""
    total = hashlib.sha256()
    for name, batch in given.items():
        for key, array in batch.items():
            if isinstance(array, torch.Tensor):
                array = array.detach().contiguous().view(torch.uint8).numpy()
            total.update(
                f"{name}/{key}\n{np.shape(array)}\n".encode()
                + np.ascontiguousarray(array).tobytes()
            )
    return total.hexdigest()
