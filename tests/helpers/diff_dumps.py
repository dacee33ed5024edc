"""Dumps of steps of transformers, right or with one thing changed, and what `diff` says of them.

A Step is a model of transformers, its processor and a few records, encoded as the embedded world's
training does. Importing this module skips the test file if the parity extra is not installed.
"""

from dataclasses import dataclass, field

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import Record, read_rows, training_record
from clear_ref.mini.directories import WORLD
from clear_ref.oracle.diff import dump_file, dump_helper
from clear_ref.oracle.diff.report import compare_dump
from clear_ref.oracle.diff.terminal import text

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
IGNORE = -100


@dataclass
class Step:
    """A model of transformers and one batch of records.

    template  (record) -> (prompt, answer) as texts
    picture   (record) -> its Pillow image
    side      of the padding
    """

    model: object
    processor: object
    records: list
    template: object
    side: str = "left"
    inputs: dict = field(default_factory=dict)
    labels: object = None

    def __post_init__(self):
        self.encode()

    def encode(self, picture=None, **processor_options):
        """Encode the records again; picture: (record) -> the image that the processor takes."""
        if picture is None:
            picture = upright
        parts = [self.template(self.processor, one) for one in self.records]
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = self.side
        self.inputs = dict(
            self.processor(
                text=[prompt + answer for prompt, answer in parts],
                images=[picture(one) for one in self.records if one.image] or None,
                return_tensors="pt",
                padding=True,
                **processor_options,
            )
        )
        if "pixel_values" in self.inputs:
            self.inputs["pixel_values"] = self.inputs["pixel_values"].double()
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"]
        self.labels = torch.full_like(ids, IGNORE)
        for b, (_, answer) in enumerate(parts):
            n = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
            places = mask[b].nonzero().flatten()[-n:]
            self.labels[b, places] = ids[b, places]

    def write(self, path, fed=None, shown=None, loss=None, records=True, teacher=None):
        """Write the dump of one forward and return its path.

        fed    names of inputs and what the model takes instead; None: it is left out
        shown  names of tensors and what the dump holds instead; None: it is left out
        loss   (tensors of the batch) -> scalar
        """
        given = {k: v for k, v in {**self.inputs, **(fed or {})}.items() if v is not None}
        tensors = dump_helper.batch_tensors(self.model, given, self.labels, teacher)
        total = None if loss is None else loss(tensors)
        for name, value in (shown or {}).items():
            tensors[name] = value(tensors[name]) if callable(value) else value
        tensors = {name: value for name, value in tensors.items() if value is not None}
        about = {"records": {"forget": as_json(self.records)}} if records else {}
        dump_helper.write_dump(path, {"forget": tensors}, total, method="grad_ascent", **about)
        return path


def upright(record):
    """A record's picture."""
    return Image.open(record.image).convert("RGB")


def as_json(records):
    """Records as a dump's metadata holds them."""
    return [
        {"question": one.question, "answer": one.answer, "image": one.image and str(one.image)}
        for one in records
    ]


def world_records(*chosen):
    """Training records of the embedded world; rows from 200 on have no picture."""
    rows, question = read_rows(WORLD, "full+tofu"), read_phrases(WORLD).caption_questions[0]
    return [training_record(rows[i], question) for i in chosen]


def llava_text(processor, record):
    """(prompt, answer) as the embedded world's template has them."""
    return chat_prompt(processor, record), f" {record.answer}</s>"


def qwen_text(processor, record):
    """(prompt, answer) of Qwen2-VL."""
    return chat_prompt(processor, record), f"{record.answer}<|im_end|>\n"


def chat_prompt(processor, record):
    """A record's prompt by the processor's chat template."""
    content = ([{"type": "image"}] if record.image else []) + [
        {"type": "text", "text": record.question}
    ]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def llava_step(directory, *chosen, side="left", attention="sdpa"):
    """A Step of a LLaVA directory in float64.

    Eager attention in float64 makes NaN of every row with padding on the left.
    """
    model = transformers.LlavaForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float64, attn_implementation=attention
    ).eval()
    processor = transformers.AutoProcessor.from_pretrained(directory)
    return Step(model, processor, world_records(*chosen), llava_text, side)


def qwen_step(family, directory, records=None):
    """A Step of a small Qwen2-VL or Qwen2.5-VL in float64, written to `directory`."""
    from tests.helpers import qwen_parity

    processor = qwen_parity.byte_processor(family)
    if not (directory / "config.json").exists():
        qwen_parity.write_model(directory, family, processor)
    model = qwen_parity.reference(directory, torch.float64)
    return Step(model, processor, records or pictures_and_text(directory), qwen_text)


def pictures_and_text(directory):
    """Records with pictures of two sizes, high and wide, and one without."""
    from tests.helpers import qwen_parity

    records = []
    for i, size in enumerate(((120, 64), (56, 150))):
        path = directory / f"picture{i}.png"
        qwen_parity.noise(size, key=i).save(path)
        records.append(Record("Who is it?", "Ann" + " Lee" * i, path))
    records.insert(1, Record("No picture: who is it, and why?", "Bo", None))
    return records


def answer_nll(tensors, shift=1):
    """Mean nll of labels `shift` positions after each row of logits."""
    logits, labels = tensors["logits"], tensors["labels"]
    T = labels.shape[1]
    return torch.nn.functional.cross_entropy(
        logits[:, : T - shift].flatten(0, 1), labels[:, shift:].flatten()
    )


def changed(path, target, **tensors):
    """The dump with some tensors changed: name with __ for / = function of the old one."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
    found = load_file(path)
    for name, change in tensors.items():
        name = name.replace("__", "/")
        found[name] = change(found[name]).contiguous()
    save_file(found, target, about)
    return target


def said(path, vlm=None):
    """(first stage that differs or "", {name of a cause: detail}, the report as text)."""
    report = compare_dump(dump_file.read(path, pictures="/"), vlm)
    stage = report["first"]["stage"] if report["first"] else ""
    causes = {each["name"]: each["detail"] for each in report["mistakes"]}
    return stage, causes, text(report)
