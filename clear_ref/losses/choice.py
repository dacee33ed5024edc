"""Which implementation of the token terms is asked for: by name, with a block, or by environment.

implementation.py decides what runs. Here torch is not imported: the command line checks the choice
before it knows whether anything is computed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from clear_ref.common.errors import UserError

from . import native

IMPLEMENTATIONS = ("auto", "native", "torch")
VARIABLE = "CLEAR_REF_IMPL"

# Changed by use_implementation alone. Not a ContextVar: a backward pass on a GPU runs in a thread
# of autograd, which has a context of its own, and computes chunks of rows again there.
_chosen: str | None = None


@contextmanager
def use_implementation(impl: str | None) -> Iterator[None]:
    """Inside the block impl="auto" means `impl`, in all threads and forks of this process.

    impl     native | torch | auto: native where it is built, whatever the environment says;
             None: no choice, what the environment or an outer block says is kept
    raises   UserError for an unknown name, or native where it is not built
    """
    global _chosen
    before = _chosen
    if impl is not None:
        check_name(impl, "impl")
        if impl == "native":
            native.kernel()  # raises if it is not built
        _chosen = impl
    try:
        yield
    finally:
        _chosen = before


def default_implementation() -> str:
    """What impl="auto" means: auto, native or torch; UserError for another CLEAR_REF_IMPL."""
    if _chosen is not None:
        return _chosen
    impl = os.environ.get(VARIABLE, "auto")
    check_name(impl, VARIABLE)
    return impl


def check_name(impl: str, source: str) -> None:
    """UserError unless impl is one of IMPLEMENTATIONS; source: what gave it."""
    if impl not in IMPLEMENTATIONS:
        raise UserError(f"{source} is {impl!r}; expected auto, torch or native")
