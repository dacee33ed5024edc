"""What `bench --what step` computes on: a model with adapters and the batches of each task, random and always the same."""

from pathlib import Path

import torch

from clear_ref.common.files import write_json
from clear_ref.data.batches import IGNORE, Batch
from clear_ref.data.draws import torch_generator
from clear_ref.model import lora, shapes
from clear_ref.model.llava import Llava, LlavaConfig
from clear_ref.model.random_weights import write_random
from clear_ref.model.vlm import load

METHODS = ("grad_diff", "kl", "scrub", "llmu")
SHAPES = {
    "small": {
        "config": shapes.SHAPES["llava-78m"],
        "length": 640,
        "answer": 40,
        "rows": 8,
        "new_tokens": 24,
    },
    "tiny": {
        "config": shapes.SHAPES["llava-78m"]
        | {
            "text_config": shapes.LLAMA
            | {
                "vocab_size": 32064,
                "hidden_size": 24,
                "intermediate_size": 40,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
            },
            "vision_config": shapes.CLIP
            | {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 48,
                "patch_size": 16,
            },
        },
        "length": 40,
        "answer": 8,
        "rows": 3,
        "new_tokens": 4,
    },
}
RANK, ALPHA = 8, 32
EVALUATIONS = ("generate", "likelihood")
TASKS = (*METHODS, "kl all rows", "scrub all rows", "llmu all rows", *EVALUATIONS)
BOS, IMAGE, PAD, WORDS = 1, 32000, 32001, (3, 32000)  # ids of the tokenizer that `shapes` writes
PADDING, SEQUENCES, QUESTIONS, CANDIDATES = 16, 2, 2, 6


def write(directory: Path, shape: str) -> int:
    """Write directory/model and directory/adapter, random and the same on every call; returns the number of parameters."""
    config, path = SHAPES[shape]["config"], directory / "model"
    with torch.device("meta"):
        sizes = {
            name: tuple(tensor.shape)
            for name, tensor in Llava(LlavaConfig.from_json(config, path)).named_parameters()
        }
    path.mkdir()
    write_json(path / "config.json", config | {"dtype": "float32"})
    write_json(path / "generation_config.json", {"do_sample": False, "eos_token_id": 2})
    shapes.write_tokenizer(path, config)
    shapes.write_processor(path, config)
    write_random(path, sizes, torch.float32, 0)
    vlm = load(path)
    vlm.add_lora(RANK, ALPHA)
    with torch.no_grad():  # a student that differs from its teacher
        for name, adapter in lora.adapters(vlm.model).items():
            adapter.lora_B.normal_(0, 0.02, generator=torch_generator(1, name))
    vlm.save_adapter(directory / "adapter")
    return sum(torch.Size(size).numel() for size in sizes.values())


def make_batch(shape: str, name: str, lengths, answers: int) -> Batch:
    """Random ids, labels and pixels of one named batch, a picture in each row, padded on the left to the longest row."""
    edge, patch = (
        SHAPES[shape]["config"]["vision_config"][key] for key in ("image_size", "patch_size")
    )
    g, T, n_image = torch_generator(2, name), max(lengths), (edge // patch) ** 2
    ids = torch.randint(*WORDS, (len(lengths), T), generator=g)
    mask, labels = torch.ones_like(ids), torch.full_like(ids, IGNORE)
    for row, length in enumerate(lengths):
        first = T - length
        ids[row, :first], mask[row, :first] = PAD, 0
        ids[row, first] = BOS
        ids[row, first + 3 : first + 3 + n_image] = IMAGE
    if answers:
        labels[:, -answers:] = ids[:, -answers:]
    pixels = torch.randn(len(lengths), 3, edge, edge, generator=g)
    return Batch(ids, mask, labels, pixels)


def make_inputs(shape: str, task: str) -> dict:
    """What a task computes on.

    a method   {forget, retain, idk: Batch} of two rows; the second is padded, but not where every row, padding too, is counted:
               what stands there is nobody's contract. idk: other answers to forget's questions
    generate   {prompts: Batch}
    likelihood {questions: [(Batch of one prompt, [ids of each candidate])]}
    """
    sizes = SHAPES[shape]
    length, answer = sizes["length"], sizes["answer"]
    if task == "generate":
        return {
            "prompts": make_batch(
                shape, task, [length - answer - row for row in range(sizes["rows"])], 0
            )
        }
    if task == "likelihood":
        g = torch_generator(3, task)
        made = []
        for question in range(QUESTIONS):
            ids = [
                torch.randint(*WORDS, (answer - c,), generator=g).tolist()
                for c in range(CANDIDATES)
            ]
            made.append((make_batch(shape, f"question {question}", [length - answer], 0), ids))
        return {"questions": made}
    lengths = [length] * SEQUENCES if task.endswith("all rows") else [length, length - PADDING]
    forget, retain = (make_batch(shape, name, lengths, answer) for name in ("forget", "retain"))
    refusals = torch.randint(*WORDS, (len(lengths), answer), generator=torch_generator(2, "idk"))
    ids, labels = (
        torch.cat((tensor[:, :-answer], refusals), 1)
        for tensor in (forget.input_ids, forget.labels)
    )
    return {
        "forget": forget,
        "retain": retain,
        "idk": Batch(ids, forget.attention_mask, labels, forget.pixel_values),
    }


def described(shape: str, n_parameters: int) -> list[str]:
    """The model, its adapters and the batches in lines for people."""
    sizes = SHAPES[shape]
    text, vision = sizes["config"]["text_config"], sizes["config"]["vision_config"]
    return [
        f"LLaVA of {n_parameters / 1e6:.1f} M random parameters, fp32: decoder {text['hidden_size']} x "
        f"{text['num_hidden_layers']} layers, vocabulary {text['vocab_size']}, CLIP {vision['hidden_size']} x "
        f"{vision['num_hidden_layers']} layers at {vision['image_size']} px",
        f"LoRA of rank {RANK}, alpha {ALPHA} on every linear layer but the head; a picture in every record",
        f"step: {SEQUENCES} records a batch, {sizes['length']} tokens, {sizes['answer']} of them answer; the second record "
        f"{PADDING} shorter (all rows: equally long)",
        f"generate: {sizes['rows']} prompts, {sizes['new_tokens']} tokens each; likelihood: {QUESTIONS} questions, "
        f"{CANDIDATES} candidates each",
    ]
