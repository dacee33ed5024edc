"""check-data: what a data directory holds, what is wrong with it, and what is odd and known of the published CLEAR.

problem  a model would be trained or judged on something else than is meant
note     worth a look; not wrong by itself
known    a peculiarity of the published data set, in the directory just as its listings say
source   the published counts: schema.json
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.common.files import sha256
from clear_ref.common.progress import Progress

from .images import open_image
from .records import SCHEMA, Row, kind, lines, row

RATIOS = tuple((f"forget{n:02d}", f"retain{100 - n}") for n in (1, 5, 10))
FORMS = ("{}", "{}+tofu", "tofu/{}")  # the pictures, both, the text
ONE_PICTURE_A_ROW = {
    "captions",
    "mixed",
    "perturbed_captions",
    "faces",
}  # elsewhere a picture may have several questions
EARLIER = {
    "retain_perturbed": 400,
    "real_world": 426,
    "forget10_perturbed": 375,
}  # rows in earlier revisions of the data set
SHOWN = 20


@dataclass
class Findings:
    """rows: {config: its readable rows}; digests: {path of a picture: SHA-256 of its file}; the others: lines."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    def values(self, configs, *columns) -> dict[tuple, str]:
        """{values of the columns: where} of the rows of these configs, as far as they are there, that have them all."""
        return {
            key: one.where
            for config in configs
            for one in self.rows.get(config, ())
            if None not in (key := tuple(one.values.get(column) for column in columns))
        }

    def pictures(self, configs) -> dict[str, str]:
        """{SHA-256: path} of the pictures of these configs."""
        return {
            self.digests[one.image]: one.values["image"]
            for config in configs
            for one in self.rows.get(config, ())
            if one.image in self.digests
        }


def check(directory) -> dict:
    """{directory, configs: {config: {rows, pictures, published}}, problems, notes, known}; the last three are lists of lines.

    published  the config's number of rows in CLEAR's or TOFU's listing where the directory holds that data set, else None
    raises     UserError if there is no config at all
    """
    directory, found = Path(directory), Findings()
    paths = sorted(path for path in directory.glob("**/rows.jsonl") if path.is_file())
    if not paths:
        raise UserError(
            f"{directory}: holds no CONFIG/rows.jsonl; expected a data directory, as data_fetch.py writes it"
        )
    for path in paths:
        read(found, directory, path)
    look_at_pictures(found, directory)
    for config, rows in found.rows.items():
        look_for_twins(found, config, rows)
        look_at_answers(found, config, rows)
    published = published_counts(found.rows)
    for forget, retain in RATIOS:
        look_for_leaks(found, forget, retain, published)
        look_at_sums(found, forget, retain, published)
        look_at_perturbed(found, forget, published)
    look_for_leaks(found, "holdout10", "full", published)
    look_at_the_data_set(found, published)
    return {
        "directory": str(directory),
        "problems": found.problems,
        "notes": found.notes,
        "known": found.known,
        "configs": {
            config: {
                "rows": len(rows),
                "pictures": len(found.pictures([config])),
                "published": published.get(config),
            }
            for config, rows in found.rows.items()
        },
    }


def read(found: Findings, directory: Path, path: Path) -> None:
    """Add a config's readable rows; every other line is a problem, a config that nothing reads a note."""
    config = str(path.parent.relative_to(directory))
    if config not in SCHEMA["configs"]:
        known = ", ".join(sorted(SCHEMA["configs"]))
        found.notes.append(
            f"{path}: {config} is no config and is never read; expected one of {known}"
        )
        return
    rows, n_lines = found.rows.setdefault(config, []), 0
    try:
        for where, line in lines(path):
            n_lines += 1
            try:
                rows.append(row(directory, config, len(rows), where, line))
            except UserError as error:
                found.problems.append(str(error))
    except UserError as error:
        found.problems.append(str(error))
        return
    if not n_lines:
        found.problems.append(f"{path}: holds no row; expected at least one")


def look_at_pictures(found: Findings, directory: Path) -> None:
    """Each picture once: it opens whole, is one picture, and its name says what it is. Files that no row uses are noted."""
    used: dict[Path, str] = {}
    for one in (one for rows in found.rows.values() for one in rows if one.image):
        used.setdefault(one.image, one.where)
    progress = Progress("check-data", len(used), "picture")
    for path, where in used.items():
        progress.step()
        try:
            open_image(path, where)
        except UserError as error:
            found.problems.append(str(error))
            continue
        with Image.open(path) as image:
            form = "JPEG" if image.format == "MPO" else image.format
        if Image.registered_extensions().get(path.suffix.lower()) != form:
            found.problems.append(
                f"{where}: {path} holds {form}; expected what its name says: rename it and mend its rows"
            )
        found.digests[path] = sha256(path)
    progress.close()
    unused = sorted(
        path.name
        for path in (directory / "images").glob("*")
        if path.is_file() and path not in used
    )
    if unused:
        found.notes.append(f"images: {counted(unused, 'file', 'files')} that no row uses")


def look_for_twins(found: Findings, config: str, rows: list[Row]) -> None:
    """The same picture in two rows of a config: a problem under two names, a note otherwise."""
    if kind(config) not in ONE_PICTURE_A_ROW:
        return
    by_picture = defaultdict(list)
    for one in rows:
        if one.image in found.digests:
            by_picture[found.digests[one.image]].append(one)
    twins = [same for same in by_picture.values() if len(same) > 1]
    for same in twins:
        names = {
            one.values.get("answer" if kind(config) == "faces" else "name") for one in same
        }  # mixed rows have no name
        if len(names) > 1:
            found.problems.append(
                f"{same[1].where}: the picture {same[1].values['image']} shows {' and '.join(sorted(names))}; "
                "expected one person: drop one of the rows"
            )
    if twins:
        pictures = counted([same[0].values["image"] for same in twins], "picture", "pictures")
        found.notes.append(f"{config}: {pictures} in more than one row")


def look_at_answers(found: Findings, config: str, rows: list[Row]) -> None:
    """The right answer among the wrong ones blunts truth ratios and choices; a caption may lack the name. Both are notes."""
    for right, wrong in (
        ("name", "perturbed_names"),
        ("caption", "perturbed_captions"),
        ("answer", "perturbed_answer"),
        ("answer", "options"),
    ):
        both = [one.where for one in rows if one.values.get(right) in one.values.get(wrong, ())]
        if both:
            found.notes.append(
                f"{config}: {counted(both, 'row', 'rows')} with the right {right} among {wrong}"
            )
    nameless = [
        one.where
        for one in rows
        if "name" in one.values and one.values["name"] not in one.values["caption"]
    ]
    if nameless and kind(config) == "captions":
        found.notes.append(f"{config}: {counted(nameless, 'caption', 'captions')} without the name")


def published_counts(rows: dict) -> dict[str, int]:
    """{config: published rows} of the data sets that the directory holds: at least half of its configs have that many."""
    counts = {}
    for text in (False, True):
        here = {
            config: SCHEMA["configs"][config]["rows"]
            for config in rows
            if config.startswith("tofu/") == text and SCHEMA["configs"][config]["rows"] is not None
        }
        if here and 2 * sum(len(rows[config]) == n for config, n in here.items()) >= len(here):
            counts |= here
    return counts


def as_published(found: Findings, published: dict, *configs) -> bool:
    """Whether these configs have just their published numbers of rows."""
    return all(published.get(config) == len(found.rows[config]) for config in configs)


def look_for_leaks(found: Findings, forget: str, retain: str, published: dict) -> None:
    """What is to be forgotten must not be in what is retained: no picture, no question with its answer, no person.

    The same of what is held out (as `forget`) and all that a model is trained on (as `retain`).
    """
    forgotten = [
        each for form in FORMS for each in (form.format(forget), form.format(f"{forget}_perturbed"))
    ]
    retained = [
        each for form in FORMS for each in (form.format(retain), form.format("retain_perturbed"))
    ]
    pictures, kept = found.pictures(forgotten), found.pictures(retained)
    shared = {"picture": [path for digest, path in pictures.items() if digest in kept]}
    for what, columns in (("question", ("question", "answer")), ("name", ("name",))):
        shared[what] = [
            key[0]
            for key in found.values(forgotten, *columns).keys()
            & found.values(retained, *columns).keys()
        ]
    for what, both in shared.items():
        if not both:
            continue
        line = f"{forget} leaks into {retain} or retain_perturbed: {counted(sorted(both), what, what + 's')} in both"
        if (
            what == "name"
            and len(both) == 1
            and forget in found.rows
            and as_published(found, published, forget)
        ):
            found.known.append(line + "; two of CLEAR's 200 authors share a name")
        else:
            found.problems.append(line)


def look_at_sums(found: Findings, forget: str, retain: str, published: dict) -> None:
    """forget and retain together are full."""
    for form in FORMS:
        parts, full = [form.format(forget), form.format(retain)], form.format("full")
        if not {*parts, full} <= set(found.rows):
            continue
        total, whole = sum(len(found.rows[part]) for part in parts), len(found.rows[full])
        line = f"{' and '.join(parts)} have {total} rows together, {full} has {whole}"
        if total != whole:
            (
                found.known if as_published(found, published, *parts, full) else found.problems
            ).append(line)


def look_at_perturbed(found: Findings, forget: str, published: dict) -> None:
    """Every row and every name to forget has its perturbed row."""
    for form in FORMS:
        plain, perturbed = form.format(forget), form.format(f"{forget}_perturbed")
        if not {plain, perturbed} <= set(found.rows):
            continue
        n, n_perturbed = len(found.rows[plain]), len(found.rows[perturbed])
        if n != n_perturbed:
            kind_of_line = (
                found.known if as_published(found, published, plain, perturbed) else found.problems
            )
            kind_of_line.append(f"{perturbed} has {n_perturbed} rows, {plain} has {n}")
        lost = sorted(
            name
            for (name,) in found.values([plain], "name").keys()
            - found.values([perturbed], "name").keys()
        )
        if lost:
            found.problems.append(
                f"{perturbed}: no row with perturbed names for {counted(lost, 'name', 'names')} of {plain}"
            )


def look_at_the_data_set(found: Findings, published: dict) -> None:
    """Numbers that differ from the published ones, and what is known of those."""
    for config, n in published.items():
        if len(found.rows[config]) != n:
            earlier = f", {EARLIER[config]} in an earlier revision" if config in EARLIER else ""
            found.notes.append(
                f"{config}: {len(found.rows[config])} rows; {n} are published{earlier}"
            )
        elif config in EARLIER:
            found.known.append(f"{config} has {n} rows; an earlier revision had {EARLIER[config]}")
        elif config == "real_faces":
            found.known.append(f"real_faces has {n} rows; the paper says 150")
    if "full" in published and len(names := found.values(["full"], "name")) == 199:
        found.known.append(f"full has {len(names)} names for 200 authors")
    if {"default", "full"} <= set(published):
        found.known.append("default is full under another name")


def counted(things: list[str], one: str, several: str) -> str:
    """ "3 rows (a, b, c)", at most three of them named."""
    named = ", ".join(map(str, things[:3])) + (", ..." if len(things) > 3 else "")
    return f"{len(things)} {one if len(things) == 1 else several} ({named})"


def text(found: dict) -> str:
    """What `check` found, for people: a table of the configs, then what is wrong, worth a look and known."""
    out = [f"{'config':28} {'rows':>6} {'pictures':>9} {'published':>10}"]
    for config, one in found["configs"].items():
        out.append(
            f"{config:28} {one['rows']:6} {one['pictures'] or '':>9} {one['published'] or '':>10}".rstrip()
        )
    for what, title in (
        ("problems", "wrong"),
        ("notes", "worth a look"),
        ("known", "known of the published data set"),
    ):
        if found[what]:
            more = (
                [f"... and {len(found[what]) - SHOWN} more; --json lists all"]
                if len(found[what]) > SHOWN
                else []
            )
            out += ["", f"{title}:", *(f"  {line}" for line in [*found[what][:SHOWN], *more])]
    n = len(found["problems"])
    return "\n".join(
        [
            *out,
            "",
            f"{n} {'thing is' if n == 1 else 'things are'} wrong" if n else "nothing is wrong",
        ]
    )
