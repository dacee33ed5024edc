"""Values of a log that its own records contradict. `score` refuses such a log.

What a record's other values give is computed again: ROUGE of its two texts, a loss per token from
the loss and the number of tokens, a probability and a truth ratio from losses; and the aggregates
that a log or a run directory has beside its records. What a format does not hold is not checked.

Tolerances, relative
clear_ref   1e-9: values are float64 and written in full; another machine's exp differs in the last
            of 16 digits, and an exponent of 700 makes 1e-13 of that
others      1e-5: their losses are float32, with a rounding of 6e-8 each; a truth ratio is exp of a
            difference of losses, so the tolerance is times the larger loss, if that is above 1. The
            real logs of tests/real differ by 1.3e-6 at most
ROUGE       1e-6: a ratio of two small counts. Aggregates 1e-9: means of the same numbers
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, read_json
from clear_ref.common.run_directory import LOGS_DIRECTORY, METRICS_FILE, SETTINGS_FILE

from . import log_columns, metrics, open_unlearning, rouge, task_metrics
from .exact_means import mean
from .log_format import Log, Logs
from .logs import FORMATS, OPEN_UNLEARNING, Evaluation, read

OURS = 1e-9
SINGLE_PRECISION = 1e-5
OF_ROUGE = 1e-6
OF_AGGREGATES = 1e-9
# Below exp(-80), about 1e-35, a float32 may be 0 and a float64 truth ratio need not be finite.
EXTREME = 80.0
# (loss per token, summed loss, number of tokens)
MEANS = (
    ("avg_gt_loss", "gt_loss", "num_token_gt"),
    ("avg_paraphrased_loss", "paraphrased_loss", "num_token_paraphrased"),
    ("average_perturb_loss", "perturb_loss", "num_token_perturb"),
)
# (probability, loss per token)
PROBABILITIES = (("gt_prob", "avg_gt_loss"), ("perturb_prob", "average_perturb_loss"))
ROUGE_COLUMNS: dict[str, Callable[[dict[str, rouge.Score]], float]] = {
    "rougeL_recall": lambda scores: scores["rougeL"].recall,
    "rougeL_f1": lambda scores: scores["rougeL"].f,
    "rouge1_recall": lambda scores: scores["rouge1"].recall,
}
OTHER_COLUMNS = ("truth_ratio", "generated_text", "candidates")
ADVICE = "expected values that agree; the log was changed or damaged, evaluate again"


def check(found: Evaluation) -> None:
    """UserError for the first value of an evaluation that its own records contradict."""
    tolerance = OURS if found.format == FORMATS[0] else SINGLE_PRECISION
    for task, log in found.tasks.items():
        named: Log = {**log, "task": task}
        if found.format == FORMATS[0]:
            _check_whole(named)
        _check_rouge(named)
        for average, total, count in MEANS:
            _check_means(named, average, total, count, tolerance)
        for probability, loss in PROBABILITIES:
            _check_probabilities(named, probability, loss, tolerance)
        # No log of the released code is at hand, so how it makes this column is not known.
        if "truth_ratio" in named and found.format != "released":
            _check_truth_ratios(named, tolerance)
        if "candidates" in named:
            _check_candidates(named)
    if found.stated:
        _check_stated(found)
    for root, model in _run_directories(found):
        _check_summary(root, model, found.tasks)


# ---- single records


def _differ(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) > tolerance * max(abs(a), abs(b), 1.0 if tolerance == OF_ROUGE else 1e-3)


def _contradiction(log: Log, column: str, index: str, value: object, why: str) -> UserError:
    """The error for one value."""
    return UserError(
        f"{log_columns.name_of(log)}: {column} of record {one_line(index, 40)} "
        f"is {value!r}, but {why}; {ADVICE}"
    )


def _pairs(log: Log, first: str, *others: str) -> Iterator[tuple[str, list[list[float]]]]:
    """(index, [numbers of each column]) of every record that all columns have.

    A column of one number for each record gives lists of one number.
    """
    if any(not isinstance(log.get(name), dict) or not log.get(name) for name in (first, *others)):
        return
    columns = []
    for name in (first, *others):
        column = log_columns.column_of(log, name)
        as_lists = isinstance(next(iter(column.values())), list)
        if as_lists:
            columns.append(log_columns.lists(log, name))
        else:
            columns.append({i: [number] for i, number in log_columns.numbers(log, name).items()})
    for index, values in columns[0].items():
        rows = [values, *(column[index] for column in columns[1:] if index in column)]
        if len(rows) <= len(others):
            continue
        if len({len(row) for row in rows}) > 1:
            counts = " and ".join(
                f"{len(row)} {name}" for row, name in zip(rows, (first, *others), strict=True)
            )
            raise UserError(
                f"{log_columns.name_of(log)}: record {index} has {counts}; expected equally many"
            )
        yield index, rows


def _check_whole(log: Log) -> None:
    """Every column of ours has every record: without it a record's values cannot be checked."""
    answers = log_columns.column_of(log, "avg_gt_loss")
    for column in (*(name for each in MEANS for name in each), *ROUGE_COLUMNS, *OTHER_COLUMNS):
        if column in log:
            values = log_columns.column_of(log, column)
            log_columns.same_records(log, answers, values, "avg_gt_loss", column)


def _check_rouge(log: Log) -> None:
    columns = [name for name in ROUGE_COLUMNS if log.get(name)]
    if not columns or "generated_text" not in log:
        return
    stored = {name: log_columns.numbers(log, name) for name in columns}
    for index, (_, generated, expected) in log_columns.texts(log).items():
        computed = rouge.scores(expected, generated)
        for name in columns:
            value = stored[name].get(index)
            right = ROUGE_COLUMNS[name](computed)
            if value is not None and _differ(value, right, OF_ROUGE):
                texts = f"{one_line(repr(generated), 40)} for {one_line(repr(expected), 40)}"
                raise _contradiction(
                    log, name, index, value, f"its texts give {right:.6g}: {texts}"
                )


def _check_means(log: Log, average: str, total: str, count: str, tolerance: float) -> None:
    for index, (means, sums, counts) in _pairs(log, average, total, count):
        for value, loss, n in zip(means, sums, counts, strict=True):
            if n < 1 or n != int(n):
                raise _contradiction(log, count, index, n, "an answer has one token or more")
            if _differ(value, loss / n, tolerance):
                why = f"{total} {loss:.9g} of {n:.0f} tokens gives {loss / n:.9g}"
                raise _contradiction(log, average, index, value, why)


def _check_probabilities(log: Log, probability: str, loss: str, tolerance: float) -> None:
    for index, (values, losses) in _pairs(log, probability, loss):
        for value, nll in zip(values, losses, strict=True):
            if not _is_exp(value, -nll, tolerance * max(1.0, nll)):
                why = f"{loss} {nll:.9g} gives {math.exp(-nll):.9g}"
                raise _contradiction(log, probability, index, value, why)


def _check_truth_ratios(log: Log, tolerance: float) -> None:
    """TOFU's column: exp(paraphrased - mean of the wrong answers)."""
    stored = log_columns.column_of(log, "truth_ratio")
    for index, (right, wrong) in _loss_pairs(log):
        if index not in stored:
            continue
        value = stored[index]
        largest = max(1.0, right, *wrong)
        exponent = right - mean(wrong)
        number = float(value) if isinstance(value, (int, float)) else math.nan
        if not _is_exp(number, exponent, tolerance * largest):
            given = task_metrics.tofu_truth_ratio(right, wrong)
            why = f"its losses give exp(paraphrased - mean perturbed) = {given:.9g}"
            raise _contradiction(log, "truth_ratio", index, value, why)


def _loss_pairs(log: Log) -> Iterator[tuple[str, tuple[float, list[float]]]]:
    """(index, (loss of the paraphrase, losses of the wrong answers)) of every record."""
    right = log_columns.numbers(log, "avg_paraphrased_loss")
    wrong = log_columns.lists(log, "average_perturb_loss")
    for index, loss in right.items():
        if index in wrong:
            yield index, (loss, wrong[index])


def _is_exp(value: float, exponent: float, tolerance: float) -> bool:
    """Whether value is exp(exponent), up to a relative tolerance and over- and underflow."""
    if value == 0:
        return exponent < -EXTREME
    if value < 0 or not math.isfinite(value):
        return value > 0 and exponent > EXTREME
    # A truth ratio's exponent is limited to 700.
    return abs(math.log(value) - min(exponent, 700.0)) <= max(tolerance, 2e-14 * abs(exponent))


def _check_candidates(log: Log) -> None:
    """The answer is the expected text, and equal candidates have equal losses (our logs)."""
    expected = {index: texts[2] for index, texts in log_columns.texts(log).items()}
    losses = log_columns.lists(log, "average_perturb_loss")
    answer = log_columns.numbers(log, "avg_gt_loss")
    paraphrased = log_columns.numbers(log, "avg_paraphrased_loss")
    for index, candidates in log_columns.column_of(log, "candidates").items():
        if not _is_candidates(candidates):
            why = "it is no answer, paraphrased and list of perturbed"
            raise _contradiction(log, "candidates", index, one_line(repr(candidates), 60), why)
        if candidates.get("answer") != expected[index]:
            why = f"generated_text expects {one_line(repr(expected[index]), 60)}"
            found = one_line(repr(candidates.get("answer")), 60)
            raise UserError(
                f"{log_columns.name_of(log)}: the answer of record {one_line(index, 40)} "
                f"among its candidates is "
                f"{found}, but {why}; {ADVICE}"
            )
        texts = [candidates["answer"], candidates.get("paraphrased"), *candidates["perturbed"]]
        values = [answer[index], paraphrased[index], *losses[index]]
        if len(texts) != len(values):
            why = f"average_perturb_loss has {len(losses[index])}"
            raise _contradiction(log, "number of perturbed", index, len(texts) - 2, why)
        first: dict[object, float] = {}
        for text, value in zip(texts, values, strict=True):
            if first.setdefault(text, value) != value:
                why = f"the same answer {one_line(repr(text), 40)} has {first[text]!r} there too"
                raise _contradiction(log, "loss", index, value, why)


def _is_candidates(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is {"answer": text, "paraphrased": text, "perturbed": [text, ...]}."""
    if not isinstance(value, dict) or not isinstance(value.get("perturbed"), list):
        return False
    texts = [value.get("answer"), value.get("paraphrased"), *value["perturbed"]]
    return all(isinstance(each, str) for each in texts)


# ---- open-unlearning's aggregates and truth ratios


def _check_stated(found: Evaluation) -> None:
    """Aggregates of open-unlearning's metrics, and the truth ratio of each record."""
    for task, start, _ in OPEN_UNLEARNING:
        if task not in found.tasks:
            continue
        log: Log = {**found.tasks[task], "task": task}
        is_forget = start == "forget"
        ratios = "forget_truth_ratio" if is_forget else f"{start}_Truth_Ratio"
        closer, below = (
            open_unlearning.truth_ratio_closer_to_one,
            open_unlearning.truth_ratio_below_one,
        )
        aggregates: dict[str, Callable[[Log], float]] = {
            f"{start}_Q_A_Prob": open_unlearning.probability_of_answer,
            f"{start}_Q_A_PERT_Prob": lambda log: mean(
                mean(row) for row in log_columns.lists(log, "perturb_prob").values()
            ),
            f"{start}_Q_A_Prob_normalised": open_unlearning.probability_among_candidates,
            f"{start}_Q_A_ROUGE": task_metrics.rouge_recall,
            ratios: closer if is_forget else below,
        }
        for name, function in aggregates.items():
            _check_aggregate(found, name, function, log)
        rows = found.stated.get(ratios, {}).get("value_by_index")
        own = open_unlearning.truth_ratios(log)
        for index, row in rows.items() if isinstance(rows, dict) else ():
            value = row.get("score") if isinstance(row, dict) else None
            if isinstance(value, float) and index in own:
                if _differ(value, own[index], SINGLE_PRECISION):
                    why = f"its losses give {own[index]:.9g}"
                    raise _contradiction(log, ratios, index, value, why)
    value = _aggregate_of(found, "model_utility")
    if value is not None:
        right = metrics.score(found.tasks, metrics="tofu").get("text_model_utility")
        if right is not None and _differ(value, right, OF_AGGREGATES):
            raise _wrong_aggregate("model_utility", value, right)


def _aggregate_of(found: Evaluation, name: str) -> float | None:
    """agg_value of one of open-unlearning's metrics; None if it has none."""
    entry = found.stated.get(name)
    value = entry.get("agg_value") if isinstance(entry, dict) else None
    return float(value) if isinstance(value, (int, float)) else None


def _check_aggregate(
    found: Evaluation, name: str, function: Callable[[Log], float], log: Log
) -> None:
    value = _aggregate_of(found, name)
    if value is not None and _differ(value, function(log), OF_AGGREGATES):
        raise _wrong_aggregate(name, value, function(log))


def _wrong_aggregate(name: str, value: float, right: float) -> UserError:
    return UserError(f"{name}: agg_value is {value!r}, but its records give {right:.9g}; {ADVICE}")


# ---- metrics.json of a run directory


def _run_directories(found: Evaluation) -> Iterator[tuple[Path, str]]:
    """(run directory, model's name in metrics.json), if all logs of a model of a run were read."""
    folders = dict.fromkeys(path.parent for path in found.files)
    for folder in folders:
        if set(folder.glob("*.json")) - set(found.files):
            continue
        root, model = folder.parent, "unlearned"
        if root.name == LOGS_DIRECTORY:
            root, model = root.parent, folder.name
        elif folder.name != LOGS_DIRECTORY:
            continue
        if (root / METRICS_FILE).is_file() and (root / SETTINGS_FILE).is_file():
            yield root, model


def _check_summary(root: Path, model: str, logs: Logs) -> None:
    """UserError if metrics.json of a run has a number of the model that its logs do not give."""
    stated = _at(read_json(root / METRICS_FILE), "models", model)
    setting = _at(read_json(root / SETTINGS_FILE), "settings", "metrics", "value")
    if not isinstance(stated, dict) or setting not in (*metrics.SETS, "all"):
        return
    gold = root / LOGS_DIRECTORY / "gold"
    gold_logs = read(gold).tasks if gold.is_dir() else None
    computed = metrics.score(logs, gold_logs, setting)
    for name, value, right in _numbers(stated, computed):
        if _differ(value, right, OF_AGGREGATES):
            raise UserError(
                f"{root / METRICS_FILE}: {name} of {model} is {value!r}, but its logs give "
                f"{right:.9g}; {ADVICE}"
            )


def _at(found: Any, *names: str) -> Any:
    """found[name][name]...; None where there is none."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _numbers(
    stated: Mapping[str, Any], computed: Mapping[str, Any], before: str = ""
) -> Iterator[tuple[str, float, float]]:
    """(name, stated, computed) of every number that both have."""
    for name, value in stated.items():
        right = computed.get(name)
        if isinstance(value, dict) and isinstance(right, dict):
            yield from _numbers(value, right, f"{before}{name} ")
        elif isinstance(value, (int, float)) and isinstance(right, (int, float)):
            yield f"{before}{name}", float(value), float(right)
