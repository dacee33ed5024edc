"""estimate: memory and time of CLEAR's runs on a real model, computed from tensor shapes.

No weights are loaded.
"""

import math
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from clear_ref.common.devices import dtype_of
from clear_ref.common.errors import UserError
from clear_ref.common.settings import check_choices
from clear_ref.common.text_table import aligned
from clear_ref.data.schema import SCHEMA
from clear_ref.evaluation.leakage import probe_tasks
from clear_ref.evaluation.likelihood import TOKENS_PER_BATCH
from clear_ref.evaluation.tasks import Task, tasks
from clear_ref.loop.recipes import PaperFinetune
from clear_ref.losses.fused_head import CHUNK_ROWS as FUSED_ROWS
from clear_ref.losses.rows import CHUNK_ROWS
from clear_ref.methods import Need, table
from clear_ref.methods.table import methods_under
from clear_ref.model import shapes
from clear_ref.model.cache import GROWTH
from clear_ref.model.costs import ModelCosts, RecordCosts, model_costs

from . import estimate_visual
from .estimate_memory import NAMES, Parts, evaluation_parts, totals, training_parts
from .estimate_sequence import sequence_cost, sequence_text
from .file_settings import EstimateSettings
from .given import settings_from
from .output import Output
from .released_code import with_released_code
from .settings import Common

# Mean numbers of tokens, with Llama's tokenizer: TOFU's questions have 19 and a template about 10;
# answers and captions have 41 to 48; a name has about 8.
PROMPT, ANSWER, NAME = 30, 45, 8
WHOLE_FINETUNE = "finetune with adapters refuses --shard on: its line is of whole weights"
# Methods with a loss that is a function of whole rows of logits: no columns, so not fused.
WHOLE_ROWS = ("npo",)
CANDIDATES = 7  # the answer, its paraphrase and five wrong ones


class EstimatedRun(TypedDict):
    """One row of the table.

    memory_gb, checkpointed_gb  of one process, without and with --checkpointing on, in 10^9 bytes
    parts                       of the memory, in bytes (estimate_memory.py)
    teacher_gb                  of the frozen model's kept results if none of them came back
    """

    run: str
    parts: Parts
    memory_gb: float
    checkpointed_gb: float
    teacher_gb: float
    pflop: float
    minutes: float


def command(arguments: Namespace) -> Output:
    """What `estimate` prints."""
    if arguments.shape == estimate_visual.VISUAL:
        return estimate_visual.command(arguments)
    return Output(run(arguments.shape, settings_from(arguments, EstimateSettings)), text)


def run(shape: str, settings: EstimateSettings) -> dict[str, Any]:
    """{"shape", "settings", "layout", "runs": [EstimatedRun]}.

    memory   weights; trained numbers with their gradients and AdamW's moments; what one record
             keeps for backward, with its logits (LogitRows); a copy of the weights where full
             fine-tuning needs a teacher; for evaluation the KV cache of the prompts. Not counted:
             what the allocator and the libraries need for themselves.
    pflop    10^15 floating-point operations. This and memory are upper bounds: batches that share a
             prompt (llmu, dpo, sku) are counted as if they did not, and the last decoder layer as
             if all its rows were read.
    minutes  pflop at --tflops; for generated text, the weights read once for each token and batch,
             at --gb-per-s; divided by --processes, see estimated_run
    raises   UserError for an unknown shape or a setting that cannot be used
    """
    settings = with_released_code(settings)
    config, dtype = shapes.config_of(shape), dtype_of(settings.dtype)
    check_choices(settings)
    for name in ("epochs", "eval_batch", "side", "processes", "tflops", "gb_per_s"):
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
    if not settings.lora_rank and dtype.itemsize < 4:
        raise UserError(
            f"--lora-rank 0 trains every weight, and small steps are lost in {settings.dtype}; "
            "expected --dtype float32"
        )
    model = model_costs(config, dtype, settings.lora_rank, PROMPT + ANSWER, settings.side)
    if model.picture is None and settings.modality != "text":
        raise UserError(
            f"--modality is {settings.modality}, and {shape} sees no pictures; expected --modality "
            "text"
        )
    runs = [
        finetuning(model, settings),
        *(unlearning(model, method, settings) for method in methods_under(settings.semantics)),
        evaluating(model, settings),
    ]
    found = {
        "shape": shape,
        "settings": asdict(settings),
        "layout": asdict(model),
        "runs": runs,
    }
    if settings.sequence:
        found["sequence"] = sequence_cost(
            settings.sequence, settings.forget, dtype.itemsize, model.parameters, runs
        )
    return found


def finetuning(model: ModelCosts, settings: EstimateSettings) -> EstimatedRun:
    """The base model, all pictures and texts; a gold model is 90 to 99 percent of it."""
    n, training, _ = mixture(model, "full", "tofu/full", "both")
    flop = PaperFinetune().epochs * n * (training + 2 * ANSWER * model.head)
    kept = largest(model)
    alone = replace(settings, shard="off")  # it writes whole weights, and so refuses --shard on
    parts = parts_of_training(model, alone, (kept.kept, kept.kept_checkpointed))
    return estimated_run("finetune", flop, parts, settings)


def unlearning(model: ModelCosts, method: str, settings: EstimateSettings) -> EstimatedRun:
    """A method: for every forget record, one record of each batch that it needs."""
    options = table.make_options(method, {}, settings.semantics)
    needs = table.needs(method, settings.semantics, options)
    forget, retain = f"forget{settings.forget:02d}", f"retain{100 - settings.forget}"
    n, *forget_costs = mixture(model, forget, f"tofu/{forget}", settings.modality)
    retain_modality = "text" if settings.released_code == "nlp" else "both"
    _, *retain_costs = mixture(model, retain, f"tofu/{retain}", retain_modality)
    flop, kept, checkpointed, logits, hidden_rows = 0.0, 0, 0, LogitRows(), 0
    for name, need in needs.items():
        training, forward = retain_costs if name == "retain" else forget_costs
        record = largest(model)
        if name != "retain" and settings.modality == "text":
            record = model.text
        flop += training + need.teacher * forward
        hidden_rows += need.teacher * kept_rows(need, record)
        for rows in rows_of(need, record):
            flop += rows * model.head * (2 + need.teacher)
            logits.add(rows, need.teacher, settings.lora_rank > 0 and method not in WHOLE_ROWS)
        kept += record.kept
        checkpointed += record.kept_checkpointed
    if table.reference_model(method, options) == "idk":  # this reference is trained first
        flop += forget_costs[0] + 2 * ANSWER * model.head
    teacher_copy = any(need.teacher for need in needs.values()) and not settings.lora_rank
    held = logits.count * model.vocabulary * dtype_of(settings.dtype).itemsize
    parts = parts_of_training(model, settings, (kept + held, checkpointed + held), teacher_copy)
    run = estimated_run(method, settings.epochs * n * flop, parts, settings)
    values = hidden_rows * model.head / (2 * model.vocabulary)
    run["teacher_gb"] = settings.epochs * n * values * dtype_of(settings.dtype).itemsize / 1e9
    return run


@dataclass
class LogitRows:
    """How many rows of logits are in memory at the same time at most, added up batch by batch.

    At most CHUNK_ROWS rows of a batch are computed at once, and kept: the student's, their
    gradient (where one reading gives values and gradient, from the forward pass on), the teacher's.
    If it has more they are computed in chunks, one at a time, in whose place the gradient is
    written if the output layer is frozen (losses/fused_head.py).
    """

    whole: int = 0
    chunk: int = 0

    def add(self, rows: int, teacher: bool, fused: bool) -> None:
        """One batch of `rows` rows; fused: by losses/fused_head.py, if they are many."""
        if rows <= CHUNK_ROWS:
            self.whole += rows * (2 + teacher)
        elif fused:
            self.chunk = max(self.chunk, FUSED_ROWS * (1 + teacher))
        else:
            self.chunk = max(self.chunk, CHUNK_ROWS * (2 + teacher))

    @property
    def count(self) -> int:
        """The number of rows."""
        return self.whole + self.chunk


def rows_of(need: Need, record: RecordCosts) -> list[int]:
    """Rows of logits that a method reads of one record, for each row set."""
    if need.hidden:
        return []
    return [ANSWER if row_set == "answer" else record.tokens for row_set in need.rows]


def kept_rows(need: Need, record: RecordCosts) -> int:
    """Rows of hidden states that the teacher gives for one record: from the first read row on."""
    return ANSWER + 1 if rows_of(need, record) == [ANSWER] else record.tokens


def evaluating(model: ModelCosts, settings: EstimateSettings) -> EstimatedRun:
    """One model on every task: each prompt and candidate once, text of the full length."""
    itemsize = dtype_of(settings.dtype).itemsize
    per_token = model.text.forward / model.text.tokens
    flop, read = 0.0, 0.0
    length = Common().max_new_tokens
    asked = tasks(settings.forget, length)
    if settings.leakage:
        asked += probe_tasks(settings.forget, length, model.picture is not None)
    for task in asked:
        of_text = task.config.startswith("tofu/") and task.probe != "with_picture"
        record = model.text if of_text or task.probe == "no_picture" else model.picture
        if record is None:
            continue
        rows = SCHEMA["configs"][task.config]["rows"]
        after_prompt = CANDIDATES * answer_tokens(task) + task.max_new_tokens
        prompt_flop = record.forward - ANSWER * per_token
        flop += rows * (prompt_flop + after_prompt * (per_token + model.head))
        n_batches = -(-rows // settings.eval_batch)
        read += n_batches * task.max_new_tokens * model.parameters * itemsize
    cache = settings.eval_batch * (largest(model).tokens - ANSWER + GROWTH) * model.cache
    activations = cache + TOKENS_PER_BATCH * model.vocabulary * itemsize
    shard = settings.shard == "on" and bool(settings.lora_rank)
    parts = evaluation_parts(model, itemsize, settings.processes, shard, activations)
    seconds = read / (settings.gb_per_s * 1e9)
    return estimated_run("evaluate", flop, parts, settings, seconds)


def answer_tokens(task: Task) -> int:
    """Tokens of a candidate answer: names are short."""
    return ANSWER if task.max_new_tokens > 16 else NAME


def mixture(
    model: ModelCosts, pictures: str, texts: str, modality: str
) -> tuple[int, float, float]:
    """(records, mean operations of their training, of their forward) of two configs.

    pictures, texts  names of the configs; modality chooses both or one of them
    """
    configs = SCHEMA["configs"]
    parts: list[tuple[int, RecordCosts]] = []
    if model.picture is not None and modality != "text":
        parts.append((configs[pictures]["rows"], model.picture))
    if modality != "visual":
        parts.append((configs[texts]["rows"], model.text))
    n = sum(rows for rows, _ in parts)
    training = sum(rows * cost.training for rows, cost in parts) / n
    forward = sum(rows * cost.forward for rows, cost in parts) / n
    return n, training, forward


def largest(model: ModelCosts) -> RecordCosts:
    """The cost of the largest record: one with a picture, if the model sees pictures."""
    return model.picture or model.text


def parts_of_training(
    model: ModelCosts,
    settings: EstimateSettings,
    activations: tuple[float, float],
    teacher_copy: bool = False,
) -> Parts:
    """The memory of a training, part by part; activations: without and with checkpointing."""
    return training_parts(
        model,
        dtype_of(settings.dtype).itemsize,
        settings.lora_rank,
        settings.processes,
        settings.shard == "on",
        activations,
        teacher_copy,
    )


def estimated_run(
    name: str, flop: float, parts: Parts, settings: EstimateSettings, seconds: float = 0.0
) -> EstimatedRun:
    """One row of the table; `seconds` are added to the time of the operations.

    All processes compute at the same time. Together they do an evaluation of a model that is
    shared out, each the whole of it.
    """
    memory, checkpointed = totals(parts)
    n = 1 if name == "evaluate" and evaluates_in_each(asdict(settings)) else settings.processes
    return {
        "run": name,
        "parts": parts,
        "memory_gb": memory / 1e9,
        "checkpointed_gb": checkpointed / 1e9,
        "teacher_gb": 0.0,
        "pflop": flop / 1e15,
        "minutes": (flop / (settings.tflops * 1e12) + seconds) / 60 / n,
    }


def evaluates_in_each(settings: dict[str, Any]) -> bool:
    """Whether every process computes the whole evaluation."""
    return settings["shard"] == "on" and settings["lora_rank"] > 0


def divided_text(settings: dict[str, Any]) -> list[str]:
    """A line that says which minutes are divided by the number of processes; [] for one process."""
    if settings["processes"] == 1:
        return []
    each = "; evaluate's are not: each computes all of it" if evaluates_in_each(settings) else ""
    return [
        f"minutes are those of one process divided by {settings['processes']}, without the time of "
        f"the exchange{each}"
    ]


def parts_text(found: dict[str, Any]) -> list[str]:
    """The memory of one process by part, a line for each run; without lines for one process."""
    settings = found["settings"]
    if settings["processes"] == 1:
        return []
    lines = []
    for run in found["runs"]:
        sizes = [run["parts"][name] for name in (*NAMES, "checkpointed")]
        lines.append((run["run"], *(f"{size / 1e9:.2f}" for size in sizes)))
    shared = {"off": "whole in each", "on": "decoder layers shared out"}[settings["shard"]]
    what = shared if settings["lora_rank"] else "all weights shared out"
    return [
        "",
        f"GB of one of {settings['processes']} processes ({what}):",
        *aligned(("run", *NAMES, "checkpointed"), lines),
        "checkpointed: activations with --checkpointing on; gathered: held for the exchange",
        *([WHOLE_FINETUNE] if settings["lora_rank"] and settings["shard"] == "on" else ()),
    ]


def teacher_text(runs: list[EstimatedRun]) -> str:
    """One line: what the frozen model's kept results take."""
    sizes = [f"{run['run']} {run['teacher_gb']:.1f}" for run in runs if run["teacher_gb"]]
    return (
        "--teacher keep, GB of hidden states at most, 1 GiB in memory (beside it 0.5 GiB each of "
        f"tower outputs and logits): {', '.join(sizes) or 'nothing'}"
    )


def text(found: dict[str, Any]) -> str:
    """The table, and the assumptions behind it."""
    settings, model = found["settings"], found["layout"]
    header = ("run", "memory GB", "checkpointing on", "PFLOP", "minutes")
    lines = []
    for run in found["runs"]:
        lines.append(
            (
                run["run"],
                f"{run['memory_gb']:.1f}",
                f"{run['checkpointed_gb']:.1f}",
                f"{run['pflop']:.0f}",
                f"{run['minutes']:.0f}",
            )
        )
    record = model["picture"] or model["text"]
    with_picture = "with its picture " if model["picture"] else ""
    return "\n".join(
        [
            f"{found['shape']}: {model['parameters']:,} parameters in {settings['dtype']}, "
            f"{model['trained']:,} trained; {settings['semantics']} semantics, forgetting "
            f"{settings['modality']}, {settings['epochs']} epochs (finetune: "
            f"{PaperFinetune().epochs})",
            f"a record {with_picture}has {record['tokens']} tokens and keeps "
            f"{record['kept'] / 1e9:.1f} GB for backward",
            "",
            *aligned(header, lines),
            *parts_text(found),
            "",
            "memory: one record at a time, in 10^9 bytes, without the allocator's own; "
            "checkpointing on: with --checkpointing on",
            teacher_text(found["runs"]),
            f"minutes: if {settings['tflops']:.0f} TFLOP/s and {settings['gb_per_s']:.0f} GB/s are "
            "sustained (--tflops, --gb-per-s: assumptions)",
            *divided_text(settings),
            *sequence_text(found.get("sequence")),
            "a run of METHOD trains once and evaluates base, gold and the unlearned model; `all` "
            "evaluates base and gold once",
        ]
    )
