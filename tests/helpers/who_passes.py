"""Writes clear_ref/oracle/trainers/WHO_PASSES.md: what conform says of the code of public projects.

It imports the projects from one folder, runs their functions over the golden vectors, and writes a
table. None of their code is kept here, and CI does not run this. `--how` prints how to fill the
folder. Run it from the top of this project:

    python -m tests.helpers.who_passes --how
    python -m tests.helpers.who_passes --folder FOLDER --date 2026-11-28
"""

import argparse
import contextlib
import importlib.metadata
import io
import platform
import sys
import warnings
from collections import Counter
from pathlib import Path

from clear_ref.oracle.vectors import conform
from clear_ref.oracle.vectors.conform_result import ConformResult

from . import (
    public_causes,
    public_code,
    public_packages,
    public_released,
    public_scripts,
    public_trainers,
)
from .public_code import Project, Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "clear_ref" / "oracle" / "trainers" / "WHO_PASSES.md"
GOLDEN = ROOT / "tests" / "vectors" / "golden"
ADAPTERS = (public_released, public_trainers, public_scripts, public_packages)


def rows() -> dict[str, Row]:
    """{module:name of an adapter: its row}."""
    found = {}
    for module in ADAPTERS:
        for name, value in vars(module).items():
            if isinstance(getattr(value, "row", None), Row):
                found[f"{module.__name__}:{name}"] = value.row
    return found


def judged(impl: str, row: Row) -> ConformResult:
    """What conform says of an adapter; the project's prints and warnings are not shown."""
    settings = conform.ConformSettings(
        impl=impl,
        vectors=str(GOLDEN),
        methods=row.method,
        semantics=row.semantics,
        only=row.only,
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return conform.run(settings, all_batches=row.all_batches, padded=row.padded)


def verdict_of(result: ConformResult) -> str:
    """The verdicts of the cases, as one cell of the table."""
    parts = Counter()
    for case in result["cases"]:
        if case["verdict"] == "pass":
            parts["pass"] += 1
        elif case["cause_kind"] == "place":
            parts["fail: no known mistake"] += 1
        elif case["cause"]:
            parts[f"{case['verdict']} `{case['cause']}`"] += 1
        else:
            shape = case["id"].split("/")[2]
            parts[f"fail on the shape `{shape}`: {case['reason']}"] += 1
    if len(parts) == 1 and "pass" in parts:
        return f"pass ({parts['pass']})"
    order = ("acceptable", "fail", "pass")
    own = sorted(parts.items(), key=lambda part: order.index(part[0].split(" ")[0].rstrip(":")))
    return "; ".join(f"{name} ({count})" for name, count in own)


def label(project: Project) -> str:
    """The project with its commit or version, as a link."""
    if not project.source:
        return f"[{project.name}](https://pypi.org/project/{project.name}/) {project.commit}"
    address = f"https://github.com/{project.source}/tree/{project.commit}"
    return f"[{project.name}]({address}) {project.commit}"


def page(date: str, results: list[tuple[Row, ConformResult]]) -> str:
    """The page with its three parts made again."""
    packages = ("torch", "transformers", "peft", "accelerate")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    lines = ["| project | function | method | asked for | verdict |", "|---|---|---|---|---|"]
    kinds = Counter()
    for row, result in results:
        verdict = verdict_of(result)
        kinds[next(kind for kind in ("fail", "acceptable", "pass") if kind in verdict)] += 1
        kinds["no known mistake"] += "no known mistake" in verdict
        note = f" {row.note}" if row.note else ""
        place = f"`{row.function}`{note}, {row.place}"
        cells = (label(row.project), place, f"`{row.method}`", row.semantics, verdict)
        lines.append("| " + " | ".join(cells) + " |")
    summary = ", ".join(f"{kinds[name]} {name}" for name in ("pass", "acceptable", "fail"))
    made = (
        f"Made on {date} with Python {platform.python_version()}, {versions}. {len(results)} "
        f"functions: {summary}, by their worst case; {kinds['no known mistake']} of them without a "
        "named cause."
    )
    text = PAGE.read_text(encoding="utf-8")
    parts = {"made": made, "table": "\n".join(lines), "causes": public_causes.table(results)}
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{part}\n{end}{rest.partition(end)[2]}"
    return text


def how_to_get() -> str:
    """The commands that fill the folder."""
    projects = {row.project.how_to_get: None for row in rows().values()}
    return "\n".join(["in an empty folder:", *projects])


def main() -> int:
    """Writes the page, or prints how to get the projects."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="the folder with the checkouts")
    parser.add_argument("--date", default="", help="the date that the page states")
    parser.add_argument("--how", action="store_true", help="print how to get the projects")
    parser.add_argument(
        "--only", default="", help="print the rows of adapters with this in the name"
    )
    arguments = parser.parse_args()
    if arguments.how or not arguments.folder:
        print(how_to_get())
        return 0
    public_code.FOLDER = str(Path(arguments.folder).resolve())
    results = []
    for impl, row in rows().items():
        if arguments.only not in impl:
            continue
        result = judged(impl, row)
        print(f"{impl.split(':')[1]:32} {row.method:12} {verdict_of(result)}", flush=True)
        results.append((row, result))
    if not arguments.only:
        PAGE.write_text(page(arguments.date, results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
