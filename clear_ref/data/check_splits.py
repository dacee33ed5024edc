"""check-data's rules about several configs: leaks between splits, sums, published counts."""

from collections.abc import Collection

from .check_findings import Findings, counted
from .schema import SCHEMA

FORGET_AND_RETAIN = tuple((f"forget{n:02d}", f"retain{100 - n}") for n in (1, 5, 10))
# The configs of a split: its pictures, pictures and text, its text.
FORMS = ("{}", "{}+tofu", "tofu/{}")
# Numbers of rows in earlier revisions of the data set.
EARLIER = {"retain_perturbed": 400, "real_world": 426, "forget10_perturbed": 375}

Published = dict[str, int]


def check_splits(findings: Findings, published: Published) -> None:
    """All rules of this file. `published` is what published_counts returns."""
    for forget, retain in FORGET_AND_RETAIN:
        check_leaks(findings, forget, retain, published)
        check_sums(findings, forget, retain, published)
        check_perturbed(findings, forget, published)
    check_leaks(findings, "holdout10", "full", published)
    compare_with_published(findings, published)


def published_counts(findings: Findings) -> Published:
    """{config: published number of rows} of the data sets that the directory holds.

    It holds a data set (CLEAR or TOFU) if at least half of the configs that it has of it have
    their published number of rows.
    """
    counts: Published = {}
    for is_tofu in (False, True):
        expected = {}
        for config in findings.rows:
            n_published = SCHEMA["configs"][config]["rows"]
            if config.startswith("tofu/") == is_tofu and n_published is not None:
                expected[config] = n_published
        n_equal = sum(len(findings.rows[config]) == n for config, n in expected.items())
        if expected and 2 * n_equal >= len(expected):
            counts |= expected
    return counts


def as_published(findings: Findings, published: Published, *configs: str) -> bool:
    """True if each of these configs has its published number of rows."""
    return all(published.get(config) == len(findings.rows[config]) for config in configs)


def check_leaks(findings: Findings, forget: str, retain: str, published: Published) -> None:
    """Problems: a picture, a question with its answer, or a person in both splits.

    The same rule holds for the held-out rows (as `forget`) and all rows of training (as `retain`).
    """
    forgotten = []
    retained = []
    for form in FORMS:
        forgotten += [form.format(forget), form.format(f"{forget}_perturbed")]
        retained += [form.format(retain), form.format("retain_perturbed")]
    forgotten_pictures = findings.pictures(forgotten)
    retained_pictures = findings.pictures(retained)
    shared = {
        "picture": [
            path for digest, path in forgotten_pictures.items() if digest in retained_pictures
        ]
    }
    for what, columns in (("question", ("question", "answer")), ("name", ("name",))):
        both = findings.values(forgotten, *columns) & findings.values(retained, *columns)
        shared[what] = [values[0] for values in both]
    for what, things in shared.items():
        if not things:
            continue
        line = (
            f"{forget} leaks into {retain} or retain_perturbed: "
            f"{counted(sorted(things), what, what + 's')} in both"
        )
        one_name = what == "name" and len(things) == 1
        if one_name and forget in findings.rows and as_published(findings, published, forget):
            findings.known.append(line + "; two of CLEAR's 200 authors share a name")
        else:
            findings.problems.append(line)


def check_sums(findings: Findings, forget: str, retain: str, published: Published) -> None:
    """The forget split and the retain split together have as many rows as full."""
    for form in FORMS:
        parts = [form.format(forget), form.format(retain)]
        full = form.format("full")
        if not has_all(findings, [*parts, full]):
            continue
        n_parts = sum(len(findings.rows[part]) for part in parts)
        n_full = len(findings.rows[full])
        if n_parts != n_full:
            line = f"{' and '.join(parts)} have {n_parts} rows together, {full} has {n_full}"
            add_known_or_problem(findings, published, [*parts, full], line)


def check_perturbed(findings: Findings, forget: str, published: Published) -> None:
    """Every row and every name of the forget split has its perturbed row."""
    for form in FORMS:
        plain = form.format(forget)
        perturbed = form.format(f"{forget}_perturbed")
        if not has_all(findings, [plain, perturbed]):
            continue
        n = len(findings.rows[plain])
        n_perturbed = len(findings.rows[perturbed])
        if n != n_perturbed:
            line = f"{perturbed} has {n_perturbed} rows, {plain} has {n}"
            add_known_or_problem(findings, published, [plain, perturbed], line)
        missing = findings.values([plain], "name") - findings.values([perturbed], "name")
        if missing:
            names = sorted(name for (name,) in missing)
            findings.problems.append(
                f"{perturbed}: no row with perturbed names for {counted(names, 'name', 'names')} "
                f"of {plain}"
            )


def has_all(findings: Findings, configs: Collection[str]) -> bool:
    """True if the directory has all these configs."""
    return set(configs) <= set(findings.rows)


def add_known_or_problem(
    findings: Findings, published: Published, configs: Collection[str], line: str
) -> None:
    """Add a line: known if all these configs have their published counts, else a problem."""
    is_known = as_published(findings, published, *configs)
    (findings.known if is_known else findings.problems).append(line)


def compare_with_published(findings: Findings, published: Published) -> None:
    """Numbers of rows that differ from the published ones, and known oddities of those."""
    for config, n_published in published.items():
        n = len(findings.rows[config])
        if n != n_published:
            earlier = f", {EARLIER[config]} in an earlier revision" if config in EARLIER else ""
            findings.notes.append(f"{config}: {n} rows; {n_published} are published{earlier}")
        elif config in EARLIER:
            findings.known.append(
                f"{config} has {n} rows; an earlier revision had {EARLIER[config]}"
            )
        elif config == "real_faces":
            findings.known.append(f"real_faces has {n} rows; the paper says 150")
    if "full" in published:
        n_names = len(findings.values(["full"], "name"))
        if n_names == 199:
            findings.known.append(f"full has {n_names} names for 200 authors")
    if {"default", "full"} <= set(published):
        findings.known.append("default is another name of full")
