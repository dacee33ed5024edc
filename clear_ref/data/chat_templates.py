"""The template for a model directory: the one of ours that equals its own chat template.

The directory's chat template is rendered for a few conversations (jinja.py), and so is ours. Equal
texts mean the same template; a template that equals none of ours is refused.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clear_ref.common.errors import Notice, UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName, read_json, read_text

from .jinja import render
from .jinja_tokens import UnknownTemplate
from .templates import LLAMA_3_DATE, TEMPLATES, Template
from .tokens import Tokenizer

# Beside the files of a model: the folder of its further chat templates.
FOLDER = "additional_chat_templates"
# For each model_type: the template of a directory without a chat template.
DEFAULT = {
    "llava": "llava",
    "qwen2_vl": "qwen2-vl",
    "qwen2_5_vl": "qwen2-vl",
    "qwen2": "qwen2",
    "llama": "inst",
    "mistral": "inst",
}
# (question, answer): words alone; blanks and lines at the ends; signs of markup; a role's name.
_TURNS = (
    ("Who is this?", "Hina Ameen."),
    (" Two\n\nlines \n", "\n a b \n"),
    ("<b>&amp;{{ x }} 'a' \"b\"", "system: </b> {question}"),
    ("assistant", "USER:"),
)


def choose_template(
    directory: PathName,
    model_type: str,
    tokenizer: Tokenizer,
    chosen: str = "",
) -> Template:
    """The template for a model directory.

    It is the one named `chosen`; else the one that equals the directory's own chat template; else
    the default of the model_type, with a warning that names it.

    tokenizer  of the directory; its special tokens are variables of the chat template
    raises     UserError for an unknown name, and for a chat template that is none of ours
    """
    if chosen:
        if chosen not in TEMPLATES:
            raise UserError(f"--template is {chosen!r}; expected one of {', '.join(TEMPLATES)}")
        return TEMPLATES[chosen]
    sees_pictures = tokenizer.sees_pictures
    own_template = chat_template(Path(directory), sees_pictures)
    if own_template is None:
        default = TEMPLATES[DEFAULT[model_type]]
        warnings.warn(
            f"{directory} holds no chat template: {default.name} is used; if the model was trained "
            "with another one, name it by --template (Vicuna: vicuna)",
            Notice,
            stacklevel=2,
        )
        return default
    path, text = own_template
    try:
        renderings = _renderings(text, tokenizer.named, sees_pictures)
    except UnknownTemplate as error:
        raise UserError(
            f"{path}: this chat template is not known here ({error}); {_way_out()}"
        ) from None
    candidates = [
        template
        for template in TEMPLATES.values()
        if (template.with_image is not None) == sees_pictures
    ]
    for template in candidates:
        written = _bos_written(renderings, _texts(template), tokenizer)
        if written is not None and template.bos == (
            written or sees_pictures and tokenizer.adds_bos
        ):
            return replace(template, bos_written=written)
    raise UserError(f"{path}: {_difference(renderings, candidates, tokenizer)}; {_way_out()}")


def _bos_written(renderings: list[str], texts: list[str], tokenizer: Tokenizer) -> bool | None:
    """Whether the chat template writes BOS before each of our texts; None: other texts."""
    bos = tokenizer.named.get("bos_token")
    if bos and renderings == [bos + text for text in texts]:
        return True
    return False if renderings == texts else None


def _way_out() -> str:
    """What the user can do."""
    return f"name the one to use with --template: one of {', '.join(TEMPLATES)}"


def _renderings(text: str, special: Mapping[str, str], sees_pictures: bool) -> list[str]:
    """The chat template's texts of the conversations, in the order of `_texts`."""
    found = []
    for question, answer in _TURNS:
        for has_image in (True, False) if sees_pictures else (False,):
            user = _message("user", question, has_image, sees_pictures)
            said = _message("assistant", answer, False, sees_pictures)
            for messages in ([user], [user, said]):
                variables = {
                    **special,
                    "date_string": LLAMA_3_DATE,
                    "messages": messages,
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": len(messages) == 1,
                }
                found.append(render(text, variables))
    return found


def _message(role: str, text: str, has_image: bool, as_parts: bool) -> dict[str, Any]:
    """A message as a processor takes it (a list of parts), or as a tokenizer does (a text)."""
    if not as_parts:
        return {"role": role, "content": text}
    parts: list[dict[str, str]] = [{"type": "image"}] if has_image else []
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _texts(template: Template) -> list[str]:
    """Our template's prompt, and prompt with answer, of the conversations."""
    found = []
    for question, answer in _TURNS:
        for has_image in (True, False) if template.with_image is not None else (False,):
            prompt = template.prompt(question, has_image)
            found += [prompt, prompt + template.answer(answer)]
    return found


def _difference(renderings: list[str], candidates: list[Template], tokenizer: Tokenizer) -> str:
    """Where the chat template first differs from the nearest of ours."""
    bos = tokenizer.named.get("bos_token", "")
    forms = [
        (template.name, [start + text for text in _texts(template)])
        for template in candidates
        for start in (("", bos) if template.bos else ("",))
    ]
    name, nearest = max(forms, key=lambda form: _n_same(renderings, form[1]))
    for found, ours in zip(renderings, nearest, strict=True):
        if found != ours:
            start = max(_n_same([found], [ours]) - 10, 0)
            eos = tokenizer.named.get("eos_token", "")
            return (
                f"this chat template, with bos_token {bos!r} and eos_token {eos!r}, is none of "
                f"ours: it writes {shown(found[start:])} where the nearest, {name}, writes "
                f"{shown(ours[start:])}"
            )
    has, expected = ("has no", "one") if TEMPLATES[name].bos else ("has a", "none")
    return (
        f"this chat template is {name}, and with this tokenizer.json and bos_token {bos!r} its "
        f"prompt {has} BOS token; expected {expected}, as {name} is published"
    )


def _n_same(texts: list[str], others: list[str]) -> int:
    """The number of equal characters at the beginning of the texts, all counted together."""
    n_same = 0
    for text, other in zip(texts, others, strict=True):
        for sign, other_sign in zip(text, other, strict=False):
            if sign != other_sign:
                return n_same
            n_same += 1
        if len(text) != len(other):
            return n_same
    return n_same


def chat_template(directory: Path, sees_pictures: bool) -> tuple[Path, str] | None:
    """(file, text) of a model directory's chat template; None if it has none.

    A processor reads processor_config.json, chat_template.json, chat_template.jinja and the folder
    additional_chat_templates; a tokenizer reads the last two, then tokenizer_config.json. The first
    one that has a template counts. Files of the other kind are read where there is no other.

    source  transformers 5.23.0, ProcessorMixin.get_processor_dict,
            PreTrainedTokenizerBase.from_pretrained
    """
    readers = [_of_tokenizer, _of_processor]
    for reader in reversed(readers) if sees_pictures else readers:
        found = reader(directory)
        if found is not None:
            path, value = found
            return path, _default_of(path, value)
    return None


def _of_processor(directory: Path) -> tuple[Path, object] | None:
    """(file, template) that a processor takes."""
    path = directory / "processor_config.json"
    if path.exists() and (value := read_json(path).get("chat_template")) is not None:
        return path, value
    path = directory / "chat_template.json"
    files = _template_files(directory)
    if path.exists():
        if any(name.startswith("additional") for name in files):
            raise UserError(
                f"{path}: stands beside additional_chat_templates, which the reference library "
                "refuses; rename it to chat_template.jinja, with the template alone in it"
            )
        return path, read_json(path).get("chat_template")
    return _of_files(directory, files)


def _of_tokenizer(directory: Path) -> tuple[Path, object] | None:
    """(file, template) that a tokenizer takes."""
    files = _template_files(directory)
    # A file of the folder with one of these names takes the place of chat_template.jinja.
    for name in ("file", "default"):
        other = files.get(f"{FOLDER}/{name}.jinja")
        if other is not None:
            files["chat_template.jinja"] = other
    if files:
        return _of_files(directory, files)
    path = directory / "tokenizer_config.json"
    if path.exists() and (value := read_json(path).get("chat_template")) is not None:
        return path, value
    return None


def _template_files(directory: Path) -> dict[str, Path]:
    """{name below the directory: path} of chat_template.jinja and of the folder's templates."""
    paths = [directory / "chat_template.jinja"]
    paths += sorted((directory / FOLDER).glob("*.jinja"))
    return {path.relative_to(directory).as_posix(): path for path in paths if path.exists()}


def _of_files(directory: Path, files: Mapping[str, Path]) -> tuple[Path, object] | None:
    """(file, template) of chat_template.jinja, or of the folder's default.jinja."""
    for name in ("chat_template.jinja", f"{FOLDER}/default.jinja"):
        if name in files:
            return files[name], read_text(files[name])
    if files:
        return directory / FOLDER, {}
    return None


def _default_of(path: Path, value: object) -> str:
    """The chat template itself, or the one that is called "default" among several."""
    if isinstance(value, list):
        named = [each for each in value if isinstance(each, dict)]
        value = {str(each.get("name")): each.get("template") for each in named}
    if isinstance(value, dict):
        value = value.get("default")
        if value is None:
            raise UserError(
                f"{path}: has several chat templates and none is called default; {_way_out()}"
            )
    if not isinstance(value, str):
        raise UserError(f"{path}: chat_template is {shown(value)}; expected a text")
    return value
