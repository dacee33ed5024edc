"""Scores of single records: membership inference, and memorisation of the true answer.

An attacker uses a membership score to guess whether a model was trained on a record. All have one
orientation: LOW for a record that the model was trained on. Memorisation is HIGH for such a record.
All are of the tokens of the true answer, its end token included (open-unlearning leaves out the
end token in min_k, min_k_plus_plus and memorisation). membership.py makes the reported numbers.
"""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Record, Row, has_config, read_rows
from clear_ref.model.vlm import VLM

from .answer_tokens import AnswerTokens, answer_tokens, gradient_norm
from .exact_means import mean
from .kept_files import all_have, read_kept, write_kept
from .relearning import record_key
from .tasks import caption_question

# The kinds of records that are compared, and the config of a data split for each kind.
CONFIGS = {"captions": "{}", "questions": "tofu/{}"}
# The least variance of log p, by which mia_min_k_plus_plus divides.
LEAST_VARIANCE = 1e-6
GRADIENT_NORM = "mia_gradnorm"
# Made of two models' mia_loss: the reference is gold.
REFERENCE = "mia_reference"
LOSS = "mia_loss"
ATTACKS = (LOSS, "mia_min_k", "mia_min_k_plus_plus", "mia_zlib", GRADIENT_NORM)
MEMORISATION = ("exact_memorization", "extraction_strength")


GROUP = 8  # records whose scores are written together
# {"forget": records of the forget set, "holdout": records of people that no model was trained on}
ComparedRecords = dict[str, list[Record]]
# {"forget" and "holdout": {a record's number in its list, as text: its score}}
ComparedScores = dict[str, dict[str, float]]
# {name: score} of one record
RecordScore = dict[str, float]


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


def mia_min_k_plus_plus(tokens: AnswerTokens, share: float) -> float:
    """Minus the mean of the lowest standardised log p: low for a record that the model was trained
    on.

    formula -mean of the k smallest z_t, z_t = (log p_t(y_t) - mean_v) / deviation_v of log p_t(v)
            under p_t; k as in mia_min_k; a variance below 1e-6 counts as 1e-6
    share   the share of the tokens that is used
    source  Zhang et al. 2024 (arXiv 2404.02936), with the sign, rounding and least variance of
            open-unlearning's mia_min_k_plus_plus (mia/min_k_plus_plus.py)
    flaw    where the model is sure of another token the variance is small and z very low
    raises  UserError unless 0 < share <= 1
    """
    standardised = []
    for nll, average, variance in zip(tokens.nll, tokens.mean_log_p, tokens.variance, strict=True):
        standardised.append((nll + average) / math.sqrt(max(variance, LEAST_VARIANCE)))
    return mia_min_k(standardised, share)


def mia_zlib(nll: list[float], answer: str) -> float:
    """Mean nll of the tokens / bytes of the compressed answer: low for a record that the model was
    trained on.

    source  Carlini et al. 2021 (arXiv 2012.07805), as open-unlearning's mia_zlib (mia/zlib.py)
    flaw    a mean divided by a length: long answers score low, whatever they say; another build of
            zlib may compress to another length
    """
    return mean(nll) / len(zlib.compress(answer.encode("utf-8")))


def exact_memorization(is_most_likely: Sequence[bool]) -> float:
    """Share of the answer's tokens that are the most likely ones, in [0, 1].

    source  Tirumala et al. 2022 (arXiv 2205.10770); open-unlearning's exact_memorization
    flaw    each token is predicted from the true ones before it: no text is written
    """
    return sum(is_most_likely) / len(is_most_likely)


def extraction_strength(is_most_likely: Sequence[bool]) -> float:
    """Share of the answer, counted from its end, that greedy decoding gives, in [0, 1].

    formula 1 - k/n, k the least number of first tokens of the answer after which each of the n - k
            others is the most likely one
    source  Carlini et al. 2021 (arXiv 2012.07805), as in Wang et al. 2024 (arXiv 2410.02159)
    differs open-unlearning's extraction_strength gives 1/n, not 0, if the last token is wrong: its
            loop ends at k = n - 1
    flaw    one token in the middle that another one beats halves it
    """
    n_right = 0
    for right in reversed(is_most_likely):
        if not right:
            break
        n_right += 1
    return n_right / len(is_most_likely)


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
    if not has_config(directory, full):
        return
    trained_on = {record_key(row): row.where for row in read_rows(directory, full)}
    for row in rows:
        key = record_key(row)
        if key in trained_on:
            raise UserError(
                f"{row.where}: is also {trained_on[key]}, which models are trained on; expected "
                "rows that no model has seen; remove the row, or name another config with --holdout"
            )


def score_names(with_gradients: bool) -> list[str]:
    """The names of record_scores."""
    return [name for name in (*ATTACKS, *MEMORISATION) if with_gradients or name != GRADIENT_NORM]


def record_scores(vlm: VLM, record: Record, min_k: float, with_gradients: bool) -> RecordScore:
    """{name: score} of one record; mia_gradnorm only with_gradients."""
    tokens = answer_tokens(vlm, record)
    found = {
        LOSS: mia_loss(tokens.nll),
        "mia_min_k": mia_min_k(tokens.nll, min_k),
        "mia_min_k_plus_plus": mia_min_k_plus_plus(tokens, min_k),
        "mia_zlib": mia_zlib(tokens.nll, record.answer or ""),
    }
    if with_gradients:
        found[GRADIENT_NORM] = gradient_norm(vlm, record)
    found["exact_memorization"] = exact_memorization(tokens.is_most_likely)
    found["extraction_strength"] = extraction_strength(tokens.is_most_likely)
    return found


def with_reference(
    scores: dict[str, ComparedScores], gold: dict[str, ComparedScores]
) -> dict[str, ComparedScores]:
    """The scores of one kind of records, and mia_reference: mia_loss minus gold's of the record.

    Low for a record that the model was trained on and gold was not.
    source  Carlini et al. 2021; open-unlearning's mia_reference (mia/reference.py)
    flaw    of gold's own records nothing is known; the attacker has gold
    """
    reference = {
        part: {number: loss - gold[LOSS][part][number] for number, loss in losses.items()}
        for part, losses in scores[LOSS].items()
    }
    return scores | {REFERENCE: reference}


def membership_scores(
    vlm: VLM,
    compared: dict[str, ComparedRecords],
    min_k: float,
    with_gradients: bool = True,
    kept: Path | None = None,
) -> dict[str, dict[str, ComparedScores]]:
    """{kind: {name of a score: scores}} of all compared records; see record_scores.

    On the CPU the records are computed by as many processes as torch has threads.

    raises  UserError for gradients of a model whose layers are shared out over processes, and for a
          kept file that is not what was written there
    kept  directory to which the scores of each finished group of records are written, and from
          which they are read instead of computed again. It belongs to one model, these records and
          settings
    """
    if with_gradients and vlm.is_shared_out:
        raise UserError(
            "the model's layers are shared out over processes, and norms of gradients need whole "
            "weights; leave them out (--gradnorm off)"
        )
    work = [record for records in compared.values() for part in records.values() for record in part]
    groups = [(first, work[first : first + GROUP]) for first in range(0, len(work), GROUP)]
    names = score_names(with_gradients)
    known = distributed.from_first(
        lambda: [_read_group(kept, first, len(group), names) for first, group in groups]
    )
    missing = [group for group, found in zip(groups, known, strict=True) if found is None]

    def group_scores(group: tuple[int, list[Record]]) -> list[RecordScore]:
        return [record_scores(vlm, record, min_k, with_gradients) for record in group[1]]

    def keep(group: tuple[int, list[Record]], found: list[RecordScore]) -> None:
        if kept is not None:
            write_kept(_group_file(kept, group[0]), found)

    n_processes = process_count(vlm.device, vlm.is_shared_out)
    computed = iter(map_in_processes(group_scores, missing, n_processes, keep))
    of_groups = [next(computed) if one is None else one for one in known]
    all_scores = iter([own for of_group in of_groups for own in of_group])
    scores: dict[str, dict[str, ComparedScores]] = {}
    for kind, records in compared.items():
        of_kind: dict[str, ComparedScores] = {}
        for part, part_records in records.items():
            for number in range(len(part_records)):
                for name, score in next(all_scores).items():
                    of_kind.setdefault(name, {}).setdefault(part, {})[str(number)] = score
        scores[kind] = of_kind
    return scores


def _group_file(kept: Path, first: int) -> Path:
    return kept / f"membership-{first}.json"


def _read_group(
    kept: Path | None, first: int, n: int, names: list[str]
) -> list[RecordScore] | None:
    """The scores that were kept of the n records from `first` on; None without any."""
    if kept is None:
        return None
    found: list[RecordScore] | None = read_kept(
        _group_file(kept, first), lambda scores: all_have(scores, n, set(names))
    )
    return found
