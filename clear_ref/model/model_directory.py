"""What a model directory holds beside its weights: files for text and pictures, an adapter."""

from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line, read_json, write_bytes
from clear_ref.common.run_directory import check_directory
from clear_ref.data.chat_templates import FOLDER

from . import peft_config, peft_format
from .weights import INDEX, SINGLE

CONFIG = "config.json"
# What the model was trained on (loop/history.py). `save` removes it: the weights are other ones.
HISTORY = "training_history.json"
# The files that `VLM.save` copies: what transformers reads beside config.json and the weights.
COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


def check_is_model(directory: PathName) -> None:
    """UserError if a directory holds an adapter and no model."""
    config = Path(directory) / peft_config.CONFIG
    if config.is_file() and not (Path(directory) / CONFIG).exists():
        base = read_json(config).get("base_model_name_or_path")
        raise UserError(
            f"{directory}: holds an adapter and no model; expected a model directory, and this one "
            f"as its adapter (--adapter); the adapter was made for {one_line(repr(base), 100)}"
        )


def check_adapter_beside(directory: PathName, adapter: PathName) -> None:
    """UserError if a model directory holds an adapter too, and it is not the one to attach.

    transformers loads such a model with its adapter, and many who have it do not know.
    adapter  the PEFT directory whose adapter is attached; "": none
    """
    check_is_model(directory)
    directory = Path(directory)
    config = directory / peft_config.CONFIG
    if not config.is_file():
        return
    if not (directory / peft_format.WEIGHTS).exists():
        raise UserError(
            f"{config}: stands beside a model without {peft_format.WEIGHTS}, and transformers does "
            "not load such a directory; remove it if the model is whole"
        )
    if not adapter or Path(adapter).resolve() != directory.resolve():
        raise UserError(
            f"{config}: stands beside a model, and transformers loads the model with this adapter; "
            f"say what is meant: for both --adapter {directory} (evaluate, explain, diff) or a "
            "merged copy (load with adapter=, then save); for the model alone move the file away"
        )


def _templates(directory: Path) -> list[str]:
    """The further chat templates of a directory, which transformers keeps in a folder."""
    return [f"{FOLDER}/{path.name}" for path in (directory / FOLDER).glob("*.jinja")]


def check_target(target: Path) -> None:
    """UserError unless a model can be written into `target`.

    It cannot be a file, hold a folder with the name of a file that is written, or hold an adapter,
    which transformers would apply to the new weights.
    """
    check_directory(target, "the model's directory")
    for name in (CONFIG, SINGLE, INDEX, *COPIED):
        if (target / name).is_dir():
            raise UserError(f"{target / name}: is a folder; expected a file, or another directory")
    if (target / peft_config.CONFIG).exists():
        raise UserError(
            f"{target / peft_config.CONFIG}: an adapter, which transformers would add to the "
            "weights written here; expected another directory"
        )


def copy_files(source: Path, target: Path) -> None:
    """Copy the files for text and pictures; those that only `target` has are removed."""
    if source.resolve() == target.resolve():
        return
    names = {*COPIED, *_templates(source), *_templates(target)}
    for name in sorted(names):
        if (source / name).is_file():
            (target / name).parent.mkdir(exist_ok=True)
            write_bytes(target / name, (source / name).read_bytes())
        else:
            (target / name).unlink(missing_ok=True)
