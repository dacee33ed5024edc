"""Requests to forget, one after another: which rows each one forgets and which stay in retain.

--sequence 1,5,10  sizes of forget sets, each inside the next: a request forgets what is in its set
                   and in no earlier one
--sequence NAMES   people of the forget set of --forget, in this order, one a request

Retained after a request is what no request up to then has named: of sizes, the retain set of that
size; of people, the retain set of --forget and the others of the forget set. So nobody who was
requested is trained on again as retain, and somebody whose request comes later still is. A row of
the forget set whose person cannot be told is neither forgotten nor retained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.data.persons import persons_of_questions, pictures_by_name, split_names
from clear_ref.data.records import Row, read_rows

from .history import row_id
from .modalities import MODALITIES
from .rows import forget_configs, forget_rows, split_rows

SIZES = (1, 5, 10)


@dataclass(frozen=True)
class Requests:
    """The requests of a sequence.

    labels  of each: "1 %", or the person's name
    sizes   of the forget sets, in percent; () for people
    forget  size of the last set, which holds all of them
    """

    directory: Path
    labels: tuple[str, ...]
    sizes: tuple[int, ...]
    forget: int

    def numbers_of(self, rows: Sequence[Row]) -> list[int | None]:
        """The number of the request, from 1, that each row belongs to; None: no request.

        rows  of one config about the forget set, in its order
        """
        return self._by_size(rows) if self.sizes else self._by_person(rows)

    def _by_size(self, rows: Sequence[Row]) -> list[int | None]:
        first: dict[str, int] = {}
        for number, size in enumerate(self.sizes, 1):
            for row in rows_of_set(self.directory, size):
                first.setdefault(row_id(row), number)
        return [first.get(row_id(row)) for row in rows]

    def _by_person(self, rows: Sequence[Row]) -> list[int | None]:
        numbers: Mapping[str | None, int] = {name: n for n, name in enumerate(self.labels, 1)}
        return [numbers.get(person) for person in self.persons_of(rows)]

    def persons_of(self, rows: Sequence[Row]) -> list[str | None]:
        """The person of each row of the forget set; None if that cannot be told.

        rows  of one config, in its order
        """
        pictures = pictures_by_name(read_rows(self.directory, f"forget{self.forget:02d}"))
        shown = {row.image: name for name, own in pictures.items() for row in own}
        questions = [row for row in rows if row.image is None]
        persons = persons_of_questions(questions, pictures)
        asked = {row.index: person for row, person in zip(questions, persons, strict=True)}
        return [asked[row.index] if row.image is None else shown.get(row.image) for row in rows]


def rows_of_set(directory: Path, size: int) -> list[Row]:
    """The rows of pictures and of text of a forget set, as far as the data has them."""
    found = forget_rows(directory, size)
    if not found:
        raise UserError(
            f"--sequence: {directory} has no forget set of {size} %; expected the configs "
            f"forget{size:02d} or tofu/forget{size:02d}, or names of people of the forget set"
        )
    return found


def check_sizes(text: str) -> tuple[int, ...]:
    """(1, 5, 10) of "1,5,10"; UserError unless these are two or more sizes, ascending."""
    sizes = tuple(int(part) for part in text.split(","))
    if len(sizes) < 2 or list(sizes) != sorted({*sizes} & {*SIZES}):
        raise UserError(
            f"--sequence is {text!r}; expected two or more of {', '.join(map(str, SIZES))}, "
            "ascending, or names of people with commas"
        )
    return sizes


def read_requests(directory: Path, text: str, forget: int, forget_given: bool) -> Requests:
    """The requests that --sequence names.

    forget_given  whether --forget was given; of sizes it is the last one otherwise
    raises        UserError for a size or name that cannot be used, and for less than two
    """
    if all(part.strip().isdecimal() for part in text.split(",")):
        sizes = check_sizes(text)
        if forget_given and forget != sizes[-1]:
            raise UserError(
                f"--forget is {forget}, and the last set of --sequence {text} is {sizes[-1]}; "
                "leave --forget out"
            )
        found = Requests(directory, tuple(f"{size} %" for size in sizes), sizes, sizes[-1])
    else:
        config = f"forget{forget:02d}"
        known = list(pictures_by_name(read_rows(directory, config)))
        names = split_names(text, known, "--sequence", f"names of people of {config}")
        if len(names) < 2:
            raise UserError(
                f"--sequence names {names[0]!r} alone; expected two people or more, of "
                f"{', '.join(known)}"
            )
        found = Requests(directory, tuple(names), (), forget)
    return found


def rows_of_request(
    requests: Requests, number: int, modality: str, pictures: bool, retain_modality: str
) -> tuple[list[Row], list[Row]]:
    """(forget, retain) of a request, from 1; 0: of all requests, as if they came together.

    modality, retain_modality, pictures  as in split_rows
    raises  UserError for a request without a row to forget
    """
    size = requests.forget
    if requests.sizes and number:
        size = requests.sizes[number - 1]
    forget, retain = split_rows(requests.directory, modality, size, pictures, retain_modality)
    numbers = requests.numbers_of(forget)
    wanted = {number} if number else set(range(1, len(requests.labels) + 1))
    rows = [row for row, own in zip(forget, numbers, strict=True) if own in wanted]
    if not rows:
        raise UserError(
            f"--sequence: request {number}, {requests.labels[number - 1]}, has no row of modality "
            f"{modality} to forget; expected one or more that no earlier request has"
        )
    if not requests.sizes:
        kept_modality = retain_modality if pictures else "text"
        others = split_rows(requests.directory, kept_modality, size, pictures, kept_modality)[0]
        persons = requests.persons_of(others)
        retain += [row for row, person in zip(others, persons, strict=True) if person is not None]
    requested_ids = _ids_up_to(requests, number or len(requests.labels))
    return rows, [row for row in retain if row_id(row) not in requested_ids]


def rows_of_nobody(requests: Requests, modality: str) -> list[Row]:
    """The rows of the forget set of which no person can be told; [] of requests by size."""
    if requests.sizes:
        return []
    config = MODALITIES[modality].format(f"forget{requests.forget:02d}")
    rows = read_rows(requests.directory, config)
    persons = requests.persons_of(rows)
    return [row for row, person in zip(rows, persons, strict=True) if person is None]


def _ids_up_to(requests: Requests, number: int) -> set[str]:
    """The ids of all rows that the requests up to one have named."""
    found = set()
    for config in forget_configs(requests.directory, requests.forget):
        rows = read_rows(requests.directory, config)
        for row, own in zip(rows, requests.numbers_of(rows), strict=True):
            if own is not None and own <= number:
                found.add(row_id(row))
    return found
