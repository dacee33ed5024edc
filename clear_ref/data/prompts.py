"""Questions and chat templates: the texts around a record.

The benchmark asks for a caption with one of nine questions and for a name with one fixed question;
a refusal is one of a hundred sentences. Ours were written for this project and are in texts/. A
data directory can replace them by files of the same names (caption_questions.txt,
name_question.txt, refusals.txt), for example with the released ones.
"""

from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_json, read_text

TEXTS = Path(__file__).parent / "texts"
IMAGE = "<image>"


@dataclass(frozen=True)
class Phrases:
    """The caption questions, the name question and the refusals of a data directory."""

    caption_questions: tuple[str, ...]
    name_question: str
    refusals: tuple[str, ...]


def phrase_files(directory: PathName) -> list[Path]:
    """The three files that read_phrases reads: the directory's own, or ours."""
    files = []
    for name in ("caption_questions.txt", "name_question.txt", "refusals.txt"):
        path = Path(directory) / name
        files.append(path if path.exists() else TEXTS / name)
    return files


def read_phrases(directory: PathName) -> Phrases:
    """The phrases of a data directory; ours where it has none.

    One phrase per line; blanks at its ends and blank lines are removed. The first line of
    name_question.txt is the name question.
    """
    questions, name_question, refusals = map(_lines, phrase_files(directory))
    return Phrases(questions, name_question[0], refusals)


def _lines(path: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = tuple(line for line in lines if line)
    if not found:
        raise UserError(
            f"{path}: holds no line of text; write one phrase per line or remove the file"
        )
    return found


@dataclass(frozen=True)
class Template:
    """A chat with one question and one answer.

    The answer's span is everything after the prompt, `answer_end` included.

    with_image  the prompt before `turn`, with one `image` token for the picture; None: the
                template is for text only
    text_only   the prompt before `turn` for a question without a picture
    turn        the last words of the prompt; the answer is tokenised together with them
    special     words that must each be one token of the tokenizer
    bos         True: the tokenizer's BOS token is before the prompt
    """

    name: str
    with_image: str | None
    text_only: str
    turn: str
    answer_start: str
    answer_end: str
    special: tuple[str, ...]
    image: str = IMAGE
    bos: bool = True

    def prompt(self, question: str, has_image: bool) -> str:
        """The text before the answer; one image token in it is the place of the picture.

        raises  UserError if there is a picture and the template is for text only
        """
        if not has_image:
            before_turn = self.text_only
        elif self.with_image is None:
            raise UserError(
                f"template {self.name} has no place for a picture; expected a record without one, "
                "or another template"
            )
        else:
            before_turn = self.with_image
        return before_turn.replace("{question}", question, 1) + self.turn

    def answer(self, answer: str) -> str:
        """The text after the prompt."""
        return self.answer_start + answer + self.answer_end


def _user_assistant(
    name: str, answer_end: str, special: tuple[str, ...], system: str = "", has_image: bool = True
) -> Template:
    """A template with the words USER: and ASSISTANT:."""
    return Template(
        name=name,
        with_image=system + "USER: <image>\n{question} " if has_image else None,
        text_only=system + "USER: {question} ",
        turn="ASSISTANT:",
        answer_start=" ",
        answer_end=answer_end,
        special=special,
    )


def _chatml(name: str, system: str, with_image: str | None = None, image: str = IMAGE) -> Template:
    """A ChatML template (<|im_start|>, <|im_end|>) with a system text."""
    begin = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    end = "{question}<|im_end|>\n"
    return Template(
        name=name,
        with_image=None if with_image is None else begin + with_image + end,
        text_only=begin + end,
        turn="<|im_start|>assistant\n",
        answer_start="",
        answer_end="<|im_end|>\n",
        special=("<|im_start|>", "<|im_end|>"),
        image=image,
        bos=False,
    )


VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
_ALL = (
    # Vicuna's format as LLaVA-1.5 was trained on it. The answer ends with the end token, so the
    # model learns to stop.
    _user_assistant("llava-end", answer_end="</s>", special=("</s>", IMAGE)),
    # LLaVA-1.5 on the hub: a blank after the answer and no end token.
    _user_assistant("llava", answer_end=" ", special=(IMAGE,)),
    _user_assistant(
        "vicuna", answer_end="</s>", special=("</s>",), system=VICUNA_SYSTEM, has_image=False
    ),
    # TOFU's and CLEAR's text experiments: the format of Llama-2 and Mistral, no blank before the
    # answer.
    Template(
        name="inst",
        with_image=None,
        text_only="[INST] {question} ",
        turn="[/INST]",
        answer_start="",
        answer_end="</s>",
        special=("</s>",),
    ),
    _chatml(
        "qwen2-vl",
        "You are a helpful assistant.",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|image_pad|>",
    ),
    _chatml("qwen2", "You are a helpful assistant."),
    _chatml("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
)
TEMPLATES = {template.name: template for template in _ALL}

# llava-end as a Jinja template, as model directories hold it (chat_template.jinja) and
# transformers renders it.
LLAVA_WITH_END_JINJA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# For each model_type: the template of a directory without a chat template, and for a directory
# with one: (word in it, name of our template).
FAMILY = {
    "llava": ("llava", (("ASSISTANT:", "llava"),)),
    "qwen2_vl": ("qwen2-vl", (("<|vision_start|>", "qwen2-vl"),)),
    "qwen2": ("qwen2", (("You are a helpful assistant.", "qwen2"),)),
    "llama": ("inst", (("named SmolLM", "smollm2"), ("[INST]", "inst"), ("USER:", "vicuna"))),
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
