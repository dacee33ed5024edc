"""The command `diff`: at which stage someone else's step first leaves ours, where, by how much, and which known mistake that is.

Each stage is computed from the dump's own tensors of the stages before it, so one mistake shows at one stage: features from
pixels, embeddings from ids and features, hidden states from embeddings, logits from hidden states, token terms, loss and gradient
from logits. What lacks its inputs, or the model, is listed as not compared.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.files import read_text
from clear_ref.common.settings import setting
from clear_ref.mini import directories
from clear_ref.model.vlm import load
from clear_ref.oracle.diff import dump_file, loss_stages, model_stages
from clear_ref.oracle.diff.comparison import STAGES, Comparison
from clear_ref.oracle.mistakes.known import MISTAKES

HELPER = Path(dump_file.__file__).with_name("dump_helper.py")


@dataclass(frozen=True)
class DiffSettings:
    """diff DUMP."""

    model: str = setting(
        "",
        "model directory in HF format, or mini: with it the stages before the logits are compared",
    )
    adapter: str = setting(
        "", "PEFT directory: the student is the model with these adapters, the teacher without"
    )
    method: str = setting("", "the method, instead of the one that the dump names")
    semantics: str = setting("", "its meaning, instead of the one that the dump names")
    template: str = setting(
        "",
        "chat template by name (data/prompts.py); default: the one that the model directory asks for",
    )
    device: str = setting("cpu", "torch device, such as cpu or cuda")


def run(path: str | None, s: DiffSettings) -> dict:
    """What --json prints: {"dump", "method", "semantics", "stages": [Finding and "same"], "not_compared": [text], "first": the
    first stage that differs or None, "mistakes": [{"name", "what", "seen"}] that explain it}.

    raises  UserError for input that is wrong
    """
    if path is None:
        raise UserError(
            "diff: no DUMP is named; expected a file (diff --helper prints what writes one)"
        )
    given, vlm = dump_file.read(path, s.method, s.semantics), None
    if s.model:
        wide = any(
            tensor.dtype == torch.float64
            for batch in given.batches.values()
            for tensor in batch.values()
        )
        vlm = load(
            directories.model_directory(s.model),
            "float64" if wide else "float32",
            s.device,
            s.template,
        )
    if s.adapter:
        if vlm is None or not Path(s.adapter).is_dir():
            raise UserError(
                f"--adapter {s.adapter}: "
                + (
                    "needs --model"
                    if vlm is None
                    else "no such directory; expected one with adapter_config.json"
                )
            )
        vlm.load_adapter(s.adapter)
    c = Comparison(given, vlm)
    with torch.no_grad():
        for name in given.batches:
            model_stages.compare_inputs(c, name)
            model_stages.compare_model(c, name)
            loss_stages.compare_columns(c, name)
    with np.errstate(all="ignore"):  # a sum too large is infinite, and differs
        loss_stages.compare_loss(c)
    found = sorted(c.found, key=lambda one: STAGES.index(one.stage))
    first = next((one for one in found if not one.same), None)
    with np.errstate(all="ignore"):
        names = loss_stages.explain(c, first) if first else []
    return {
        "dump": str(path),
        "method": given.method,
        "semantics": given.semantics,
        "stages": [asdict(one) | {"same": one.same} for one in found],
        "not_compared": c.skipped,
        "first": asdict(first) if first else None,
        "mistakes": [
            {"name": one.name, "what": one.what, "seen": one.seen}
            for one in MISTAKES
            if one.name in names
        ],
    }


def helper() -> str:
    """The source of the helper that writes dumps."""
    return read_text(HELPER).rstrip("\n")


def title(stage: dict) -> str:
    """A stage's name: batch/stage, loss, term/NAME."""
    if stage["stage"] == "terms":
        return f"term/{stage['batch']}"
    return f"{stage['batch']}/{stage['stage']}" if stage["batch"] else stage["stage"]


def text(found: dict) -> str:
    """A line for each stage, then the first that differs: where, by how much, and the mistake that explains it."""
    what = f"{found['method']} ({found['semantics']})" if found["method"] else "no method named"
    lines = [f"{found['dump']}: {what}", ""]
    for stage in found["stages"]:
        state = "same" if stage["same"] else "DIFFERS"
        lines.append(
            f"  {state:8} {title(stage):32} largest difference {stage['error']:<9.3g} allowed {stage['tolerance']:<9.3g}"
            + ("" if stage["same"] else f" {stage['n_off']} of {stage['n']} places")
        )
    lines += [f"  not compared: {one}" for one in found["not_compared"]]
    first = found["first"]
    if first is None:
        return "\n".join(
            [
                *lines,
                "",
                "nothing differs in what was compared"
                if found["stages"]
                else "nothing could be compared",
            ]
        )
    where = f" at {place(first)}" if first["batch"] and first["stage"] != "terms" else ""
    lines += [
        "",
        f"first difference: {title(first)}{where}: theirs {first['theirs']:.9g}, ours {first['ours']:.9g}",
        f"allowed {first['tolerance']:.3g}: {first['reason']}",
    ]
    lines += [
        f"explained by {one['name']}: {one['what']} Seen: {one['seen']}"
        for one in found["mistakes"]
    ]
    return "\n".join(lines + ([] if found["mistakes"] else ["no known mistake explains it"]))


def place(first: dict) -> str:
    """A place in words."""
    names = (
        ("picture", "feature")
        if first["stage"] in ("features", "pixel_values")
        else ("record", "position", "entry")
    )
    words = [f"{name} {index}" for name, index in zip(names, first["where"])]
    verb = "token" if STAGES.index(first["stage"]) < STAGES.index("logits") else "predicting token"
    return ", ".join(words + ([f"{verb} {first['token']}"] if first["token"] else []))


def check(found: dict) -> None:
    """RunFailed where a stage differs, UserError where nothing could be compared."""
    if not found["stages"]:
        raise UserError(
            f"{found['dump']}: nothing in it can be compared: {'; '.join(found['not_compared'])}"
        )
    if found["first"] is not None:
        raise RunFailed(f"{found['dump']} differs first at {title(found['first'])}")
