"""The pages in keys/: every key of a model directory's files and what happens to it.

python -m clear_ref.model.key_page writes the pages again; the last section of README.md, the counts
of the comparison with the references, is kept.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from clear_ref.common.file_keys import Fate, KeyTable, Only, Used
from clear_ref.common.files import read_text, write_text
from clear_ref.data import picture_keys, tokenizer_keys

from . import config_keys, generation_keys, peft_keys, qwen2_5_keys

PAGES = Path(__file__).parent / "keys"
MAIN = "README.md"
# What a page says beside its tables.
NOTES = {
    generation_keys.FILE.file: "Without this file, the keys that are no arguments of a call are "
    "read in config.json: first at its top level, then in text_config.",
}
COUNTS = "## Compared with the references\n"
TABLES: tuple[KeyTable, ...] = (
    *config_keys.TABLES,
    *qwen2_5_keys.TABLES,
    generation_keys.FILE,
    *tokenizer_keys.TABLES,
    *picture_keys.TABLES,
    *peft_keys.TABLES,
)

HEAD = """# Keys: what happens to every key of a model directory's files

These pages are made from the tables that the readers use (`python -m clear_ref.model.key_page`).
Each key that the reference library reads is *used*, has *no effect* on a result, or is *refused*
unless it has a value that is computed here. A refusal is one line that names file, key and value;
nothing is loaded. One page for each file:

"""


def pages() -> dict[str, str]:
    """{file name in keys/: text}: the main page, with the counts that it holds now; the others."""
    path = PAGES / MAIN
    kept = read_text(path).partition(COUNTS)[2] if path.exists() else ""
    found = {}
    links = []
    for file, tables in by_file(TABLES).items():
        name = f"{file.removesuffix('.json')}.md"
        found[name] = file_page(file, tables)
        links.append(f"- [{file}]({name})")
    main = HEAD + "\n".join(links) + "\n\n" + refused_section(TABLES) + "\n" + COUNTS + kept
    return {MAIN: main} | found


def refused_section(tables: Iterable[KeyTable]) -> str:
    """What the references accept and this package refuses."""
    lines = [
        "## Accepted by the reference, refused here",
        "",
        "| file | key | part | refused | why, and what to do |",
        "|---|---|---|---|---|",
    ]
    for file, tables_of_file in by_file(tables).items():
        for fate, keys, parts in grouped(tables_of_file):
            if is_refusal(fate):
                lines.append(f"| {file} | {keys} | {parts} | {refused(fate)} | {text_of(fate)} |")
    return "\n".join(lines) + "\n"


def file_page(file: str, tables: list[KeyTable]) -> str:
    """The keys of one file."""
    lines = [f"# {file}", ""]
    if file in NOTES:
        lines += [NOTES[file], ""]
    lines += [f"- {table.part}: read by {table.reference}" for table in tables]
    for table in tables:
        if table.others:
            lines.append(f"- {table.part}: a key that is not listed is ignored: {table.others}")
        else:
            lines.append(f"- {table.part}: a key that is not listed is refused")
    lines += ["", "| key | part | fate | what it decides, or why |", "|---|---|---|---|"]
    for name in ("used", "refused", "no effect"):
        for fate, keys, parts in grouped(tables):
            if kind_of(fate) == name:
                lines.append(f"| {keys} | {parts} | {name_of(fate)} | {text_of(fate)} |")
    return "\n".join(lines) + "\n"


def kind_of(fate: Fate) -> str:
    """used, refused or no effect."""
    if isinstance(fate, Used):
        return "used"
    return "refused" if isinstance(fate, Only) else "no effect"


def name_of(fate: Fate) -> str:
    """The name of a fate in a table."""
    if isinstance(fate, Only):
        return f"refused unless {accepted(fate)}"
    if isinstance(fate, Used):
        return "used" + (f"; refused: {cell(fate.refused)}" if fate.refused else "")
    return "no effect"


def by_file(tables: Iterable[KeyTable]) -> dict[str, list[KeyTable]]:
    """The tables of each file."""
    found: dict[str, list[KeyTable]] = {}
    for table in tables:
        found.setdefault(table.file, []).append(table)
    return found


def grouped(tables: list[KeyTable]) -> list[tuple[Fate, str, str]]:
    """(fate, keys, parts): keys with the same fate in the same parts are one row."""
    fates: dict[str, Fate] = {}  # by their text: the values of `Only` may be lists
    parts_of: dict[tuple[str, str], list[str]] = {}
    for table in tables:
        for key, fate in table.keys.items():
            fates[repr(fate)] = fate
            parts_of.setdefault((repr(fate), key), []).append(table.part)
    keys_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (fate_text, key), parts in parts_of.items():
        keys_of.setdefault((fate_text, tuple(parts)), []).append(key)
    return [
        (
            fates[fate_text],
            ", ".join(f"`{key}`" for key in keys),
            parts_in_words(parts, [table.part for table in tables]),
        )
        for (fate_text, parts), keys in keys_of.items()
    ]


def parts_in_words(parts: Sequence[str], every: list[str]) -> str:
    """Some parts of a file: "all", "all but ...", or their names."""
    if len(parts) == len(every):
        return "all"
    others = [part for part in every if part not in parts]
    if len(others) < len(parts) and len(others) <= 3:
        return "all but " + "; ".join(others)
    return "; ".join(parts)


def is_refusal(fate: Fate) -> bool:
    """True if some value that the reference accepts is refused."""
    return isinstance(fate, Only) or (isinstance(fate, Used) and bool(fate.refused))


def refused(fate: Fate) -> str:
    """The values of a fate that are refused."""
    if isinstance(fate, Used):
        return cell(fate.refused)
    return f"all but {accepted(fate)}"


def accepted(fate: Fate) -> str:
    """The values of an `Only` that are accepted."""
    values = fate.values if isinstance(fate, Only) else ()
    return " or ".join(f"`{json_text(value)}`" for value in values) or "absent"


def text_of(fate: Fate) -> str:
    """The words of a fate."""
    return cell(fate.what if isinstance(fate, Used) else fate.why)


def json_text(value: object) -> str:
    """A value as JSON has it."""
    return json.dumps(value, ensure_ascii=False)


def cell(text: str) -> str:
    """Text inside a Markdown table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for name, text in pages().items():
        write_text(PAGES / name, text)
