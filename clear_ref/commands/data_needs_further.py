"""check-data: whether --leakage, --sequence, metrics-audit and `visual` would stop at a data
directory. As data_needs.py, by calling the functions with which these commands read their data.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from clear_ref.audit.members import members
from clear_ref.data.check_findings import Findings
from clear_ref.data.persons import pictures_by_name
from clear_ref.data.records import Row, noting_reads, read_rows
from clear_ref.evaluation.choices import WITH_CHOICES
from clear_ref.loop.requests import read_requests
from clear_ref.mini.directories import WORLD
from clear_ref.visual import world
from clear_ref.visual.names import check_classes, classes_of
from clear_ref.visual.splits import make_splits

from . import metrics_audit
from .audit_settings import MetricsAudit
from .data_needs import (
    WITH_LISTS,
    YES,
    Data,
    Use,
    examined,
    inputs_of,
    seen_rows,
    unlearn_rows,
    use_of,
)
from .given import Given
from .resolve import Inputs, chosen_tasks
from .sequence import records_of
from .settings import FORGET_SPLITS, Evaluate, Unlearn
from .visual_inputs import N_SPLITS, check_shown, data_rows, people_of
from .visual_settings import Visual


def further_needs(directory: Path, findings: Findings) -> list[Use]:
    """What these commands need, for each --forget."""
    uses = []
    with noting_reads() as reads:
        data = Data(directory, findings, reads)
        for forget in FORGET_SPLITS:
            for language_model in (False, True):
                uses += _asking(data, forget, language_model)
            audit = MetricsAudit(data=str(directory), forget=forget, metrics=WITH_CHOICES[0])
            uses.append(use_of(data, "metrics-audit", audit, False, [audit_rows]))
            uses.append(_visual(data, forget))
    return uses


def _asking(data: Data, forget: int, language_model: bool) -> list[Use]:
    """--leakage and --sequence, of one kind of model. Every method reads the same requests."""
    common: dict[str, Any] = {"data": str(data.directory), "forget": forget}
    leakage = Evaluate(**common, leakage=True)
    modality = "text" if language_model else "both"
    sequence = Unlearn(**common, method="retain_ft", modality=modality)
    tasks = chosen_tasks(data.directory, sequence, not language_model)
    inputs = inputs_of(data, language_model, tasks)
    parts = [request_rows, seen_rows]
    return [
        use_of(data, "evaluate --leakage", leakage, language_model, []),
        examined(data, "METHOD --sequence PEOPLE", sequence, inputs, parts),
    ]


def request_rows(settings: Any, inputs: Inputs) -> list[Row]:
    """The rows that METHOD --sequence trains on, with everybody of the forget set requested."""
    names = pictures_by_name(read_rows(inputs.data, f"forget{settings.forget:02d}"))
    if not names:
        return []  # the read has said why
    text = ",".join(names)
    requests = read_requests(inputs.data, text, settings.forget, False)
    records_of(inputs, requests)
    rows = []
    for number in range(1, len(requests.labels) + 1):
        rows += unlearn_rows(replace(settings, sequence=text, request=number), inputs)
    return rows


def audit_rows(settings: Any, inputs: Inputs) -> list[Row]:
    """The rows that metrics-audit trains on and measures."""
    plan = metrics_audit.measurements(settings, Given(), inputs)
    chosen = members(settings.models, settings.seed)
    return [*plan.rows, *metrics_audit.training_rows(settings, inputs, chosen)]


def _visual(data: Data, forget: int) -> Use:
    """`visual` with CLEAR's lists, else with lists of one's own: --forget-names, --holdout-names.

    Its network is no part of the data.
    """
    is_mini = data.directory.resolve() == WORLD.resolve()
    settings = Visual(data="mini" if is_mini else str(data.directory), forget=forget)
    inputs = inputs_of(data, False, [])
    use = examined(data, "visual", settings, inputs, [face_rows, check_lists])
    if use["runs"] != YES:
        with_lists = examined(data, "visual", settings, inputs, [face_rows])
        if with_lists["runs"] == YES:
            use["runs"] = WITH_LISTS
    return use


def face_rows(settings: Any, inputs: Inputs) -> list[Row]:
    """The rows of `visual`, whose names make classes."""
    rows = world.world_rows() if settings.data == "mini" else data_rows(inputs.data)
    check_classes(classes_of([row.values["name"] for row in rows]))
    return rows


def check_lists(settings: Any, inputs: Inputs) -> list[Row]:
    """No row; UserError unless the rows show the people of the lists that are used by default."""
    classes = classes_of([row.values["name"] for row in face_rows(settings, inputs)])
    people = people_of(settings, settings.data == "mini")
    check_shown(settings, people, classes)
    make_splits(classes, people, N_SPLITS)
    return []
