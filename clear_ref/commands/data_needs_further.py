"""check-data: whether --leakage, --sequence and metrics-audit would stop at a data directory. As
data_needs.py, by calling the functions with which these commands read their data.
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

from . import metrics_audit
from .audit_settings import MetricsAudit
from .data_needs import Data, Use, examined, inputs_of, seen_rows, unlearn_rows, use_of
from .data_needs_visual import visual_needs
from .given import Given
from .resolve import Inputs, chosen_tasks
from .sequence import records_of
from .settings import FORGET_SPLITS, Evaluate, Unlearn


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
        uses += visual_needs(data)
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
