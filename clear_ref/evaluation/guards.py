"""Guards of an evaluation: what its logs say of the models. They read the logs and change nothing.

cut_answers    more than MOST_CUT of a task's right answers have more tokens than it generates at
               most: no generated text can hold them whole, and ROUGE is low for that reason. (In
               training nothing is cut: a record that is too long is refused, data/tokens.py)
collapsed      in more than MOST_COLLAPSED of a task's generated texts a model says nothing or
               repeats itself. A text of at least SHORTEST characters repeats itself if at most
               half of its different places of LONG characters hold different text. A word said
               over and over, or a sentence said twice and more, does so in any script
likelier       the forget answers are likelier than in base: their mean nll for each token is lower
               than base's by more than two standard errors of the records' differences, in at
               least FEWEST records of a task (those of the modality that was forgotten)
same_scores    every nll of every task is base's, to the last digit: the training had no effect
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev

from clear_ref.common.guards import EVALUATION, Guard, fire

from .log_format import Log, Logs
from .tasks import Task

LONG = 8  # characters of a place
SHORTEST = 24  # characters of a text that is looked at
DISTINCT = 0.5
MOST_COLLAPSED = 0.25  # share of a task's texts
MOST_CUT = 0.2  # share of a task's right answers
SHOWN = 60  # characters of an example at most
FEWEST = 5  # records from which a mean difference is judged
TEXT_FORGET, CAPTION_FORGET = "eval_text_forget", "eval_log_forget"
FORGET_TASKS = {
    "both": (CAPTION_FORGET, TEXT_FORGET),
    "visual": (CAPTION_FORGET,),
    "text": (TEXT_FORGET,),
}


def of_logs(models: Mapping[str, Logs], tasks: Sequence[Task], modality: str = "") -> list[Guard]:
    """The guards of these models' logs.

    models    {"base", "unlearned", ...: {task: log}}
    modality  what "unlearned" was to forget
    """
    found = list(cut_answers(models, tasks))
    for name, logs in models.items():
        found += collapsed(name, logs)
    if "base" in models and "unlearned" in models:
        found += likelier(models["base"], models["unlearned"], modality)
        found += same_scores(models["base"], models["unlearned"])
    return found


def cut_answers(models: Mapping[str, Logs], tasks: Sequence[Task]) -> Iterator[Guard]:
    """A guard that names the tasks with many answers that are longer than what is generated."""
    logs = next(iter(models.values()))
    named = []
    for task in tasks:
        lengths = logs[task.name]["num_token_gt"].values()
        long = sum(n > task.max_new_tokens for n in lengths)
        if long > MOST_CUT * len(lengths):
            named.append(f"{task.name} {long} of {len(lengths)} (> {task.max_new_tokens})")
    if named:
        yield fire(
            "cut_answers",
            EVALUATION,
            f"right answers have more tokens than are generated: {', '.join(named)}; ROUGE is too "
            "low there: raise --max-new-tokens (names: a quarter of it)",
        )


def collapsed(model: str, logs: Logs) -> Iterator[Guard]:
    """A guard that names the tasks in which a model says nothing or repeats itself."""
    named = []
    shown = ""
    for name, log in logs.items():
        texts = [text for _, text, _ in log["generated_text"].values()]
        bad = [text for text in texts if not text.strip() or repeats_itself(text)]
        if len(bad) > MOST_COLLAPSED * len(texts):
            named.append(f"{name} {len(bad)} of {len(texts)}")
            shown = shown or shortened(bad[0])
    if named:
        yield fire(
            "collapsed",
            f"{EVALUATION} of {model}",
            f"generated texts are empty or repeat themselves: {', '.join(named)}, such as "
            f"{shown!r}",
        )


def shortened(text: str) -> str:
    """A text of at most SHOWN characters, cut between two words; inside one that is longer."""
    found = textwrap.shorten(text, SHOWN, placeholder=" ...")
    if found != "...":  # else the first word is too long
        return found
    return text.split()[0][: SHOWN - 4] + " ..."


def repeats_itself(text: str) -> bool:
    """Whether at most half of the places of LONG characters of a text hold different text."""
    places = [text[start : start + LONG] for start in range(len(text) - LONG + 1)]
    return len(text) >= SHORTEST and len(set(places)) <= DISTINCT * len(places)


def likelier(base: Logs, unlearned: Logs, modality: str) -> Iterator[Guard]:
    """A guard for each forget task whose answers have become likelier."""
    for name in FORGET_TASKS.get(modality, ()):
        if name not in base or name not in unlearned:
            continue
        changes = nll_changes(base[name], unlearned[name])
        if len(changes) >= FEWEST and mean(changes) < -2 * stdev(changes) / len(changes) ** 0.5:
            yield fire(
                "likelier",
                f"{EVALUATION} of unlearned, {name}",
                f"the forget answers are likelier than before: their mean nll has gone from "
                f"{mean(base[name]['avg_gt_loss'].values()):.3f} to "
                f"{mean(unlearned[name]['avg_gt_loss'].values()):.3f} nats for each token",
            )


def nll_changes(before: Log, after: Log) -> list[float]:
    """The change of each record's mean answer nll."""
    return [
        after["avg_gt_loss"][index] - nll
        for index, nll in before["avg_gt_loss"].items()
        if index in after["avg_gt_loss"]
    ]


def same_scores(base: Logs, unlearned: Logs) -> Iterator[Guard]:
    """A guard if no answer's nll has changed."""
    changes = [
        change
        for name, log in base.items()
        if name in unlearned
        for change in nll_changes(log, unlearned[name])
    ]
    if changes and not any(changes):
        yield fire(
            "same_scores",
            f"{EVALUATION} of unlearned",
            f"the nll of all {len(changes)} answers is base's to the last digit: the training had "
            "no effect on them",
        )
