"""What a loss must give, and what is wrong with one that does not."""

from .suite.pytest_cases import SuiteCase, cases, check

__all__ = ["SuiteCase", "cases", "check"]
