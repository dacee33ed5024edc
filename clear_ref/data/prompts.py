"""Questions and chat templates: the words around a record.

The benchmark asks for a caption with one of nine questions, for a name with one fixed question, and refuses with one of
a hundred sentences. Ours are written for this project and lie as text beside this file; a data directory that holds files of
the same names (caption_questions.txt, name_question.txt, refusals.txt) brings its own, such as the released ones.
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

TEXTS = Path(__file__).parent / "texts"
IMAGE = "<image>"


@dataclass(frozen=True)
class Phrases:
    caption_questions: tuple[str, ...]
    name_question: str
    refusals: tuple[str, ...]


def phrase_files(directory) -> list[Path]:
    """The three files that `phrases` reads."""
    return [own if (own := Path(directory) / name).exists() else TEXTS / name
            for name in ("caption_questions.txt", "name_question.txt", "refusals.txt")]


def phrases(directory) -> Phrases:
    """The phrases of a data directory, ours where it has none. One a line, stripped; blank lines are dropped."""
    def lines(path):
        found = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        if not found:
            raise UserError(f"{path}: holds no line of text; write one phrase a line or remove the file")
        return found
    questions, name_question, refusals = map(lines, phrase_files(directory))
    return Phrases(questions, name_question[0], refusals)


@dataclass(frozen=True)
class Template:
    """A chat of one turn. The answer's span is what follows the prompt, `answer_end` included."""
    name: str
    with_image: str
    text_only: str
    answer_start: str
    answer_end: str

    def prompt(self, question: str, has_image: bool) -> str:
        """The text before the answer; the picture stands in it as one <image>."""
        return (self.with_image if has_image else self.text_only).format(question=question)

    def answer(self, answer: str) -> str:
        """The answer's text as it follows the prompt."""
        return self.answer_start + answer + self.answer_end


# Vicuna's turn as LLaVA-1.5 was trained on it: the answer ends with the end token, so stopping is learned.
LLAVA_WITH_END = Template("llava-end", "USER: <image>\n{question} ASSISTANT:", "USER: {question} ASSISTANT:", " ", "</s>")

# The same as a chat template, in the form that model directories carry it (chat_template.jinja) and transformers renders.
LLAVA_WITH_END_JINJA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}")
TEMPLATES = {LLAVA_WITH_END_JINJA: LLAVA_WITH_END}


def template(directory) -> Template:
    """The template that a model directory's chat_template.jinja asks for; UserError for one that is not known here."""
    path = Path(directory) / "chat_template.jinja"
    if not path.exists():
        raise UserError(f"{path}: no such file; a model directory needs its chat template")
    found = TEMPLATES.get(path.read_text(encoding="utf-8"))
    if found is None:
        raise UserError(f"{path}: not a chat template known here; known: {', '.join(t.name for t in TEMPLATES.values())}")
    return found
