"""The parts of the numbers of leakage: Forget's and Forget text's, of the tasks of a probe."""

from collections.abc import Mapping, Sequence

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

from .choices import (
    CAPTION_PROBE_TASKS,
    LEAKAGE,
    NAME_PROBE_TASKS,
    PICTURE_PROBES,
    PROBE_WORDS,
    TEXT_PROBE_TASKS,
    TEXT_PROBES,
)

Part = tuple[str, str]  # (task, its metric: rouge, probability or truth_ratio)


def numbers_of_leakage(paper: Mapping[str, Sequence[Part]]) -> dict[str, list[Part]]:
    """{number: its parts}: the paper's Forget and Forget text, then those of each probe.

    paper   the paper's numbers and their parts
    """
    found = {"forget": list(paper["forget"])}
    for probe, captions, names in zip(
        PICTURE_PROBES, CAPTION_PROBE_TASKS, NAME_PROBE_TASKS, strict=True
    ):
        found[f"forget_{probe}"] = [
            (captions, "rouge"),
            (names, "probability"),
            (captions, "truth_ratio"),
        ]
    found["text_forget"] = list(paper["text_forget"])
    for probe, task in zip(TEXT_PROBES, TEXT_PROBE_TASKS, strict=True):
        found[f"text_forget_{probe}"] = [(task, part) for _, part in paper["text_forget"]]
    return found


def name_and_words(number: str, name: str, words: str) -> tuple[str, str]:
    """Name and words of a number's definition: those of Forget, with what the probe changes.

    name, words  of Forget's definition
    """
    for probe, about in PROBE_WORDS.items():
        if number.endswith(probe):
            return f"{name}_{probe}", f"{about}: harmonic means"
    return name, words


def sentences(not_asked: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each task: how many records are not asked, and why the first is not.

    raises  UserError for values that an evaluation does not write
    """
    for task, reasons in not_asked.items():
        if not isinstance(reasons, list) or not reasons:
            raise UserError(
                f"not_asked of {one_line(task, 60)} is {one_line(repr(reasons), 60)}; expected the "
                "reasons that --leakage wrote into metrics.json; evaluate again"
            )
    return [
        f"leakage: {task} is not asked of {len(reasons)} record{'s'[: len(reasons) > 1]}, first of "
        f"{reasons[0]}"
        for task, reasons in not_asked.items()
    ]


def legend(sets: Sequence[str]) -> list[str]:
    """[what the columns of leakage are]; [] if it is not among the sets of definitions."""
    if LEAKAGE not in sets:
        return []
    probes = "; ".join(f"{probe} {about}" for probe, about in PROBE_WORDS.items())
    return [
        "Leakage: Forget and Forget text of the same records, asked otherwise "
        f"({probes.replace('_', ' ')}). Compare with gold's."
    ]
