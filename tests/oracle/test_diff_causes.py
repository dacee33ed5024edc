"""The causes of diff: each is in the README's table, and each is in a test of diff.

Run: python -m pytest tests/oracle/test_diff_causes.py
"""

from pathlib import Path

from clear_ref.oracle.diff.causes.table import CAUSES, markdown
from clear_ref.oracle.mistakes.known import MISTAKES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "clear_ref" / "oracle" / "diff" / "causes" / "README.md"


def test_the_table_in_the_readme_is_made_from_the_data():
    text = PAGE.read_text(encoding="utf-8")
    assert text.split("<!-- causes -->\n")[1].split("<!-- /causes -->")[0] == markdown()


def test_no_cause_has_the_name_of_a_known_mistake():
    assert not {mistake.name for mistake in MISTAKES} & set(CAUSES)


def test_every_cause_is_looked_for_by_name_in_the_code_and_in_a_test():
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "clear_ref" / "oracle" / "diff").glob("**/*.py")
    )
    tests = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_diff*.py")
    )
    assert [name for name in CAUSES if name not in code] == []
    assert [name for name in CAUSES if name not in tests] == []
