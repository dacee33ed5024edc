"""check-data: what a data directory holds, its problems, and known oddities of the published CLEAR.

problem  a model would be trained or evaluated on something else than intended
note     worth reading, not wrong by itself
known    an oddity of the published data set that the directory has just as published
source   the published counts: schema.json
"""

from collections import defaultdict
from pathlib import Path
from typing import TypedDict

from PIL import Image

from clear_ref.common.errors import UserError, message_line
from clear_ref.common.files import PathName, files_below, sha256
from clear_ref.common.progress import Progress

from .check_findings import Findings, counted
from .check_splits import check_splits, published_counts
from .grouping import first_ungrouped
from .images import hidden_colours, one_colour, open_image
from .prompts import read_phrases
from .records import Row, checked_row, has_blank, kind_of, read_lines
from .schema import SCHEMA

# Kinds whose rows have one picture each. In other kinds a picture may have several questions.
ONE_PICTURE_PER_ROW = {"captions", "mixed", "perturbed_captions", "faces"}
# (column with the right text, column with wrong ones)
RIGHT_AND_WRONG = (
    ("name", "perturbed_names"),
    ("caption", "perturbed_captions"),
    ("answer", "perturbed_answer"),
    ("answer", "options"),
)
MAX_LINES_SHOWN = 20


class ConfigCounts(TypedDict):
    """Counts of one config; published is None if the directory does not hold that data set."""

    rows: int
    pictures: int
    published: int | None


class CheckResult(TypedDict):
    """What check-data prints as JSON."""

    directory: str
    problems: list[str]
    notes: list[str]
    known: list[str]
    configs: dict[str, ConfigCounts]


def check(directory: PathName) -> CheckResult:
    """Counts and findings of a data directory; raises as `examine`."""
    return result_of(directory, examine(directory))


def examine(directory: PathName) -> Findings:
    """What is read and found in a data directory.

    raises  UserError if the directory has no config
    """
    directory = Path(directory)
    findings = Findings()
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; expected a data directory")
    paths = [path for path in files_below(directory) if path.name == "rows.jsonl"]
    if not paths:
        raise UserError(
            f"{directory}: holds no CONFIG/rows.jsonl; expected a data directory, as data_fetch.py "
            "writes it"
        )
    for path in paths:
        read_config(findings, directory, path)
    check_pictures(findings, directory)
    for config, rows in findings.rows.items():
        check_repeated_pictures(findings, config, rows)
        check_answers(findings, config, rows)
    check_grouped(findings)
    check_splits(findings, published_counts(findings))
    try:
        read_phrases(directory)
    except UserError as error:
        findings.problems.append(str(error))
    return findings


def result_of(directory: PathName, findings: Findings) -> CheckResult:
    """Counts and findings of a data directory.

    published  a config's number of rows in CLEAR's or TOFU's listing
    """
    published = published_counts(findings)
    configs: dict[str, ConfigCounts] = {}
    for config, rows in findings.rows.items():
        configs[config] = {
            "rows": len(rows),
            "pictures": len(findings.pictures([config])),
            "published": published.get(config),
        }
    return {
        "directory": str(directory),
        "problems": [message_line(line) for line in findings.problems],
        "notes": [message_line(line) for line in findings.notes],
        "known": [message_line(line) for line in findings.known],
        "configs": configs,
    }


def read_config(findings: Findings, directory: Path, path: Path) -> None:
    """Add a config's readable rows. Other lines are problems; an unknown config is a note."""
    config = str(path.parent.relative_to(directory))
    if config not in SCHEMA["configs"]:
        known = ", ".join(sorted(SCHEMA["configs"]))
        findings.notes.append(
            f"{path}: {config} is no known config and is never read; expected one of {known}"
        )
        return
    rows = findings.rows.setdefault(config, [])
    n_lines = 0
    try:
        for where, line in read_lines(path):
            n_lines += 1
            try:
                rows.append(checked_row(directory, config, len(rows), where, line))
            except UserError as error:
                findings.problems.append(str(error))
    except UserError as error:
        findings.problems.append(str(error))
        return
    if n_lines == 0:
        findings.problems.append(f"{path}: holds no row; expected at least one")


def check_pictures(findings: Findings, directory: Path) -> None:
    """Every picture that a row uses is readable and has the file type that its name says.

    Pictures of one colour, pictures with transparent pixels, and files in images/ that no row uses
    are noted.
    """
    used: dict[Path, str] = {}
    for row in findings.rows_of(findings.rows):
        if row.image is not None:
            used.setdefault(row.image, row.where)
    plain = []
    transparent = []
    progress = Progress("check-data", len(used), "picture")
    for path, where in used.items():
        progress.step()
        try:
            picture = open_image(path, where)
        except UserError as error:
            findings.problems.append(str(error))
            findings.broken[path] = str(error)
            continue
        if one_colour(picture):
            plain.append(path.name)
        with Image.open(path) as image:
            check_file_type(findings, image, path, where)
            if hidden_colours(image):
                transparent.append(path.name)
        findings.digests[path] = sha256(path)
        findings.sizes[path] = picture.size
    progress.close()
    if plain:
        findings.notes.append(
            f"images: {counted(plain, 'picture', 'pictures')} of one colour; expected something to "
            "be seen"
        )
    if transparent:
        findings.notes.append(
            f"images: {counted(transparent, 'picture', 'pictures')} with transparent pixels; a "
            "model sees the colours under them, as transformers does with a path"
        )
    files = [path for path in (directory / "images").glob("*") if path.is_file()]
    unused = sorted(path.name for path in files if path not in used)
    if unused:
        findings.notes.append(f"images: {counted(unused, 'file', 'files')} that no row uses")


def check_file_type(findings: Findings, image: Image.Image, path: Path, where: str) -> None:
    """A problem unless the picture is of the type that its name says."""
    # MPO is a camera's JPEG file with a second picture.
    file_type = "JPEG" if image.format == "MPO" else image.format
    if Image.registered_extensions().get(path.suffix.lower()) != file_type:
        findings.problems.append(
            f"{where}: {path} holds {file_type}; expected the type that its name says: rename the "
            "file and correct its rows"
        )


def check_repeated_pictures(findings: Findings, config: str, rows: list[Row]) -> None:
    """The same picture in two rows of a config: a problem under two names, else a note."""
    if kind_of(config) not in ONE_PICTURE_PER_ROW:
        return
    by_picture = defaultdict(list)
    for row in rows:
        if row.image in findings.digests:
            by_picture[findings.digests[row.image]].append(row)
    repeated = [same for same in by_picture.values() if len(same) > 1]
    # Rows of the kind mixed have no name: then the only "name" is "".
    name_column = "answer" if kind_of(config) == "faces" else "name"
    for same in repeated:
        names = {row.values.get(name_column, "") for row in same}
        if len(names) > 1:
            findings.problems.append(
                f"{same[1].where}: the picture {same[1].values['image']} shows "
                f"{' and '.join(sorted(names))}; expected one person: remove one of the rows"
            )
    if repeated:
        paths = [same[0].values["image"] for same in repeated]
        pictures = counted(paths, "picture", "pictures")
        findings.notes.append(f"{config}: {pictures} in more than one row")


def check_answers(findings: Findings, config: str, rows: list[Row]) -> None:
    """Notes: a text of blanks alone; a right answer that is also among the wrong ones; a caption
    without the name.

    The second makes truth ratios and multiple choice less exact.
    """
    blank = [row.where for row in rows if has_blank(row)]
    if blank:
        findings.notes.append(
            f"{config}: {counted(blank, 'row', 'rows')} with a text of blanks alone"
        )
    for right, wrong in RIGHT_AND_WRONG:
        both = [row.where for row in rows if row.values.get(right) in row.values.get(wrong, ())]
        if both:
            findings.notes.append(
                f"{config}: {counted(both, 'row', 'rows')} with the right {right} among {wrong}"
            )
    if kind_of(config) != "captions":
        return
    nameless = [row.where for row in rows if row.values["name"] not in row.values["caption"]]
    if nameless:
        findings.notes.append(
            f"{config}: {counted(nameless, 'caption', 'captions')} without the name"
        )


def check_grouped(findings: Findings) -> None:
    """A note if the rows that `visual` reads are not grouped by name."""
    for config in ("default", "full"):
        rows = findings.rows.get(config, [])
        row = first_ungrouped(each.values["name"] for each in rows)
        if row is not None:
            findings.notes.append(
                f"{config}: rows are not grouped by name, first {rows[row].where}; the released "
                "scores of visual take some pictures for references of other people then"
            )


def text(result: CheckResult) -> str:
    """The result of `check` for a terminal: a table of the configs, then the findings."""
    lines = [f"{'config':28} {'rows':>6} {'pictures':>9} {'published':>10}"]
    for config, counts in result["configs"].items():
        pictures = counts["pictures"] or ""
        published = counts["published"] or ""
        lines.append(f"{config:28} {counts['rows']:6} {pictures:>9} {published:>10}".rstrip())
    for title, findings in (
        ("problems", result["problems"]),
        ("notes", result["notes"]),
        ("known of the published data set", result["known"]),
    ):
        if findings:
            lines += ["", f"{title}:", *(f"  {line}" for line in findings[:MAX_LINES_SHOWN])]
            n_more = len(findings) - MAX_LINES_SHOWN
            if n_more > 0:
                lines.append(f"  ... and {n_more} more; --json lists all")
    n_problems = len(result["problems"])
    lines.append("")
    lines.append(f"{n_problems or 'no'} problem{'' if n_problems == 1 else 's'}")
    return "\n".join(lines)
