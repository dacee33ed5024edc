"""The template for a model directory: which of ours is its own chat template."""

from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_json, read_text

from .templates import LLAVA_WITH_END_JINJA, TEMPLATES, Template

# For each model_type: the template of a directory without a chat template, and for a directory
# with one: (word in it, name of our template).
FAMILY = {
    "llava": ("llava", (("ASSISTANT:", "llava"),)),
    "qwen2_vl": ("qwen2-vl", (("<|vision_start|>", "qwen2-vl"),)),
    "qwen2_5_vl": ("qwen2-vl", (("<|vision_start|>", "qwen2-vl"),)),
    "qwen2": (
        "qwen2",
        (("created by Alibaba Cloud", "qwen2.5"), ("You are a helpful assistant.", "qwen2")),
    ),
    "llama": (
        "inst",
        (
            ("named SmolLM", "smollm2"),
            ("Cutting Knowledge Date", "llama-3.1"),
            ("<|start_header_id|>", "llama-3"),
            ("[INST]", "inst"),
            ("USER:", "vicuna"),
        ),
    ),
    "mistral": ("inst", (("[INST]", "inst"),)),
}


def choose_template(directory: PathName, model_type: str, chosen: str = "") -> Template:
    """The template for a model directory.

    It is the one named `chosen`; else the one that matches the directory's own chat template; else
    the default of the model_type. A chat template is never executed: words in it decide which of
    ours matches.

    raises  UserError for an unknown name, and for a chat template that matches none of ours
    """
    if chosen:
        if chosen not in TEMPLATES:
            raise UserError(f"--template is {chosen!r}; expected one of {', '.join(TEMPLATES)}")
        return TEMPLATES[chosen]
    own_template = chat_template(Path(directory))
    default, words = FAMILY[model_type]
    if own_template is None:
        return TEMPLATES[default]
    path, text = own_template
    if text == LLAVA_WITH_END_JINJA:
        return TEMPLATES["llava-end"]
    for word, name in words:
        if word in text:
            return TEMPLATES[name]
    raise UserError(
        f"{path}: holds no chat template that is known for {model_type}; name the one to use with "
        f"--template: one of {', '.join(TEMPLATES)}"
    )


def chat_template(directory: Path) -> tuple[Path, str] | None:
    """(file, text) of a model directory's chat template; None if it has none.

    The template can be in one of three files; chat_template.jinja is read first.
    """
    path = directory / "chat_template.jinja"
    if path.exists():
        return path, read_text(path)
    for path in (directory / "chat_template.json", directory / "tokenizer_config.json"):
        text = read_json(path).get("chat_template") if path.exists() else None
        if isinstance(text, list):  # several templates, each with a name
            text = _default_of(text)
        if isinstance(text, str):
            return path, text
    return None


def _default_of(templates: list[object]) -> object:
    """The template with the name "default", or None."""
    for each in templates:
        if isinstance(each, dict) and each.get("name") == "default":
            return each.get("template")
    return None
