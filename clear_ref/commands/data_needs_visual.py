"""check-data: whether `visual` would stop at a data directory, and with which options it would not.

As data_needs.py, by calling what `visual` calls before it trains: it reads rows, names, lists and
pictures, makes the splits, and checks every training. Its network is no part of the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from clear_ref.common.errors import UserError
from clear_ref.data.check_findings import Findings
from clear_ref.data.records import Row
from clear_ref.mini.directories import WORLD
from clear_ref.visual import pictures, world
from clear_ref.visual.costs import without_pixels
from clear_ref.visual.experiment import BASE, GOLD, Experiment, check_all
from clear_ref.visual.names import Classes, check_classes, classes_of
from clear_ref.visual.splits import People, make_splits

from .data_needs import (
    NO,
    WITH_BOTH,
    WITH_LISTS,
    WITH_TRAIN,
    YES,
    Data,
    Part,
    Use,
    examined,
    inputs_of,
)
from .resolve import Inputs
from .settings import FORGET_SPLITS
from .visual_inputs import N_SPLITS, check_shown, data_rows, people_of
from .visual_recipes import recipes_of
from .visual_settings import Visual

MINI = "mini"
SMALLER = "smaller batches: --train METHOD.batch_size=NUMBER"


@dataclass(frozen=True)
class Way:
    """How `visual` is called.

    n_listed  people in each list of one's own; 0: the lists that are used by default
    small     batches of one picture, which every set fills; else those of the recipes
    """

    n_listed: int
    small: bool


def visual_needs(data: Data) -> list[Use]:
    """What `visual all` needs, for each --forget, with default settings."""
    is_mini = data.directory.resolve() == WORLD.resolve()
    every = [
        Visual(data=MINI if is_mini else str(data.directory), forget=forget)
        for forget in FORGET_SPLITS
    ]
    inputs = inputs_of(data, False, [])
    reason = unequal(data.findings, every[0], inputs)
    return [use_of_visual(data, settings, inputs, reason) for settings in every]


def use_of_visual(data: Data, settings: Visual, inputs: Inputs, reason: str) -> Use:
    """`visual` as it is; else with smaller batches, with lists of one's own, or with both.

    reason  why the pictures cannot be used, or ""
    """

    def tried(way: Way) -> Use:
        parts: list[Part] = [face_rows, partial(refused, reason), partial(check_trainings, way)]
        return examined(data, "visual", settings, inputs, parts)

    use = tried(Way(0, False))
    if use["runs"] == YES:
        return use
    if tried(Way(0, True))["runs"] == YES:
        return {**use, "runs": WITH_TRAIN, "reason": f"{use['reason']}; {SMALLER}"}
    one_each = tried(Way(1, True))
    if one_each["runs"] == NO:
        return one_each
    n_listed = shortest_lists(settings, inputs)
    if n_listed:
        more = f"it runs with {n_listed} in each list"
        return {**use, "runs": WITH_LISTS, "reason": f"{use['reason']}; {more}"}
    more = f"then, with 1 in each list: {tried(Way(1, False))['reason']}; {SMALLER}"
    return {**use, "runs": WITH_BOTH, "reason": f"{use['reason']}; {more}"}


def shortest_lists(settings: Visual, inputs: Inputs) -> int:
    """How many of the first people stand in each list of one's own, at least, if every method can
    run with it; 0: there is no such list.
    """
    n_people = len(classes_in(face_rows(settings, inputs)).names)
    for n_listed in range(1, n_people // 2):
        if not why_not(experiment_of(Way(n_listed, False), settings, inputs)):
            return n_listed
    return 0


def face_rows(settings: Visual, inputs: Inputs) -> list[Row]:
    """The rows of `visual`, whose names make classes."""
    rows = world.world_rows() if settings.data == MINI else data_rows(inputs.data)
    check_classes(classes_in(rows))
    return rows


def classes_in(rows: Sequence[Row]) -> Classes:
    """The classes of the names of rows."""
    return classes_of([row.values["name"] for row in rows])


def side_of(settings: Visual) -> int:
    """Pixels of a picture's shorter side by default."""
    return world.SIZE if settings.data == MINI else pictures.SIZE


def unequal(findings: Findings, settings: Visual, inputs: Inputs) -> str:
    """Why `visual` refuses the pictures after its resize; "" if it does not.

    Of the pictures of one size the first is read; those that cannot be opened are named elsewhere.
    """
    first: dict[tuple[int, int], Row] = {}
    try:
        for row in face_rows(settings, inputs):
            if row.image in findings.sizes:
                first.setdefault(findings.sizes[row.image], row)
        if first:
            pictures.row_pictures(list(first.values()), side_of(settings))
    except UserError as error:
        return str(error)
    return ""


def refused(reason: str, settings: Visual, inputs: Inputs) -> list[Row]:
    """No row; UserError with the reason, if there is one."""
    if reason:
        raise UserError(reason)
    return []


def check_trainings(way: Way, settings: Visual, inputs: Inputs) -> list[Row]:
    """No row; UserError unless the lists fit the rows and every training of `visual all` can run;
    it names the methods if others can.
    """
    experiment = experiment_of(way, settings, inputs)
    reason = why_not(experiment)
    if not reason:
        return []
    methods = experiment.stages[2:]
    stop = [each for each in methods if why_not(replace(experiment, stages=(BASE, GOLD, each)))]
    if len(stop) < len(methods):
        reason = f"of the methods {', '.join(stop)} cannot run: {reason}"
    raise UserError(reason)


def why_not(experiment: Experiment) -> str:
    """Why `visual` would not train the stages; "" if it would."""
    try:
        check_all(experiment)
    except UserError as error:
        return str(error)
    return ""


def experiment_of(way: Way, settings: Visual, inputs: Inputs) -> Experiment:
    """What `visual all` would train; UserError for lists that do not fit the rows."""
    is_mini = settings.data == MINI
    classes = classes_in(face_rows(settings, inputs))
    people = people_with(way, settings, classes)
    splits = make_splits(classes, people, world.N_SPLITS if is_mini else N_SPLITS)
    recipes = recipes_of(is_mini, settings.semantics, {})
    if way.small:
        recipes = {stage: replace(each, batch_size=1) for stage, each in recipes.items()}
    return without_pixels(classes, splits, settings.semantics, recipes, side_of(settings))


def people_with(way: Way, settings: Visual, classes: Classes) -> People:
    """Who is forgotten and held out; UserError for a name of a default list that no row has."""
    if way.n_listed == 0:
        people = people_of(settings, settings.data == MINI)
        check_shown(settings, people, classes)
        return people
    forget = classes.names[: way.n_listed]
    holdout = classes.names[way.n_listed : 2 * way.n_listed]
    return People(forget, holdout, forget, holdout)
