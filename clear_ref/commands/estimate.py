"""estimate: memory and time of CLEAR's runs on a real model, from shapes: nothing is loaded, nothing is run but shapes."""

import math
from dataclasses import asdict, dataclass

from clear_ref.common.devices import dtype_of
from clear_ref.common.errors import UserError
from clear_ref.common.settings import setting
from clear_ref.common.text_table import aligned
from clear_ref.data.records import SCHEMA
from clear_ref.evaluation.likelihood import TOGETHER
from clear_ref.evaluation.tasks import tasks
from clear_ref.loop.recipes import PaperFinetune
from clear_ref.loop.unlearn import MODALITIES
from clear_ref.methods import table
from clear_ref.model import shapes
from clear_ref.model.cache import GROWTH
from clear_ref.model.costs import ModelCosts, RecordCosts, model_costs

from .settings import Common

# Tokens: TOFU's questions have 19 on average, a template some 10; answers and captions 41 to 48 (Llama's tokenizer).
PROMPT, ANSWER, NAME = 30, 45, 8
CANDIDATES = 7  # the answer, its paraphrase and five wrong ones
ADAM = 16  # bytes of a trained number in fp32: itself, its gradient, two moments


@dataclass(frozen=True)
class EstimateSettings:
    """estimate SHAPE: what is run, and on what."""

    semantics: str = setting(
        "paper", "whose meaning of the methods", "design: paper is the default"
    )
    modality: str = setting(
        "both", "what of the forget set is trained on: both, text or visual", "paper Sec. 5.4"
    )
    forget: int = setting(
        10, "which forget split: 1, 5 or 10 percent of the authors", "paper Sec. 4"
    )
    dtype: str = setting("bfloat16", "compute dtype of the weights")
    lora_rank: int = setting(8, "rank of the LoRA adapters; 0: full fine-tuning", "paper App. H")
    epochs: int = setting(5, "passes over the forget set", "paper App. H")
    eval_batch: int = setting(
        8, "records evaluated together", "released code (config/mm/eval.yaml)"
    )
    side: int = setting(
        1024,
        "side of a picture in pixels",
        "CLEAR's pictures (semantics 7); LLaVA resizes all to one size",
    )
    tflops: float = setting(
        200.0,
        "10^12 operations a second that the device keeps up",
        "an assumption, not measured; 20% of what an H100 is sold with in bfloat16",
    )
    gb_per_s: float = setting(
        2000.0, "10^9 bytes a second that it reads", "an assumption, not measured; 60% of an H100's"
    )


def run(shape: str, s: EstimateSettings) -> dict:
    """{"shape", "settings", "layout", "runs": [{"run", "memory_gb", "checkpointed_gb", "pflop", "minutes"}]}.

    memory  weights, what is trained with its gradients and AdamW's moments, what one record keeps for backward, its logits; a
            copy of the weights where full fine-tuning has a teacher; for evaluation the prompts' keys and values. Without the
            allocator's and libraries' own
    pflop   10^15 floating-point operations. This and memory are upper bounds: views that share a prompt (llmu, dpo, sku) are
            counted as if they did not, and the last decoder layer as if all its rows were read
    minutes pflop at --tflops, and for generated text the weights read once a token and batch at --gb-per-s
    raises  UserError for a shape or setting that is none
    """
    config, dtype = shapes.config_of(shape), dtype_of(s.dtype)
    for name in ("epochs", "eval_batch", "side", "tflops", "gb_per_s"):
        if not 0 < getattr(s, name) < math.inf:
            raise UserError(
                f"--{name.replace('_', '-')} is {getattr(s, name)}; expected a number above 0"
            )
    if not s.lora_rank and dtype.itemsize < 4:
        raise UserError(
            f"--lora-rank 0 trains every weight, and small steps are lost in {s.dtype}; expected --dtype float32"
        )
    if s.modality not in MODALITIES or s.forget not in (1, 5, 10):
        raise UserError(
            f"--modality is {s.modality!r} and --forget {s.forget}; expected one of {', '.join(MODALITIES)}, and 1, "
            "5 or 10"
        )
    known = model_costs(config, dtype, s.lora_rank, PROMPT + ANSWER, s.side)
    if known.picture is None and s.modality != "text":
        raise UserError(
            f"--modality is {s.modality}, and {shape} sees no pictures; expected --modality text"
        )
    found = [
        finetuning(known, s),
        *(unlearning(known, method, s) for method in table.METHODS),
        evaluating(known, s),
    ]
    return {"shape": shape, "settings": asdict(s), "layout": asdict(known), "runs": found}


def finetuning(known: ModelCosts, s: EstimateSettings) -> dict:
    """Base: three epochs over all pictures and texts. Gold is 90 to 99 percent of it."""
    n, training, _ = mixture(known, "full", "tofu/full", "both")
    epochs = PaperFinetune().epochs
    flop = epochs * n * (training + 2 * ANSWER * known.head)
    kept = largest(known)
    return row(
        "finetune",
        flop,
        weights(known, s) + kept.kept,
        weights(known, s) + kept.kept_checkpointed,
        s,
    )


def unlearning(known: ModelCosts, method: str, s: EstimateSettings) -> dict:
    """A method: for every forget record one of each batch that it needs, student and, where it is watched, teacher."""
    options = table.make_options(method, {}, s.semantics)
    needs = table.needs(method, s.semantics, options)
    n, *of_forget = mixture(
        known, f"forget{s.forget:02d}", f"tofu/forget{s.forget:02d}", s.modality
    )
    _, *of_retain = mixture(
        known, f"retain{100 - s.forget}", f"tofu/retain{100 - s.forget}", "both"
    )
    flop, kept, checkpointed = 0.0, 0, 0
    for name, need in needs.items():
        training, forward = of_retain if name == "retain" else of_forget
        record = known.text if name != "retain" and s.modality == "text" else largest(known)
        rows = 0 if need.hidden else ANSWER if set(need.rows) == {"answer"} else record.tokens
        flop += training + need.teacher * forward + rows * known.head * (2 + need.teacher)
        logits = rows * known.vocabulary * dtype_of(s.dtype).itemsize * (2 + need.teacher)
        kept, checkpointed = (
            kept + record.kept + logits,
            checkpointed + record.kept_checkpointed + logits,
        )
    if table.reference_model(method, options) == "idk":  # its reference is tuned first
        flop += of_forget[0] + 2 * ANSWER * known.head
    copy = any(need.teacher for need in needs.values()) and not s.lora_rank
    fixed = weights(known, s) + copy * known.parameters * dtype_of(s.dtype).itemsize
    return row(method, s.epochs * n * flop, fixed + kept, fixed + checkpointed, s)


def evaluating(known: ModelCosts, s: EstimateSettings) -> dict:
    """One model on every task: prompts once, candidates once each, and text as long as it may become."""
    flop, read, per_token = 0.0, 0.0, known.text.forward / known.text.tokens
    for task in tasks(s.forget, Common().max_new_tokens):
        record = known.text if task.config.startswith("tofu/") else known.picture
        if record is None:
            continue
        rows, n_answer = (
            SCHEMA["configs"][task.config]["rows"],
            ANSWER if task.max_new_tokens > 16 else NAME,
        )
        after = CANDIDATES * n_answer + task.max_new_tokens
        flop += rows * (record.forward - ANSWER * per_token + after * (per_token + known.head))
        read += (
            -(-rows // s.eval_batch)
            * task.max_new_tokens
            * known.parameters
            * dtype_of(s.dtype).itemsize
        )
    size = dtype_of(s.dtype).itemsize
    cache = s.eval_batch * (largest(known).tokens - ANSWER + GROWTH) * known.cache
    memory = known.parameters * size + cache + TOGETHER * known.vocabulary * size
    return row("evaluate", flop, memory, memory, s, read / (s.gb_per_s * 1e9))


def mixture(
    known: ModelCosts, pictures: str, texts: str, modality: str
) -> tuple[int, float, float]:
    """(records, mean operations of their training, of their forward) of two configs, in the modality asked for."""
    counts = {config: SCHEMA["configs"][config]["rows"] for config in (pictures, texts)}
    n_pictures = 0 if known.picture is None or modality == "text" else counts[pictures]
    n_texts = 0 if modality == "visual" else counts[texts]
    parts = [(n, cost) for n, cost in ((n_pictures, known.picture), (n_texts, known.text)) if n]
    n = n_pictures + n_texts
    return (
        n,
        sum(n * cost.training for n, cost in parts) / n,
        sum(n * cost.forward for n, cost in parts) / n,
    )


def largest(known: ModelCosts) -> RecordCosts:
    """The record that needs most: with a picture, where the model sees any."""
    return known.picture or known.text


def weights(known: ModelCosts, s: EstimateSettings) -> float:
    """Bytes of the weights and of what training adds: adapters in fp32 (whatever the weights are), gradients, AdamW's moments."""
    size = dtype_of(s.dtype).itemsize
    return known.parameters * size + known.trained * (ADAM if s.lora_rank else ADAM - size)


def row(
    name: str,
    flop: float,
    memory: float,
    checkpointed: float,
    s: EstimateSettings,
    seconds: float = 0.0,
) -> dict:
    """One run of the table."""
    return {
        "run": name,
        "memory_gb": memory / 1e9,
        "checkpointed_gb": checkpointed / 1e9,
        "pflop": flop / 1e15,
        "minutes": (flop / (s.tflops * 1e12) + seconds) / 60,
    }


def text(found: dict) -> str:
    """The table for people, and what it rests on."""
    s, known = found["settings"], found["layout"]
    lines = [("run", "memory GB", "checkpointing on", "PFLOP", "minutes")]
    lines += [
        (
            one["run"],
            f"{one['memory_gb']:.1f}",
            f"{one['checkpointed_gb']:.1f}",
            f"{one['pflop']:.0f}",
            f"{one['minutes']:.0f}",
        )
        for one in found["runs"]
    ]
    one_record = known["picture"] or known["text"]
    return "\n".join(
        [
            f"{found['shape']}: {known['parameters']:,} parameters in {s['dtype']}, {known['trained']:,} trained; {s['semantics']} "
            f"semantics, forgetting {s['modality']}, {s['epochs']} epochs (finetune: {PaperFinetune().epochs})",
            f"a record {'with its picture ' if known['picture'] else ''}has {one_record['tokens']} tokens and keeps "
            f"{one_record['kept'] / 1e9:.1f} GB for backward",
            "",
            *aligned(lines[0], lines[1:]),
            "",
            "memory: one record at a time, without the allocator's own, in 10^9 bytes; checkpointing on: with --checkpointing on",
            f"minutes: if {s['tflops']:.0f} TFLOP/s and {s['gb_per_s']:.0f} GB/s are kept up (--tflops, --gb-per-s: assumptions)",
            "a run of METHOD trains once and evaluates base, gold and unlearned model; all evaluates base and gold once",
        ]
    )
