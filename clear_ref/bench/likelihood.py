"""bench --what likelihood: likelihoods of candidate answers, plain and with shared prompts.

It measures the tokens that the decoder computes, the time, and that the results are equal.
"""

import tempfile
import time
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median

import torch

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.text_table import aligned
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import Record
from clear_ref.evaluation.likelihood import candidate_nll, plain_nll
from clear_ref.evaluation.tasks import Item, items, tasks
from clear_ref.losses import native
from clear_ref.mini.directories import BASE, WORLD
from clear_ref.model import shapes
from clear_ref.model.vlm import VLM, load

from .process import Findings, command_line, hardware, kernel_and_versions, threads_text
from .settings import BenchLikelihoodSettings

Nll = list[list[tuple[float, int]]]  # for each prompt, (summed nll, tokens) of each candidate

# Index in evaluation.tasks.tasks: Retain's captions, its names, its texts.
TASKS = {"captions": 3, "names": 5, "questions": 7}
WAYS = ("plain", "shared, one record", "shared, batched")
SHAPE = "llava-78m"
# For the tokenizer of this shape a byte is a token: of a caption its last letters are used, as many
# as a caption usually has tokens.
LETTERS = 40
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


def run(settings: BenchLikelihoodSettings) -> Findings:
    """Everything measured, with the machine and versions.

    cases   [{model, task, records, candidates, answer_tokens, prompt_tokens: means, ways: {way:
            {decoder_tokens, seconds: [one a round], apart: largest difference from plain, nats per
            token}}}]; decoder_tokens: positions that the decoder computed
    """
    for field in fields(settings):
        if getattr(settings, field.name) < 1:
            raise UserError(f"{field.name} is {getattr(settings, field.name)}; expected 1 or more")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        cases = measure_cases(settings)
    finally:
        torch.set_num_threads(n_threads)
    return {
        "command": command_line(settings, "likelihood"),
        "settings": asdict(settings),
        "hardware": hardware("cpu"),
        "kernel": native.description(),
        "versions": run_directory.versions(),
        "cases": cases,
    }


def measure_cases(settings: BenchLikelihoodSettings) -> list[Findings]:
    """The cases of `run`: all tasks on the embedded world's base model, captions on SHAPE."""
    progress = Progress("bench", len(TASKS) + 1, "case")
    cases = []
    vlm = load(BASE)
    for task in TASKS:
        case = measured(vlm, task, settings.records, settings.rounds, None)
        cases.append({"model": "mini", "task": task} | case)
        progress.step(note=task)
    with tempfile.TemporaryDirectory() as directory:
        large = Path(directory) / SHAPE
        shapes.write_checkpoint(SHAPE, large, dtype="float32")
        n_records = -(-settings.records // 4)
        case = measured(load(large), "captions", n_records, settings.rounds, LETTERS)
        cases.append({"model": SHAPE, "task": "captions"} | case)
        progress.step(note="captions")
    progress.close()
    return cases


def measured(vlm: VLM, task: str, n_records: int, rounds: int, letters: int | None) -> Findings:
    """One case of `run`: a task of the embedded world on a model, every way in turn.

    letters  use only so many last letters of each answer; None: all
    """
    rows = items(tasks(10, 64)[TASKS[task]], WORLD, read_phrases(WORLD), n_records)
    prompts = [row.prompt for row in rows]
    answers = [candidates(row, letters) for row in rows]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    decoder_tokens: dict[str, int] = {}
    values: dict[str, Nll] = {}
    n_computed = 0

    def count(module: torch.nn.Module, arguments: tuple) -> None:
        nonlocal n_computed
        n_computed += arguments[0].shape[0] * arguments[0].shape[1]

    hook = vlm.model.decoder.register_forward_pre_hook(count)
    for turn in range(rounds):
        for way in WAYS[::-1] if turn % 2 else WAYS:
            n_computed = 0
            start = time.perf_counter()
            values[way] = compute(vlm, way, prompts, answers)
            seconds[way].append(time.perf_counter() - start)
            decoder_tokens[way] = n_computed
    hook.remove()
    lengths = [n for candidate_values in values["plain"] for _, n in candidate_values]
    with torch.no_grad():
        prompt_tokens = sum(int(vlm.encode([prompt]).attention_mask.sum()) for prompt in prompts)
    return {
        "records": len(rows),
        "candidates": len(lengths),
        "answer_tokens": sum(lengths) / len(lengths),
        "prompt_tokens": prompt_tokens / len(rows),
        "ways": {
            way: {
                "seconds": seconds[way],
                "decoder_tokens": decoder_tokens[way],
                "apart": largest_difference(values[way], values["plain"]),
            }
            for way in WAYS
        },
    }


def candidates(row: Item, letters: int | None) -> list[str]:
    """The different candidate answers of a row, each with its last letters only."""
    texts = [row.answer, row.paraphrased, *row.perturbed]
    return list(dict.fromkeys(text[-(letters or len(text)) :] for text in texts))


def compute(vlm: VLM, way: str, prompts: list[Record], answers: list[list[str]]) -> Nll:
    """The nll of every candidate, in one of the ways."""
    if way == "shared, batched":
        return candidate_nll(vlm, vlm.encode(prompts), answers)
    pairs = zip(prompts, answers, strict=True)
    if way == "plain":
        return [plain_nll(vlm, prompt, texts) for prompt, texts in pairs]
    return [candidate_nll(vlm, vlm.encode([prompt]), [texts])[0] for prompt, texts in pairs]


def largest_difference(values: Nll, plain: Nll) -> float:
    """The largest difference of two ways, in nats per token."""
    differences = []
    for ours, expected in zip(values, plain, strict=True):
        for (total, _), (expected_total, n) in zip(ours, expected, strict=True):
            differences.append(abs(total - expected_total) / n)
    return max(differences)


def text(found: Findings) -> str:
    """The measurements as one aligned table."""
    settings = found["settings"]
    rows = []
    for case in found["cases"]:
        plain = case["ways"]["plain"]
        for way, measurement in case["ways"].items():
            seconds = measurement["seconds"]
            head = ("", "", "", "")
            if way == "plain":
                head = (
                    f"{case['model']}, {case['task']}",
                    str(case["records"]),
                    str(case["candidates"]),
                    f"{case['prompt_tokens']:.0f} + {case['answer_tokens']:.0f}",
                )
            rows.append(
                (
                    *head,
                    way,
                    str(measurement["decoder_tokens"]),
                    f"{plain['decoder_tokens'] / measurement['decoder_tokens']:.1f}",
                    f"{median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})",
                    f"{median(plain['seconds']) / median(seconds):.1f}",
                    f"{measurement['apart']:.0e}",
                )
            )
    lines = [
        found["command"],
        f"on      {found['hardware']['cpu']}, {threads_text(settings['threads'])}, "
        f"{kernel_and_versions(found)}; medians of {settings['rounds']} rounds in which the ways "
        "take turns",
        "",
        *aligned(COLUMNS, rows),
        "plain: one forward of prompt and answer for each candidate; shared: prompts once, then "
        "the candidates",
        "tokens each: of a prompt, picture included, and of an answer; fewer, faster: plain / "
        f"this; {SHAPE}: random weights",
    ]
    return "\n".join(lines)
