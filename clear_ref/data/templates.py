"""Templates: the texts around a question and its answer, for each kind of chat model."""

from dataclasses import dataclass

from clear_ref.common.errors import UserError

IMAGE = "<image>"


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
    bos_written  True: the template writes it as text, so it is tokenised together with the prompt;
                a tokenizer may then put no blank before the first word
    trims_question, trims_answer  True: blanks at its ends are removed, as the published template
                does
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
    bos_written: bool = False
    trims_question: bool = False
    trims_answer: bool = False

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
        if self.trims_question:
            question = question.strip()
        return before_turn.replace("{question}", question, 1) + self.turn

    def answer(self, answer: str) -> str:
        """The text after the prompt."""
        if self.trims_answer:
            answer = answer.strip()
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


def _inst(
    name: str,
    text_only: str = "[INST] {question} ",
    answer_start: str = " ",
    answer_end: str = "</s>",
    special: tuple[str, ...] = ("</s>",),
    bos_written: bool = True,
    trims_question: bool = False,
    trims_answer: bool = False,
) -> Template:
    """A template with the words [INST] and [/INST]."""
    return Template(
        name=name,
        with_image=None,
        text_only=text_only,
        turn="[/INST]",
        answer_start=answer_start,
        answer_end=answer_end,
        special=special,
        bos_written=bos_written,
        trims_question=trims_question,
        trims_answer=trims_answer,
    )


def _llama_3(name: str, system: str = "") -> Template:
    """Llama-3's template: a header and <|eot_id|> around each turn; system: the first turn."""
    if system:
        system = f"<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
    return Template(
        name=name,
        with_image=None,
        text_only=system + "<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>",
        turn="<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer_start="",
        answer_end="<|eot_id|>",
        special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos_written=True,
        trims_question=True,
        trims_answer=True,
    )


def _dates(today: str) -> str:
    """The first lines of the system turn of Llama-3.1 and 3.2."""
    return f"Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n"


# The date that Llama-3.1's template writes, and Llama-3.2's where no clock is read. Llama-3.2's
# writes today's date otherwise: a prompt that changes every day.
LLAMA_3_DATE = "26 Jul 2024"
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
    # TOFU's and CLEAR's text experiments, and the first template of Mistral v0.2: no blank before
    # the answer.
    _inst("inst", answer_start="", bos_written=False),
    # Llama-2 on the hub: blanks around the answer.
    _inst("llama-2", answer_end=" </s>", trims_question=True, trims_answer=True),
    # Mistral on the hub: v0.1 as first published, v0.1 and v0.2 as published later, v0.3.
    _inst("mistral-v0.1", answer_start="", answer_end="</s> "),
    _inst("mistral-v0.2", text_only=" [INST] {question} "),
    _inst(
        "mistral-v0.3",
        text_only="[INST] {question}",
        special=("</s>", "[INST]", "[/INST]"),
        trims_answer=True,
    ),
    _llama_3("llama-3"),
    _llama_3("llama-3.1", _dates(LLAMA_3_DATE)),
    # The benchmark open-unlearning's prompts for Llama-3.1 and 3.2.
    _llama_3("open-unlearning", _dates("10 Apr 2025") + "You are a helpful assistant."),
    # Qwen2-VL and Qwen2.5-VL.
    _chatml(
        "qwen2-vl",
        "You are a helpful assistant.",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|image_pad|>",
    ),
    _chatml("qwen2", "You are a helpful assistant."),
    _chatml("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
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
