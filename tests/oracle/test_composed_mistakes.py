"""conform names seeded compositions of two known mistakes, and names none falsely.

The command of tests/helpers/composed_mistakes.py prints the shares of 200 compositions.

Run: python -m pytest tests/oracle/test_composed_mistakes.py
"""

import pytest

from tests.helpers import composed_mistakes


@pytest.mark.slow
def test_seeded_compositions_of_two_mistakes_are_named_exactly():
    """At least 95 % of 20, over four methods; none is named as something else."""
    methods = ("grad_ascent", "idk", "npo", "rmu")
    counts, others = composed_mistakes.measure(20, 1, methods)
    assert counts["false"] == 0, others
    assert counts["exact"] >= 19, others
