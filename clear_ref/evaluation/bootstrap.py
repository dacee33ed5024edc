"""95 % intervals of every number that metrics.score gives, by bootstrap over the records.

A number is computed on N_DRAWS sets of records drawn with replacement; the interval is that of its
2.5 % and 97.5 % quantiles (intervals.over_draws). Draws are keyed (data/draws.py) by the data
config and its records: the same records are drawn of every model, task and set of definitions,
whatever else is computed. For numbers that are means over records the draws are products of
matrices; for distances between distributions each draw has its own.

flaw    other records, the same training; with few records too short. A KS p-value of drawn records
        has ties, so its interval lies lower than the p-value's own distribution. Two samples of
        different sizes, and the JS distance of 50 bins, get no interval
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from clear_ref.data import draws

from . import distances, forgetium, open_mmunlearning, open_unlearning, quality, task_metrics
from .definitions import AGGREGATES, COMBINED, QUALITIES, functions, set_of
from .intervals import N_DRAWS, over_draws
from .log_format import Log, Logs
from .metrics import Scores, is_text

Interval = tuple[float, float]
Values = Callable[[Log], dict[str, float]]
LN_10 = float(np.log(10.0))
SMALLEST_SUM = 1e-200  # of weights; below it some of them have lost digits, or all are 0


def intervals(
    logs: Logs, gold_logs: Logs | None, metrics: str, scores: Scores, seed: int = 0
) -> dict[str, Interval]:
    """{number, or "TASK PART": its interval} of one set of definitions.

    scores   what metrics.score gave for these logs; a number that it does not have gets no interval
    """
    drawn = drawn_numbers(logs, gold_logs, metrics, scores, seed)
    return {name: over_draws(values) for name, values in drawn.items()}


def drawn_numbers(
    logs: Logs, gold_logs: Logs | None, metrics: str, scores: Scores, seed: int = 0
) -> dict[str, np.ndarray]:
    """{number, or "TASK PART": [N_DRAWS] its values on drawn records}; arguments of intervals."""
    sample = Sample(seed)
    metrics = set_of(metrics, logs.values())
    tasks = _of_tasks(sample, logs, metrics, scores)
    drawn: dict[str, np.ndarray] = {}
    for number, parts in AGGREGATES[metrics].items():
        if scores.get(number) is not None:
            drawn[number] = harmonic_means([tasks[task][part] for task, part in parts])
    for number, (compare, quality_tasks) in QUALITIES[metrics].items():
        if gold_logs and scores.get(number) is not None:
            task = next(each for each in quality_tasks if each in logs)
            values = sample.of_quality(task, logs[task], gold_logs[task], compare)
            if values is not None:
                drawn[number] = values
    for number, combine in COMBINED.get(metrics, {}).items():
        combined: Any = combine(tasks, drawn)
        if combined is not None:
            drawn[number] = combined
    for task, own in tasks.items():
        drawn |= {f"{task} {part}": values for part, values in own.items()}
    return drawn


def _of_tasks(
    sample: "Sample", logs: Logs, metrics: str, scores: Scores
) -> dict[str, dict[str, np.ndarray]]:
    """{task: {part: [N_DRAWS] values}} of the parts that have a number."""
    text = is_text(logs)
    return {
        task: {
            part: sample.of_part(task, log, function)
            for part, function in functions(metrics, task, text).items()
            if scores["tasks"][task].get(part) is not None
        }
        for task, log in logs.items()
    }


def harmonic_means(parts: list[np.ndarray]) -> np.ndarray:
    """[N_DRAWS] harmonic means of the parts; of one part the part itself."""
    if len(parts) == 1:
        return parts[0]
    with np.errstate(divide="ignore"):
        return len(parts) / np.sum([1.0 / values for values in parts], 0)


class Sample:
    """Draws of records, and numbers computed on them."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._counts: dict[tuple[str, ...], np.ndarray] = {}

    def counts(self, name: str, records: Iterable[str]) -> np.ndarray:
        """[N_DRAWS, n] how often each record is drawn; name: of the data config or the part."""
        key = (name, *records)
        if key not in self._counts:
            purpose = "bootstrap " + "\x1f".join(key)
            self._counts[key] = draws.resampled(self.seed, purpose, len(key) - 1, N_DRAWS)
        return self._counts[key]

    def _of_log(self, task: str, log: Log, records: list[str]) -> np.ndarray:
        return self.counts(str(log.get("config", task)), records)

    def of_part(self, task: str, log: Log, function: Callable[[Log], float]) -> np.ndarray:
        """[N_DRAWS] values of a metric of one task."""
        records = sorted(log["avg_gt_loss"])
        counts = self._of_log(task, log, records)
        if function in GRAND_MEANS:
            right, wrong = log["avg_paraphrased_loss"], log["average_perturb_loss"]
            log_ratios = np.array([right[index] for index in records]) - _constants(
                counts, [wrong[index] for index in records]
            )
            return (counts * GRAND_MEANS[function](log_ratios)).sum(1) / len(records)
        values = [function(one_record(log, index)) for index in records]
        return counts @ np.array(values) / len(records)

    def of_quality(
        self, task: str, log: Log, gold_log: Log, compare: Callable[[Log, Log], float]
    ) -> np.ndarray | None:
        """[N_DRAWS] values of a comparison with gold; None for other records in gold."""
        records = sorted(log["avg_paraphrased_loss"])
        if records != sorted(gold_log["avg_paraphrased_loss"]):
            return None
        counts = self._of_log(task, log, records)
        if compare is quality.forget_quality:
            own = counts @ _bins(log, records) / len(records)
            gold = counts @ _bins(gold_log, records) / len(records)
            return 1.0 - _js_distances(own, gold, np.ones((1, 1)))
        if compare in WEIGHTS:
            to_weight, end = WEIGHTS[compare]
            own = _shares(counts, _in_order(to_weight(log), records))
            gold = _shares(counts, _in_order(to_weight(gold_log), records))
            return end(_js_distances(own, gold, counts))
        to_value, to_number = KS[compare]
        values = [_in_order(to_value(each), records) for each in (log, gold_log)]
        if compare is quality.forget_quality_ks_grand_mean:
            both = [
                value - _constants(counts, [each["average_perturb_loss"][i] for i in records])
                for value, each in zip(values, (log, gold_log), strict=True)
            ]
            largest = np.array([_largest(*rows) for rows in zip(counts, *both, strict=True)])
        else:
            largest = _largest_of_all(counts, *values)
        return np.array([to_number(int(h), len(records)) for h in largest])


def one_record(log: Log, index: str) -> Log:
    """The log with one record alone."""
    own: dict[str, Any] = {}
    for column, values in log.items():
        if not isinstance(values, dict):
            own[column] = values
        elif index in values:
            own[column] = {index: values[index]}
    return own  # type: ignore[return-value]


def _constants(counts: np.ndarray, wrong: list[list[float]]) -> np.ndarray:
    """[N_DRAWS, 1] the mean over all wrong answers of the drawn records."""
    sums = np.array([sum(losses) for losses in wrong])
    return ((counts @ sums) / (counts @ np.array([len(losses) for losses in wrong])))[:, None]


def _in_order(values: Mapping[str, float], records: list[str]) -> np.ndarray:
    return np.array([values[index] for index in records])


def _bins(log: Log, records: list[str]) -> np.ndarray:
    """[n, 10] one-hot rows: the bin of each record's truth ratio."""
    return np.array([quality.histogram(one_record(log, index)) for index in records])


def _shares(counts: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """[N_DRAWS, n] each record's weight, divided by the sum of the drawn ones."""
    weights = np.exp(log_weights - log_weights.max())
    sums = counts @ weights
    shares = weights / np.maximum(sums, SMALLEST_SUM)[:, None]
    # A draw without the heaviest records: its weights are scaled by the largest of its own.
    for draw in np.flatnonzero(sums < SMALLEST_SUM):
        largest = log_weights[counts[draw] > 0].max()
        own = np.exp(np.minimum(log_weights - largest, 0.0))
        shares[draw] = own / (counts[draw] @ own)
    return shares


def _js_distances(p: np.ndarray, q: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[N_DRAWS] Jensen-Shannon distances of rows; counts: how often each entry stands in a row."""
    middle = (p + q) / 2
    total = np.zeros(len(p))
    with np.errstate(divide="ignore", invalid="ignore"):
        for each in (p, q):
            terms = np.where(each > 0, each * np.log(each / middle), 0.0)
            total += (counts * terms).sum(1)
    return np.sqrt(np.maximum(total / 2, 0.0))


def _largest_of_all(counts: np.ndarray, own: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """[N_DRAWS] the largest difference of the two samples' numbers of values up to any value."""
    thresholds = np.unique(np.concatenate([own, gold]))
    differences = (own[:, None] <= thresholds).astype(float) - (gold[:, None] <= thresholds)
    return np.abs(counts @ differences).max(1).round()


def _largest(counts: np.ndarray, own: np.ndarray, gold: np.ndarray) -> int:
    """The same of one draw, whose values are its own."""
    return int(_largest_of_all(counts[None], own, gold)[0])


def _minus(values: Values) -> Values:
    return lambda log: {index: -value for index, value in values(log).items()}


@cache
def _p(h: int, n: int) -> float:
    return distances.p_of_difference(h, n, n)


@cache
def _log10_p(h: int, n: int) -> float:
    return distances.log10_p_of_difference(h, n, n)


# {metric of a task: its value of log R by grand mean}; all others are means over records.
GRAND_MEANS: dict[Callable[..., float], Callable[[np.ndarray], np.ndarray]] = {
    task_metrics.truth_ratio_grand_mean_below_one: lambda x: -np.expm1(np.minimum(x, 0.0)),
    task_metrics.truth_ratio_grand_mean_closer_to_one: lambda x: np.exp(-np.abs(x)),
}
# {comparison with gold: (log of each record's weight, the number of a JS distance)}
WEIGHTS: dict[Callable[..., float], tuple[Values, Callable[[np.ndarray], np.ndarray]]] = {
    quality.forget_quality_aligned: (
        _minus(task_metrics.grand_mean_truth_ratios),
        lambda x: 1.0 - x,
    ),
    open_mmunlearning.js_distance: (_minus(task_metrics.geometric_truth_ratios), lambda x: x),
}
# {comparison with gold: (value of each record, number of the KS statistic's h and n)}
KS: dict[Callable[..., float], tuple[Values, Callable[[int, int], float]]] = {
    quality.forget_quality_ks: (task_metrics.geometric_truth_ratios, _p),
    quality.forget_quality_log10_ks: (task_metrics.geometric_truth_ratios, _log10_p),
    quality.forget_quality_ln_ks: (
        task_metrics.geometric_truth_ratios,
        lambda h, n: LN_10 * _log10_p(h, n),
    ),
    quality.forget_quality_ks_grand_mean: (lambda log: log["avg_paraphrased_loss"], _p),
    open_unlearning.forget_quality: (open_unlearning.truth_ratios, _p),
    open_unlearning.forget_quality_log10: (open_unlearning.truth_ratios, _log10_p),
    open_mmunlearning.ks_p: (task_metrics.geometric_truth_ratios, _p),
    open_mmunlearning.ks_distance: (task_metrics.geometric_truth_ratios, lambda h, n: h / n),
    forgetium.forget_quality: (
        forgetium.truth_ratios,
        lambda h, n: min(-_log10_p(h, n), forgetium.SMALLEST),
    ),
}
