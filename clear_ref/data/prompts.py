"""Questions and chat templates: the words around a record.

The benchmark asks for a caption with one of nine questions, for a name with one fixed question, and refuses with one of
a hundred sentences. Ours are written for this project and lie as text beside this file; a data directory that holds files of
the same names (caption_questions.txt, name_question.txt, refusals.txt) brings its own, such as the released ones.
"""

from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json, read_text

TEXTS = Path(__file__).parent / "texts"
IMAGE = "<image>"


@dataclass(frozen=True)
class Phrases:
    caption_questions: tuple[str, ...]
    name_question: str
    refusals: tuple[str, ...]


def phrase_files(directory) -> list[Path]:
    """The three files that `phrases` reads."""
    return [
        own if (own := Path(directory) / name).exists() else TEXTS / name
        for name in ("caption_questions.txt", "name_question.txt", "refusals.txt")
    ]


def read_phrases(directory) -> Phrases:
    """The phrases of a data directory, ours where it has none. One a line, stripped; blank lines are dropped."""

    def lines(path):
        found = tuple(
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        )
        if not found:
            raise UserError(
                f"{path}: holds no line of text; write one phrase a line or remove the file"
            )
        return found

    questions, name_question, refusals = map(lines, phrase_files(directory))
    return Phrases(questions, name_question[0], refusals)


@dataclass(frozen=True)
class Template:
    """A chat of one turn. The answer's span is what follows the prompt, `answer_end` included.

    with_image  the prompt up to `turn`, with one `image` token in the picture's place; None: for text alone
    turn        the prompt's last words, which an answer follows: it is tokenised after them
    special     words that must each be one token of the tokenizer
    bos         whether the tokenizer's first token stands before it all
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
        """The text before the answer; the picture stands in it as one image token."""
        return (self.with_image if has_image else self.text_only).replace(
            "{question}", question, 1
        ) + self.turn

    def answer(self, answer: str) -> str:
        """The answer's text as it follows the prompt."""
        return self.answer_start + answer + self.answer_end


def _chatml(name: str, system: str, with_image: str | None = None, image: str = IMAGE) -> Template:
    begin = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    end = "{question}<|im_end|>\n"
    return Template(
        name,
        None if with_image is None else begin + with_image + end,
        begin + end,
        "<|im_start|>assistant\n",
        "",
        "<|im_end|>\n",
        ("<|im_start|>", "<|im_end|>"),
        image,
        bos=False,
    )


VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
TEMPLATES = {
    template.name: template
    for template in (
        # Vicuna's turn as LLaVA-1.5 was trained on it: the answer ends with the end token, so stopping is learned.
        Template(
            "llava-end",
            "USER: <image>\n{question} ",
            "USER: {question} ",
            "ASSISTANT:",
            " ",
            "</s>",
            ("</s>", IMAGE),
        ),
        # The hub's LLaVA-1.5: a blank after the answer and no end token.
        Template(
            "llava",
            "USER: <image>\n{question} ",
            "USER: {question} ",
            "ASSISTANT:",
            " ",
            " ",
            (IMAGE,),
        ),
        Template(
            "vicuna",
            None,
            VICUNA_SYSTEM + "USER: {question} ",
            "ASSISTANT:",
            " ",
            "</s>",
            ("</s>",),
        ),
        # TOFU's and CLEAR's text experiments: Llama-2's and Mistral's turn, no blank before the answer.
        Template("inst", None, "[INST] {question} ", "[/INST]", "", "</s>", ("</s>",)),
        _chatml(
            "qwen2-vl",
            "You are a helpful assistant.",
            "<|vision_start|><|image_pad|><|vision_end|>",
            "<|image_pad|>",
        ),
        _chatml("qwen2", "You are a helpful assistant."),
        _chatml("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    )
}

# llava-end as a chat template, in the form that model directories carry it (chat_template.jinja) and transformers renders.
LLAVA_WITH_END_JINJA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# For each model_type: the template of a directory that brings none, and which words in one that it brings mean which of ours.
FAMILY = {
    "llava": ("llava", (("ASSISTANT:", "llava"),)),
    "qwen2_vl": ("qwen2-vl", (("<|vision_start|>", "qwen2-vl"),)),
    "qwen2": ("qwen2", (("You are a helpful assistant.", "qwen2"),)),
    "llama": ("inst", (("named SmolLM", "smollm2"), ("[INST]", "inst"), ("USER:", "vicuna"))),
    "mistral": ("inst", (("[INST]", "inst"),)),
}


def choose_template(directory, kind: str, chosen: str = "") -> Template:
    """The template for a model directory of a model_type: the one chosen by name, else what its own chat template amounts to,
    else its family's. A chat template is never run: words in it say which of ours it is.

    raises  UserError for an unknown name, or a chat template with none of the words
    """
    if chosen:
        if chosen not in TEMPLATES:
            raise UserError(f"--template is {chosen!r}; expected one of {', '.join(TEMPLATES)}")
        return TEMPLATES[chosen]
    found = own_template(Path(directory))
    fallback, words = FAMILY[kind]
    if found is None:
        return TEMPLATES[fallback]
    where, text = found
    if text == LLAVA_WITH_END_JINJA:
        return TEMPLATES["llava-end"]
    for word, name in words:
        if word in text:
            return TEMPLATES[name]
    raise UserError(
        f"{where}: no chat template known here for {kind}; name the one to use with --template: one of "
        f"{', '.join(TEMPLATES)}"
    )


def own_template(directory: Path) -> tuple[Path, str] | None:
    """(file, text) of the chat template that a model directory brings, in any of the three places in use; None: none."""
    path = directory / "chat_template.jinja"
    if path.exists():
        return path, read_text(path)
    for path in (directory / "chat_template.json", directory / "tokenizer_config.json"):
        text = read_json(path).get("chat_template") if path.exists() else None
        if isinstance(text, list):  # several, each with a name
            text = next(
                (
                    one.get("template")
                    for one in text
                    if isinstance(one, dict) and one.get("name") == "default"
                ),
                None,
            )
        if isinstance(text, str):
            return path, text
    return None
