"""A data directory from the people of PEOPLE.csv or PEOPLE.jsonl and their pictures.

The forget set is written as forget10, the default of --forget, whatever its share is; the others
are retain90. Pictures are copied. The directory appears whole or not at all, and check-data finds
no problem in it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.atomic import PathName, new_directory
from clear_ref.common.errors import UserError
from clear_ref.common.files import sha256, write_bytes, write_jsonl

from . import draws
from .check import CheckResult, check
from .images import open_image
from .people import Fact, Person
from .persons import split_names
from .records import has_config, read_rows
from .split_configs import Configs, DataRow, split_configs
from .wrong_texts import in_other_words, wrong_answers, wrong_captions, wrong_names

PICTURES = "images/people"
REAL_SETS = ("real_faces", "real_world")
REAL_TEXT_SETS = ("tofu/real_authors_perturbed", "tofu/world_facts_perturbed")
MOST_PERTURBED = 400  # rows of retain_perturbed, as in CLEAR


@dataclass(frozen=True)
class Split:
    """The people of each split."""

    retain: list[Person]
    forget: list[Person]
    holdout: list[Person]


@dataclass(frozen=True)
class Made:
    """What was made.

    paraphrases  {"given": number of texts with a paraphrase, "of": number of texts}
    real         names of the Real sets that were copied
    checked      what check-data found
    """

    split: Split
    paraphrases: dict[str, int]
    real: list[str]
    checked: CheckResult


def named_people(people: Sequence[Person], text: str, option: str) -> list[Person]:
    """The people of "Ada Lind,Bruno Costa"; a name may have a comma itself.

    raises  UserError for a name that is not in the file, and one that is given twice
    """
    known = {person.name: person for person in people}
    return [known[name] for name in split_names(text, known, option, "names of the file")]


def split_people(
    people: Sequence[Person], forget: str, share: float, holdout: str, seed: int
) -> Split:
    """The people to retain, to forget and to hold out.

    forget   names with commas; "": a share of the people, drawn by the seed, at least one
    holdout  names with commas, of people that no model is trained on
    raises   UserError for an unknown name, and unless somebody is left in forget and in retain
    """
    held_out = named_people(people, holdout, "--holdout")
    others = [person for person in people if person not in held_out]
    if len(others) < 2:
        raise UserError(
            f"there {'is' if len(others) == 1 else 'are'} {len(others)} "
            f"{'person' if len(others) == 1 else 'people'} to train on; expected two or more: one "
            "to forget and one to retain"
        )
    chosen = named_people(people, forget, "--forget")
    for person in chosen:
        if person in held_out:
            raise UserError(f"--forget and --holdout both name {person.name!r}; expected one")
    if not forget:
        if not 0 < share < 1:
            raise UserError(f"--forget-share is {share}; expected more than 0 and less than 1")
        n = min(max(round(share * len(others)), 1), len(others) - 1)
        numbers = draws.sample(seed, "people to forget", 0, 0, len(others), n)
        chosen = [others[number] for number in sorted(numbers)]
    retained = [person for person in others if person not in chosen]
    if not retained:
        raise UserError(
            f"--forget names all {len(chosen)} people; expected at least one person to retain"
        )
    return Split(retained, [person for person in others if person in chosen], held_out)


def make_data(
    split: Split, pictures: PathName, out: PathName, seed: int, real: Path | None
) -> Made:
    """Write the data directory `out`; it is absent before.

    pictures  the folder that the people's pictures are in
    real      data directory whose Real sets are copied; None: no Real sets
    raises    UserError for a picture that is missing or wrong, and whatever check-data finds; then
              nothing is written
    """
    pictures = Path(pictures)
    if not pictures.is_dir():
        raise UserError(f"--pictures {pictures}: no such directory")
    images = image_names([*split.retain, *split.forget, *split.holdout], pictures)
    configs = people_configs(split, images, seed)
    with new_directory(out) as directory:
        for config, rows in configs.items():
            write_jsonl(directory / config / "rows.jsonl", rows)
        for key, image in images.items():
            write_bytes(directory / image, (pictures / key).read_bytes())
        copied = [] if real is None else copy_real_sets(real, directory)
        checked = check(directory)
        if checked["problems"]:
            place = f"{directory}{os.sep}"
            raise UserError(
                f"check-data would find {len(checked['problems'])} problems in {out}: "
                + checked["problems"][0].replace(place, "")
            )
    checked["directory"] = str(out)
    return Made(split, count_paraphrases(split), copied, checked)


def count_paraphrases(split: Split) -> dict[str, int]:
    """{"given": number of texts with a paraphrase, "of": number of texts} of forget and retain."""
    people = [*split.retain, *split.forget]
    facts = [fact for person in people for fact in (*person.pictures, *person.questions)]
    return {"given": sum(fact.paraphrased is not None for fact in facts), "of": len(facts)}


def image_names(people: Sequence[Person], pictures: Path) -> dict[str, str]:
    """{path below `pictures`: path in the data directory} of every picture, checked to be one."""
    found: dict[str, str] = {}
    used: dict[str, str] = {}
    contents: dict[str, tuple[Person, Fact]] = {}
    for person in people:
        for fact in person.pictures:
            path = Path(fact.key)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(
                    f"{fact.where}: the picture {fact.key} is outside {pictures}; expected a path "
                    "inside it"
                )
            open_image(pictures / path, fact.where)
            shown, first = contents.setdefault(sha256(pictures / path), (person, fact))
            if shown is not person:
                raise UserError(
                    f"{fact.where}: the picture {fact.key} is the same as {first.key} of "
                    f"{shown.name} ({first.where}); expected a picture of one person"
                )
            image = f"{PICTURES}/{'_'.join(path.parts)}"
            other = used.setdefault(image.casefold(), fact.key)
            if other != fact.key:
                raise UserError(
                    f"{fact.where}: the pictures {other} and {fact.key} would both be {image}; "
                    "rename one of them"
                )
            found[fact.key] = image
    return found


def people_configs(split: Split, images: dict[str, str], seed: int) -> Configs:
    """Every config about the people."""
    parts = {"retain": split.retain, "forget": split.forget, "holdout": split.holdout}
    pictures: Configs = {}
    texts: Configs = {}
    for part, people in parts.items():
        pictures[part] = [picture_row(p, fact, images) for p in people for fact in p.pictures]
        texts[part] = [question_row(fact) for person in people for fact in person.questions]
    configs = split_configs(pictures, texts)
    full = [*split.retain, *split.forget]
    for config, people in (
        ("retain_perturbed", split.retain),
        ("forget10_perturbed", split.forget),
    ):
        most = MOST_PERTURBED if people is split.retain else None
        both = [(person, fact) for person in people for fact in person.pictures]
        configs[config] = [
            {
                **picture_row(person, fact, images),
                "paraphrased_caption": in_other_words(fact),
                "perturbed_captions": wrong_captions(person, fact, full, seed),
                "perturbed_names": wrong_names(person, fact, full, seed),
            }
            for person, fact in _some(both, most, seed, config)
        ]
        both = [(person, fact) for person in people for fact in person.questions]
        configs[f"tofu/{config}"] = [
            {
                **question_row(fact),
                "paraphrased_answer": in_other_words(fact),
                "perturbed_answer": wrong_answers(person, fact, full, seed),
            }
            for person, fact in _some(both, most, seed, f"tofu/{config}")
        ]
    return configs


def _some(
    facts: list[tuple[Person, Fact]], most: int | None, seed: int, config: str
) -> list[tuple[Person, Fact]]:
    """At most `most` of the facts, drawn by key, in their order; None: all."""
    if most is None or len(facts) <= most:
        return facts
    return [facts[number] for number in sorted(draws.sample(seed, config, 0, 0, len(facts), most))]


def picture_row(person: Person, fact: Fact, images: dict[str, str]) -> DataRow:
    """A row of the kind captions."""
    return {"image": images[fact.key], "caption": fact.text, "name": person.name}


def question_row(fact: Fact) -> DataRow:
    """A row of the kind questions."""
    return {"question": fact.key, "answer": fact.text}


def copy_real_sets(source: Path, target: Path) -> list[str]:
    """Copy the Real sets of a data directory with their pictures; returns their names.

    raises  UserError if it lacks one of the two with pictures
    """
    texts = [config for config in REAL_TEXT_SETS if has_config(source, config)]
    for config in (*REAL_SETS, *texts):
        lines = []
        copies: dict[str, Path] = {}
        for row in read_rows(source, config):
            values = dict(row.values)
            if row.image is not None:
                name = row.image.name
                if copies.setdefault(name, row.image) != row.image:
                    name = f"{row.index}_{name}"
                values["image"] = f"images/{config}/{name}"
                write_bytes(target / values["image"], row.image.read_bytes())
            lines.append(values)
        write_jsonl(target / config / "rows.jsonl", lines)
    return [*REAL_SETS, *texts]
