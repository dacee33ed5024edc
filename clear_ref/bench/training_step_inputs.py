"""What `bench --what step` computes on: a model with adapters and the batches of each task.

All of it is random and the same on every call.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from clear_ref.common.files import write_json
from clear_ref.data.batches import IGNORE, Batch
from clear_ref.data.torch_draws import torch_generator
from clear_ref.model import lora, shape_table, shapes
from clear_ref.model.llava import Llava, LlavaConfig
from clear_ref.model.random_weights import write_random
from clear_ref.model.vlm import load

Question = tuple[Batch, list[list[int]]]  # one prompt, the ids of each candidate answer


@dataclass(frozen=True)
class Shape:
    """A model and the sizes of its batches.

    length, answer  tokens of a record, and of its answer
    rows            prompts of generate; new_tokens: tokens generated for each
    """

    config: shape_table.Config
    length: int
    answer: int
    rows: int
    new_tokens: int


class Inputs(TypedDict, total=False):
    """What a task computes on; the keys are those that `make_inputs` lists for it."""

    forget: Batch
    retain: Batch
    idk: Batch
    prompts: Batch
    questions: list[Question]


TINY_CONFIG = shape_table.SHAPES["llava-78m"] | {
    "text_config": shape_table.LLAMA
    | {
        "vocab_size": 32064,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "vision_config": shape_table.CLIP
    | {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 16,
    },
}
SHAPES = {
    "small": Shape(shape_table.SHAPES["llava-78m"], length=640, answer=40, rows=8, new_tokens=24),
    "tiny": Shape(TINY_CONFIG, length=40, answer=8, rows=3, new_tokens=4),
}
RANK = 8
ALPHA = 32

# Ids of the tokenizer that `shapes` writes; words are in [FIRST_WORD, END_OF_WORDS).
BOS = 1
FIRST_WORD = 3
END_OF_WORDS = 32000
IMAGE = 32000
PAD = 32001

PADDING = 16  # the second record of a batch is this much shorter
SEQUENCES = 2
QUESTIONS = 2
CANDIDATES = 6


def write(directory: Path, shape: str) -> int:
    """Writes directory/model and directory/adapter; returns the number of the model's parameters.

    Random, and the same on every call.
    """
    config, path = SHAPES[shape].config, directory / "model"
    with torch.device("meta"):
        model = Llava(LlavaConfig.from_json(config, path))
    sizes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    path.mkdir()
    write_json(path / "config.json", config | {"dtype": "float32"})
    write_json(path / "generation_config.json", {"do_sample": False, "eos_token_id": 2})
    shapes.write_tokenizer(path, config)
    shapes.write_processor(path, config)
    write_random(path, sizes, torch.float32, 0)
    vlm = load(path)
    vlm.add_lora(RANK, ALPHA)
    with torch.no_grad():  # so that the student differs from its teacher
        for name, adapter in lora.adapters(vlm.model).items():
            adapter.lora_B.normal_(0, 0.02, generator=torch_generator(1, name))
    vlm.save_adapter(directory / "adapter")
    return sum(torch.Size(size).numel() for size in sizes.values())


def random_words(*size: int, generator: torch.Generator) -> torch.Tensor:
    """Random ids of words."""
    return torch.randint(FIRST_WORD, END_OF_WORDS, size, generator=generator)


def make_batch(shape: str, name: str, lengths: list[int], n_answer_tokens: int) -> Batch:
    """Random ids, labels and pixels of one named batch, a picture in each row.

    Rows are padded on the left to the longest row.
    """
    vision = SHAPES[shape].config["vision_config"]
    edge = vision["image_size"]
    n_image_tokens = (edge // vision["patch_size"]) ** 2
    generator = torch_generator(2, name)
    n, T = len(lengths), max(lengths)
    ids = random_words(n, T, generator=generator)
    mask = torch.ones_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for row, length in enumerate(lengths):
        first = T - length
        ids[row, :first] = PAD
        mask[row, :first] = 0
        ids[row, first] = BOS
        ids[row, first + 3 : first + 3 + n_image_tokens] = IMAGE
    if n_answer_tokens:
        labels[:, -n_answer_tokens:] = ids[:, -n_answer_tokens:]
    pixels = torch.randn(n, 3, edge, edge, generator=generator)
    return Batch(ids, mask, labels, pixels)


def make_inputs(shape: str, task: str) -> Inputs:
    """What a task computes on.

    a method   {forget, retain, idk: Batch} of two rows. The second row is padded, except in the
               tasks that count every row: padding rows have no defined value, so implementations
               may differ there. idk: other answers to forget's questions
    generate   {prompts: Batch}
    likelihood {questions: [Question]}
    """
    sizes = SHAPES[shape]
    if task == "generate":
        lengths = [sizes.length - sizes.answer - row for row in range(sizes.rows)]
        return {"prompts": make_batch(shape, task, lengths, 0)}
    if task == "likelihood":
        return {"questions": make_questions(shape)}
    shorter = sizes.length if task.endswith("all rows") else sizes.length - PADDING
    lengths = [sizes.length, shorter]
    forget = make_batch(shape, "forget", lengths, sizes.answer)
    retain = make_batch(shape, "retain", lengths, sizes.answer)
    refusals = random_words(len(lengths), sizes.answer, generator=torch_generator(2, "idk"))
    idk = Batch(
        torch.cat((forget.input_ids[:, : -sizes.answer], refusals), 1),
        forget.attention_mask,
        torch.cat((forget.labels[:, : -sizes.answer], refusals), 1),
        forget.pixel_values,
    )
    return {"forget": forget, "retain": retain, "idk": idk}


def make_questions(shape: str) -> list[Question]:
    """The questions of task likelihood."""
    sizes = SHAPES[shape]
    generator = torch_generator(3, "likelihood")
    questions = []
    for number in range(QUESTIONS):
        candidates = [
            random_words(sizes.answer - shorter, generator=generator).tolist()
            for shorter in range(CANDIDATES)
        ]
        prompt = make_batch(shape, f"question {number}", [sizes.length - sizes.answer], 0)
        questions.append((prompt, candidates))
    return questions


def described(shape: str, n_parameters: int) -> list[str]:
    """The model, its adapters and the batches, in lines of text."""
    sizes = SHAPES[shape]
    decoder, vision = sizes.config["text_config"], sizes.config["vision_config"]
    return [
        f"LLaVA of {n_parameters / 1e6:.1f} M random parameters, fp32: decoder "
        f"{decoder['hidden_size']} x {decoder['num_hidden_layers']} layers, vocabulary "
        f"{decoder['vocab_size']}, CLIP {vision['hidden_size']} x "
        f"{vision['num_hidden_layers']} layers at {vision['image_size']} px",
        f"LoRA of rank {RANK}, alpha {ALPHA} on every linear layer but the head; a picture in "
        "every record",
        f"step: {SEQUENCES} records a batch, {sizes.length} tokens, {sizes.answer} of them "
        f"answer; the second record {PADDING} shorter (all rows: equally long)",
        f"generate: {sizes.rows} prompts, {sizes.new_tokens} tokens each; likelihood: "
        f"{QUESTIONS} questions, {CANDIDATES} candidates each",
    ]
