"""95 % intervals of numbers made of means: over records by bootstrap, over seeds by Student's t."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .definitions import AGGREGATES, functions
from .log_format import Log, Logs

N_DRAWS = 1000
LEVEL = 0.95
# Student's t at 0.975 for 1, 2, ... 30 degrees of freedom. More than 30 use the last one, which
# makes the interval a little too long.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """mean -+ t s / sqrt(n): the interval of the mean of two or more runs with different seeds.

    s       sample standard deviation (n - 1); t is Student's, with n - 1 degrees of freedom
    source  W. S. Gosset ("Student"), "The probable error of a mean", 1908
    flaw    assumes that runs are normally distributed; with two seeds t is 12.7
    """
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = T_975[min(n - 1, len(T_975)) - 1] * deviation / math.sqrt(n)
    return mean - half, mean + half


def over_draws(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of values on drawn records: the percentile bootstrap.

    source  B. Efron, "Bootstrap methods: another look at the jackknife", 1979
    flaw    it says how much other records would change a number, not how much another training
            would; with few records it is too short
    """
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def draw(models: Mapping[str, Logs], metric: str, seed: int = 0) -> dict[str, np.ndarray]:
    """{model: [N_DRAWS] values of one number}, each on records drawn with replacement.

    A draw takes the same records of every model, and of every task of one data config.

    models  {name: logs} of models that were asked the same questions
    metric  one of AGGREGATES["paper"]
    """
    generator = np.random.default_rng(seed)
    inverses = {name: np.zeros(N_DRAWS) for name in models}
    parts = AGGREGATES["paper"][metric]
    shares: dict[tuple[object, ...], np.ndarray] = {}
    for task, part in parts:
        first = next(iter(models.values()))[task]
        records = sorted(first["avg_gt_loss"])
        key = (first.get("config", task), *records)
        if key not in shares:
            n = len(records)
            shares[key] = generator.multinomial(n, np.full(n, 1 / n), N_DRAWS) / n
        for name, logs in models.items():
            means = shares[key] @ np.array(record_values(task, part, logs[task], records))
            with np.errstate(divide="ignore"):
                inverses[name] += 1.0 / means
    return {name: len(parts) / inverse for name, inverse in inverses.items()}


def record_values(task: str, part: str, log: Log, records: Sequence[str]) -> list[float]:
    """The value of each record whose mean is a part of a number, by the paper's definitions."""
    function = functions("paper", task, False)[part]
    values = []
    for index in records:
        own = {
            column: {index: value[index]} if isinstance(value, dict) else value
            for column, value in log.items()
        }
        values.append(function(own))  # type: ignore[arg-type]
    return values
