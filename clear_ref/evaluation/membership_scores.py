"""Membership inference scores of single records, from the likelihood of the true answer alone.

An attacker uses such a score to guess whether a model was trained on a record. membership.py makes
the reported numbers of them.
"""

import math
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Record, Row, read_rows
from clear_ref.model.vlm import VLM

from .exact_means import mean
from .likelihood import answer_nll
from .relearning import record_key
from .tasks import caption_question

# The kinds of records that are compared, and the config of a data split for each kind.
CONFIGS = {"captions": "{}", "questions": "tofu/{}"}


# {"forget": records of the forget set, "holdout": records of people that no model was trained on}
ComparedRecords = dict[str, list[Record]]
# {"forget" and "holdout": {a record's number in its list, as text: its score}}
ComparedScores = dict[str, dict[str, float]]


def mia_loss(nll: list[float]) -> float:
    """Mean nll of the answer's tokens: low for a record that the model was trained on.

    source  Yeom et al. 2018; open-unlearning's mia_loss (src/evals/metrics/mia/loss.py)
    flaw    a common sentence is likely whether or not it was trained on
    """
    return mean(nll)


def mia_min_k(nll: list[float], share: float) -> float:
    """Mean nll of the least likely tokens: low for a record that the model was trained on.

    share   the share of the tokens that is used: max(1, floor(share x tokens)) of them
    source  Shi et al. 2023 (arXiv 2310.16789), with the sign and the rounding of open-unlearning's
            mia_min_k (mia/min_k.py)
    flaw    of a short answer only one token is used
    raises  UserError unless 0 < share <= 1
    """
    check_min_k(share)
    n_used = max(1, math.floor(len(nll) * share))
    return mean(sorted(nll, reverse=True)[:n_used])


def check_min_k(share: float) -> None:
    """UserError unless 0 < share <= 1."""
    if not 0 < share <= 1:
        raise UserError(
            f"--min-k is {share}; expected a share of the tokens above 0, at most 1, such as 0.2"
        )


def evaluation_record(row: Row, phrases: Phrases) -> Record:
    """The row with its true answer, and with the question that an evaluation asks."""
    values = row.values
    if values.get("caption") is not None:
        return Record(caption_question(row, phrases), values["caption"], row.image)
    return Record(values["question"], values["answer"])


def compared_records(
    directory: Path, kind: str, forget: str, holdout: str, phrases: Phrases
) -> ComparedRecords:
    """The records of one kind, a key of CONFIGS.

    forget, holdout  data splits, such as forget10 and holdout10
    raises           UserError if a held-out row is also a row that models are trained on
    """
    config = CONFIGS[kind]
    holdout_rows = read_rows(directory, config.format(holdout))
    _check_not_trained_on(holdout_rows, directory, config.format("full"))
    forget_rows = read_rows(directory, config.format(forget))
    return {
        "forget": [evaluation_record(row, phrases) for row in forget_rows],
        "holdout": [evaluation_record(row, phrases) for row in holdout_rows],
    }


def _check_not_trained_on(rows: list[Row], directory: Path, full: str) -> None:
    """UserError if a row is also in the config `full`, whose parts all models are trained on.

    Nothing is checked if the directory has no such config.
    """
    if not (directory / full / "rows.jsonl").exists():
        return
    trained_on = {record_key(row): row.where for row in read_rows(directory, full)}
    for row in rows:
        key = record_key(row)
        if key in trained_on:
            raise UserError(
                f"{row.where}: is also {trained_on[key]}, which models are trained on; expected "
                "rows that no model has seen; remove the row, or name another config with --holdout"
            )


def membership_scores(
    vlm: VLM, compared: dict[str, ComparedRecords], min_k: float
) -> dict[str, dict[str, ComparedScores]]:
    """{kind: {"mia_loss": scores, "mia_min_k": scores}} of all compared records.

    On the CPU the records are computed by as many processes as torch has threads.
    """
    work = [record for records in compared.values() for part in records.values() for record in part]

    def record_nll(record: Record) -> list[float]:
        return answer_nll(vlm, record)

    all_nll = iter(map_in_processes(record_nll, work, process_count(vlm.device, vlm.is_shared_out)))
    scores: dict[str, dict[str, ComparedScores]] = {}
    for kind, records in compared.items():
        losses: ComparedScores = {}
        min_k_losses: ComparedScores = {}
        for part, part_records in records.items():
            losses[part] = {}
            min_k_losses[part] = {}
            for number in range(len(part_records)):
                nll = next(all_nll)
                losses[part][str(number)] = mia_loss(nll)
                min_k_losses[part][str(number)] = mia_min_k(nll, min_k)
        scores[kind] = {"mia_loss": losses, "mia_min_k": min_k_losses}
    return scores
