"""Likelihoods of candidate answers, plain and with shared prompts: tokens that the decoder sees, time, and equal results."""

import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import torch

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import setting
from clear_ref.common.text_table import aligned
from clear_ref.data.prompts import read_phrases
from clear_ref.evaluation.likelihood import candidate_nll, plain_nll
from clear_ref.evaluation.tasks import items, tasks
from clear_ref.losses import native
from clear_ref.mini.directories import BASE, WORLD
from clear_ref.model import shapes
from clear_ref.model.vlm import load

from .token_terms import hardware

TASKS = {
    "captions": 3,
    "names": 5,
    "questions": 7,
}  # places in evaluation.tasks.tasks: Retain's captions, its names, its text
WAYS = ("plain", "shared, one record", "shared, batched")
SHAPE, LETTERS = (
    "llava-78m",
    40,
)  # a byte is a token to it: of captions the last letters, as many as they usually have tokens
COLUMNS = (
    "model",
    "records",
    "candidates",
    "tokens each",
    "way",
    "decoder tokens",
    "fewer",
    "seconds (least-most)",
    "faster",
    "nll per token apart",
)


@dataclass(frozen=True)
class BenchLikelihoodSettings:
    """bench --what likelihood: what is measured."""

    records: int = setting(
        8, "records of each task; of the model with 576 image tokens a quarter of them"
    )
    threads: int = setting(1, "CPU threads")
    rounds: int = setting(3, "timed rounds, in which the ways take turns")


def run(settings: BenchLikelihoodSettings) -> dict:
    """Everything measured, with what it was measured on.

    cases   [{model, task, records, candidates, answer_tokens, prompt_tokens: means, ways: {way: {decoder_tokens, seconds: [one a
            round], apart: largest difference from plain, nats per token}}}]; decoder_tokens: positions that the decoder computed
    """
    for f in fields(settings):
        if getattr(settings, f.name) < 1:
            raise UserError(f"{f.name} is {getattr(settings, f.name)}; expected 1 or more")
    before, progress, cases = torch.get_num_threads(), Progress("bench", len(TASKS) + 1, "case"), []
    torch.set_num_threads(settings.threads)
    try:
        with tempfile.TemporaryDirectory() as directory:
            large = Path(directory) / SHAPE
            shapes.write_checkpoint(SHAPE, large, dtype="float32")
            for path, names in ((BASE, TASKS), (large, ["captions"])):
                vlm = load(path)
                for name in names:
                    n = settings.records if path == BASE else -(-settings.records // 4)
                    cases.append(
                        {"model": "mini" if path == BASE else SHAPE, "task": name}
                        | measured(vlm, name, n, settings.rounds, None if path == BASE else LETTERS)
                    )
                    progress.step(note=name)
    finally:
        torch.set_num_threads(before)
    progress.close()
    given = [
        f"--{f.name} {getattr(settings, f.name)}"
        for f in fields(settings)
        if getattr(settings, f.name) != f.default
    ]
    return {
        "command": " ".join(["python -m clear_ref.run bench --what likelihood", *given]),
        "settings": asdict(settings),
        "hardware": hardware("cpu"),
        "kernel": native.description(),
        "versions": run_directory.versions(),
        "cases": cases,
    }


def measured(vlm, name: str, n_records: int, rounds: int, letters: int | None) -> dict:
    """One case of `run`: a task of the embedded world asked of a model, every way in turn."""
    found = items(tasks(10, 64)[TASKS[name]], WORLD, read_phrases(WORLD), n_records)
    prompts = [item.prompt for item in found]
    answers = [
        list(
            dict.fromkeys(
                text[-(letters or len(text)) :]
                for text in (item.answer, item.paraphrased, *item.perturbed)
            )
        )
        for item in found
    ]

    def compute(way):
        if way == "plain":
            return [
                plain_nll(vlm, prompt, of_one)
                for prompt, of_one in zip(prompts, answers, strict=True)
            ]
        if way == "shared, batched":
            return candidate_nll(vlm, vlm.encode(prompts), answers)
        return [
            candidate_nll(vlm, vlm.encode([prompt]), [of_one])[0]
            for prompt, of_one in zip(prompts, answers, strict=True)
        ]

    seen, ways = [0], {way: {"seconds": []} for way in WAYS}

    def count(module, arguments):
        seen[0] += arguments[0].shape[0] * arguments[0].shape[1]

    hook = vlm.model.decoder.register_forward_pre_hook(count)
    for turn in range(rounds):
        for way in WAYS[:: -1 if turn % 2 else 1]:
            seen[0], started = 0, time.perf_counter()
            values = compute(way)
            ways[way]["seconds"].append(time.perf_counter() - started)
            ways[way] |= {"decoder_tokens": seen[0], "values": values}
    hook.remove()
    plain = ways["plain"]["values"]
    for way in ways.values():
        way["apart"] = max(
            abs(total - expected) / n
            for sums, of_one in zip(way.pop("values"), plain, strict=True)
            for (total, _), (expected, n) in zip(sums, of_one, strict=True)
        )
    lengths = [n for of_one in plain for _, n in of_one]
    with torch.no_grad():
        prompt_tokens = sum(int(vlm.encode([prompt]).attention_mask.sum()) for prompt in prompts)
    return {
        "records": len(found),
        "candidates": len(lengths),
        "answer_tokens": sum(lengths) / len(lengths),
        "prompt_tokens": prompt_tokens / len(found),
        "ways": ways,
    }


def text(found: dict) -> str:
    """The measurements as one aligned table."""
    settings, versions, kernel = found["settings"], found["versions"], found["kernel"]
    rows = []
    for case in found["cases"]:
        plain = case["ways"]["plain"]
        head = (
            f"{case['model']}, {case['task']}",
            str(case["records"]),
            str(case["candidates"]),
            f"{case['prompt_tokens']:.0f} + {case['answer_tokens']:.0f}",
        )
        for way, one in case["ways"].items():
            seconds = one["seconds"]
            rows.append(
                (
                    *(head if way == "plain" else ("", "", "", "")),
                    way,
                    str(one["decoder_tokens"]),
                    f"{plain['decoder_tokens'] / one['decoder_tokens']:.1f}",
                    f"{median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})",
                    f"{median(plain['seconds']) / median(seconds):.1f}",
                    f"{one['apart']:.0e}",
                )
            )
    return "\n".join(
        [
            found["command"],
            f"on      {found['hardware']['cpu']}, {settings['threads']} thread{'s' if settings['threads'] > 1 else ''}, kernel "
            f"{kernel['instruction_set'] or 'not built'}, Python {versions['python']}, torch {versions['torch']}; medians of "
            f"{settings['rounds']} rounds in which the ways take turns",
            "",
            *aligned(COLUMNS, rows),
            "plain: one forward of prompt and answer for each candidate; shared: prompts once, candidates behind them",
            f"tokens each: of a prompt, picture included, and of an answer; fewer, faster: plain / this; {SHAPE}: random weights",
        ]
    )
