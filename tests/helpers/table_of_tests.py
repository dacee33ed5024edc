"""Makes the table of tests/README.md: every test file, its claim, and the modules that it imports.

python -m tests.helpers.table_of_tests writes it into the page.
"""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS / "README.md"
BEGIN, END = "<!-- tests -->\n", "<!-- /tests -->"
PUBLIC = "the public names"


def claim_of(tree: ast.Module) -> str:
    """The first paragraph of a test file's docstring, in one line."""
    return " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())


def modules_of(tree: ast.Module) -> list[str]:
    """The modules of the package that a test file imports, as paths without clear_ref/."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    package = TESTS.parent
    names = []
    for name in sorted(found):
        path = package.joinpath(*name.split(".")).with_suffix(".py")
        if name.startswith("clear_ref.") and path.exists():
            names.append(str(path.relative_to(package / "clear_ref").with_suffix("")))
    return names or ([PUBLIC] if "clear_ref" in found else [])


def table() -> str:
    """The rows of every room, as Markdown."""
    lines = []
    for room in sorted({path.parent for path in TESTS.glob("*/test_*.py")}):
        lines += [f"### {room.name}", "", "| file | claim | modules |", "|---|---|---|"]
        for path in sorted(room.glob("test_*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            link = f"[{path.name}]({path.relative_to(TESTS)})"
            claim = claim_of(tree).replace("|", "\\|")
            lines.append(f"| {link} | {claim} | {', '.join(modules_of(tree))} |")
        lines.append("")
    return "\n".join(lines)


def page_with_table() -> str:
    """The page with its table made again."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
    return pattern.sub(lambda match: f"{BEGIN}{table()}{END}", text)


if __name__ == "__main__":
    PAGE.write_text(page_with_table(), encoding="utf-8")
