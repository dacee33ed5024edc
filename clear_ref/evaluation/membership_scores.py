"""Membership inference scores of single records, from the likelihood of the true answer alone.

An attacker uses such a score to guess whether a model was trained on a record. membership.py makes
the reported numbers of them.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import cast

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json, write_json
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


GROUP = 8  # records whose nll are written together

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
    vlm: VLM, compared: dict[str, ComparedRecords], min_k: float, kept: Path | None = None
) -> dict[str, dict[str, ComparedScores]]:
    """{kind: {"mia_loss": scores, "mia_min_k": scores}} of all compared records.

    On the CPU the records are computed by as many processes as torch has threads.

    kept  directory to which the nll of each finished group of records is written, and from which
          it is read instead of computed again. It belongs to one model and these records
    """
    work = [record for records in compared.values() for part in records.values() for record in part]
    groups = [(first, work[first : first + GROUP]) for first in range(0, len(work), GROUP)]
    known = distributed.from_first(lambda: [_read_group(kept, first) for first, _ in groups])
    missing = [group for group, found in zip(groups, known, strict=True) if found is None]

    def group_nll(group: tuple[int, list[Record]]) -> list[list[float]]:
        return [answer_nll(vlm, record) for record in group[1]]

    def keep(group: tuple[int, list[Record]], nll: list[list[float]]) -> None:
        if kept is not None:
            write_json(_group_file(kept, group[0]), {"sha256": digest(nll), "nll": nll})

    n_processes = process_count(vlm.device, vlm.is_shared_out)
    computed = iter(map_in_processes(group_nll, missing, n_processes, keep))
    of_groups = [next(computed) if found is None else found for found in known]
    all_nll = iter([nll for of_group in of_groups for nll in of_group])
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


def digest(scores: object) -> str:
    """The SHA-256 of what is kept for a stopped run."""
    return hashlib.sha256(json.dumps(scores).encode("utf-8")).hexdigest()


def changed(path: Path) -> UserError:
    """The error for a kept file whose content has another digest."""
    return UserError(
        f"{path}: was changed after it was written; remove it, and it is computed again"
    )


def _group_file(kept: Path, first: int) -> Path:
    return kept / f"membership-{first}.json"


def _read_group(kept: Path | None, first: int) -> list[list[float]] | None:
    """The nll that were kept of the group that begins with record `first`; None without any.

    raises  UserError if the file was changed
    """
    if kept is None or not _group_file(kept, first).exists():
        return None
    content = read_json(_group_file(kept, first))
    if content.get("sha256") != digest(content.get("nll")):
        raise changed(_group_file(kept, first))
    return cast(list[list[float]], content["nll"])
