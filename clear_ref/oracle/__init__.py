"""What a loss must give, and what is wrong with one that does not."""

from typing import TYPE_CHECKING

from clear_ref.common.public_names import public_names

if TYPE_CHECKING:
    from .suite.pytest_cases import SuiteCase, cases, check
else:
    # Imported when first used: explain prints what a method's file says without torch.
    __getattr__ = public_names(
        __name__,
        dict.fromkeys(("SuiteCase", "cases", "check"), "suite.pytest_cases"),
    )

__all__ = ["SuiteCase", "cases", "check"]
