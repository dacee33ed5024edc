"""Loads and describes the compiled kernel (built from csrc/), and chooses its instruction set.

The kernel is optional: without it everything runs in plain PyTorch (formulas.py).
"""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import KernelRecord

from .stats_table import N_STATS


def _load() -> tuple[ModuleType | None, str | None]:
    """(the compiled module or None, what is wrong with it or None)."""
    name = f"{__package__}._token_terms"
    if importlib.util.find_spec(name) is None:
        return None, None
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return None, (
            f"{name} is installed but does not load ({error}); expected a kernel built for this "
            "Python and system: install clear_ref again, or with CLEAR_REF_NATIVE=off"
        )
    if module.N_STATS != N_STATS:
        return None, (
            f"{name} has tables of {module.N_STATS} rows; expected {N_STATS}: "
            "install clear_ref again"
        )
    return module, None


_MODULE, _BROKEN = _load()  # once, at import: torch.compile cannot trace an import
CUDA_TARGETS: str = _MODULE.cuda_targets if _MODULE else ""  # compute capabilities, with commas
# False for a kernel that was compiled from sources before it had predictions, or one pass.
HAS_PREDICTIONS = hasattr(_MODULE, "WITH_PREDICTIONS")
HAS_ONE_PASS = hasattr(_MODULE, "cpu_stats_and_dlogits")
_instruction_set: str | None = None  # None: the fastest; changed by use_instruction_set alone


def built() -> bool:
    """True if the compiled kernel is installed; UserError if it is installed but broken."""
    if _BROKEN:
        raise UserError(_BROKEN)
    return _MODULE is not None


def kernel() -> ModuleType:
    """The compiled module; UserError if it is not installed or broken."""
    if not built() or _MODULE is None:
        raise UserError(
            "impl is 'native', but clear_ref was installed without the compiled kernel; use "
            "impl='auto' or 'torch', or install it where there is a C++ compiler (from a clone: "
            "pip install -e .)"
        )
    return _MODULE


def instruction_sets() -> list[str]:
    """The CPU kernels that this processor can run, the fastest last; empty without a kernel."""
    return kernel().instruction_sets() if built() else []


def instruction_set() -> str | None:
    """The instruction set in which the CPU kernel runs; None without a kernel."""
    if _instruction_set is not None:
        return _instruction_set
    names = instruction_sets()
    return names[-1] if names else None


def instruction_set_index() -> int:
    """The kernel's number of instruction_set(): its index in instruction_sets()."""
    names = instruction_sets()
    return len(names) - 1 if _instruction_set is None else names.index(_instruction_set)


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Inside the block the CPU kernel of this process runs in the named instruction set.

    raises   UserError if this processor does not have it
    """
    global _instruction_set
    if name not in instruction_sets():
        raise UserError(
            f"instruction set is {name!r}; expected one of: {', '.join(instruction_sets())}"
        )
    before = _instruction_set
    _instruction_set = name
    try:
        yield
    finally:
        _instruction_set = before


def description() -> KernelRecord:
    """What is built: whether, the CPU instruction set in use, CUDA compute capabilities."""
    return {
        "built": built(),
        "instruction_set": instruction_set(),
        "cuda": CUDA_TARGETS.split(",") if CUDA_TARGETS else [],
    }
