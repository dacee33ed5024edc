"""Whether forgetting lasts: relearning, rounded weights, and who can tell from the likelihoods what a model was trained on.

Each is measured of the model and, where there is one, of gold: a model that never saw the forget set is what the numbers are read
against. Nothing is written but numbers; every model is put back.
"""

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json, write_jsonl
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Record, Row, read_rows
from clear_ref.loop.plan import FinetunePlan
from clear_ref.model.vlm import VLM

from . import membership
from .definitions import Definition, definitions
from .likelihood import answer_nll
from .membership_scores import mia_loss, mia_min_k
from .metrics import score
from .relearning import MEASURES, content, drawn, forget_numbers, mean_rise, relearn, without
from .rounding import rounded_layers
from .tasks import Task, caption_question

KINDS = {
    "captions": "{}",
    "questions": "tofu/{}",
}  # what membership is asked of, and where its rows lie


@dataclass(frozen=True)
class Probes:
    """What is done to each model, read and checked before anything runs.

    relearned   rows of the config `forget`, drawn from n_forget; at: steps; bits: of the rounded weights
    members     {kind: {"forget": [Record], "holdout": [Record]}}; missing: why a kind, or all, is not there
    rows        all that are read
    """

    directory: Path
    phrases: Phrases
    forget: str
    relearned: list[Row]
    n_forget: int
    at: list[int]
    bits: list[int]
    members: dict[str, dict[str, list[Record]]]
    missing: str
    rows: list[Row]


def numbers_of(text: str, option: str, least: int, most: int) -> list[int]:
    """The whole numbers of "1,2,5", ascending or not, each once; UserError for anything else."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not least <= min(found) <= max(found) <= most:
        raise UserError(
            f"{option} is {text!r}; expected whole numbers from {least} to {most} with commas, each once"
        )
    return found


def probes(s, directory: Path, phrases: Phrases, pictures: bool, given: set) -> Probes:
    """The Probes of these settings; UserError for a value that nothing can run with, and for held-out rows that are in full."""
    mia_min_k([0.0], s.min_k)
    if s.metrics == "tofu":
        raise UserError(
            "--metrics is tofu, whose definitions have no Forget and no Retain that --robustness could follow; "
            "expected paper, released, or all (then the paper's)"
        )
    if s.round_group < 0 or not 0 <= s.relearn_lr < float("inf"):
        raise UserError(
            f"--round-group is {s.round_group} and --relearn-lr {s.relearn_lr}; expected 0 or more for both"
        )
    forget = f"forget{s.forget:02d}"
    config = f"{forget}+tofu" if pictures else f"tofu/{forget}"
    rows = read_rows(directory, config)
    members, missing, read = {}, [], list(rows)
    for kind in [*KINDS][not pictures :]:
        held_out = KINDS[kind].format(s.holdout)
        if "holdout" not in given and not (directory / held_out / "rows.jsonl").exists():
            missing.append(
                f"{kind}: the data has no {held_out}, rows of people that no model was trained on"
            )
            continue
        own = {
            "forget": read_rows(directory, KINDS[kind].format(forget)),
            "holdout": read_rows(directory, held_out),
        }
        refuse_trained_on(own["holdout"], directory, KINDS[kind].format("full"))
        members[kind] = {
            part: [asked(row, phrases) for row in found] for part, found in own.items()
        }
        read += own["forget"] + own["holdout"]
    return Probes(
        directory,
        phrases,
        config,
        drawn(rows, s.relearn_records, s.seed),
        len(rows),
        sorted(numbers_of(s.relearn_at, "--relearn-at", 1, 10000)),
        numbers_of(s.round_bits, "--round-bits", 2, 16),
        members,
        "; ".join(missing),
        read,
    )


def refuse_trained_on(rows: list[Row], directory: Path, full: str) -> None:
    """UserError where a held-out row is one of the config that all models are trained on parts of, as far as that is there."""
    if (directory / full / "rows.jsonl").exists():
        known = {content(row): row.where for row in read_rows(directory, full)}
        for row in rows:
            if content(row) in known:
                raise UserError(
                    f"{row.where}: is {known[content(row)]} too, which models are trained on; expected rows that no "
                    "model has seen: drop it, or name others with --holdout"
                )


def asked(row: Row, phrases: Phrases) -> Record:
    """The row with its true answer, asked as an evaluation asks it."""
    if row.values.get("caption") is not None:
        return Record(caption_question(row, phrases), row.values["caption"], row.image)
    return Record(row.values["question"], row.values["answer"])


def membership_scores(vlm: VLM, members: dict, min_k: float) -> dict[str, dict]:
    """{kind: {"mia_loss": {"forget": {number: score}, "holdout": {...}}, "mia_min_k": {...}}} of the probes' records.

    On the CPU, records are shared among as many processes as torch has threads.
    """
    asked_for = [
        (kind, part, str(number), record)
        for kind, parts in members.items()
        for part, records in parts.items()
        for number, record in enumerate(records)
    ]
    every = map_in_processes(
        lambda one: answer_nll(vlm, one[3]), asked_for, process_count(vlm.device)
    )
    found = {
        kind: {name: {part: {} for part in parts} for name in ("mia_loss", "mia_min_k")}
        for kind, parts in members.items()
    }
    for (kind, part, number, _), nll in zip(asked_for, every, strict=True):
        found[kind]["mia_loss"][part][number] = mia_loss(nll)
        found[kind]["mia_min_k"][part][number] = mia_min_k(nll, min_k)
    return found


def run(
    chosen: Probes, models: dict, logs: dict, tasks: list[Task], s, recipe, logs_of, out: Path
) -> dict:
    """metrics.json's "robustness"; writes out/relearning.jsonl (a line a step and model) and out/membership.json (every score).

    models   {name: () -> VLM}, "model" and where there is one "gold"; loaded one after the other
    logs     {name: its logs}, as evaluated        logs_of  (vlm, what, tasks) -> logs
    returns  {"relearning": {"records": [{"config", "row", "answer"}], "n_forget", "steps", "lr", "rank",
              "models": {name: {measure: [value a step]}}, "mean_rise": {name: {measure: value}}},
              "rounding": {"layers", "group", "models": {name: {bits: metrics.score's result}}},
              "membership": {kind: {"n_forget", "n_holdout", "models": {name: {metric: value}}}},
              "missing": why a part of membership is not there, "definitions": {name: definition's name}}
    """
    metrics = "released" if s.metrics == "released" else "paper"
    recipe = dataclasses.replace(recipe, lr=s.relearn_lr or recipe.lr)
    found = {
        name: of_one(chosen, load(), name, logs, tasks, s, recipe, logs_of, metrics)
        for name, load in models.items()
    }
    write_jsonl(
        out / "relearning.jsonl",
        [{"model": name, **line} for name, one in found.items() for line in one["curve"]],
    )
    scores = {name: one["membership"] for name, one in found.items()}
    write_json(out / "membership.json", {"format": "clear_ref.membership/1", "models": scores})
    steps = [0, *chosen.at]
    curves = {
        name: {
            measure: [line[measure] for line in one["curve"] if line["step"] in steps]
            for measure in MEASURES
        }
        for name, one in found.items()
    }
    return {
        "relearning": {
            "records": [
                {
                    "config": chosen.forget,
                    "row": row.index,
                    "answer": asked(row, chosen.phrases).answer,
                }
                for row in chosen.relearned
            ],
            "n_forget": chosen.n_forget,
            "steps": steps,
            "lr": recipe.lr,
            "rank": recipe.lora_rank,
            "models": curves,
            "mean_rise": {
                name: {measure: mean_rise(steps, values) for measure, values in curve.items()}
                for name, curve in curves.items()
            },
        },
        "rounding": {
            "layers": found["model"]["layers"],
            "group": s.round_group,
            "models": {name: one["rounding"] for name, one in found.items()},
        },
        "membership": {
            kind: {
                **{f"n_{part}": len(records) for part, records in parts.items()},
                "models": {
                    name: membership.membership(one[kind], scores.get("gold", {}).get(kind))
                    for name, one in scores.items()
                },
            }
            for kind, parts in chosen.members.items()
        },
        "missing": chosen.missing,
        "definitions": {name: one.name for name, one in robustness_definitions(metrics).items()},
    }


def of_one(
    chosen: Probes,
    vlm: VLM,
    name: str,
    logs: dict,
    tasks: list[Task],
    s,
    recipe,
    logs_of,
    metrics: str,
) -> dict:
    """{"membership": scores, "rounding": {bits: metrics}, "layers": how many were rounded, "curve": lines} of one model."""
    rounding, layers = {}, []
    scores = membership_scores(vlm, chosen.members, s.min_k)
    for bits in chosen.bits:
        with rounded_layers(vlm.model, bits, s.round_group) as layers:
            rounding[str(bits)] = score(
                logs_of(vlm, f"{name} in {bits} bits", tasks), logs.get("gold"), metrics
            )
    forget = [task for task in tasks if task.set_name == "Forget"]

    def numbers(found: dict) -> dict:
        return forget_numbers(
            found, without(found, forget, chosen.directory, chosen.relearned), metrics
        )

    curve = relearn(
        vlm,
        FinetunePlan(chosen.relearned, chosen.phrases, s.seed),
        recipe,
        chosen.at,
        numbers({task.name: logs[name][task.name] for task in forget}),
        lambda: numbers(logs_of(vlm, f"relearn {name}", forget)),
    )
    return {"membership": scores, "rounding": rounding, "layers": len(layers), "curve": curve}


def robustness_definitions(metrics: str = "paper") -> dict[str, Definition]:
    """The definition of each number of `run`, by measure or metric."""
    known = definitions(metrics)
    found = {
        "nll_relearned": Definition(
            "mean_nll_of_relearned",
            "mean nll per token of the relearned records' answers",
            inspect.getdoc(mia_loss),
        )
    }
    for metric in ("forget", "text_forget"):
        own = known[metric]
        found[metric] = own
        found[f"{metric}_not_relearned"] = Definition(
            f"{own.name}_not_relearned",
            "the same of the records not relearned",
            own.text + " Without the records that are trained on again.",
        )
    found["mean_rise"] = Definition(
        "mean_rise", "how far the curve lies above its start, on average", inspect.getdoc(mean_rise)
    )
    return (
        known
        | found
        | {name: membership.definition(name) for name in ("mia_loss", "mia_min_k", "privleak")}
    )
