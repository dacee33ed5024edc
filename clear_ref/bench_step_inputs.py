"""What `bench --what step` computes on: a model with adapters and the batches of each task, random and always the same."""

import shutil
from pathlib import Path

import torch

from .data.batches import IGNORE, Batch
from .data.draws import torch_generator
from .files import read_json, write_json
from .model import lora
from .model.llava import Llava, LlavaConfig
from .model.vlm import load
from .model.weights import write_tensors
from .world import BASE

METHODS = ("grad_diff", "kl", "scrub", "llmu")
SHAPES = {
    "small": {"text_config": {"vocab_size": 32064, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
                              "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64,
                              "max_position_embeddings": 4096},
              "vision_config": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24,
                                "num_attention_heads": 4, "image_size": 336, "patch_size": 14},
              "length": 640, "answer": 40, "rows": 8, "new_tokens": 24},
    "tiny": {"text_config": {"vocab_size": 2500, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
                             "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 12},
             "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
                               "image_size": 48, "patch_size": 16},
             "length": 40, "answer": 8, "rows": 3, "new_tokens": 4}}
RANK, ALPHA = 8, 32
EVALUATIONS = ("generate", "likelihood")
TASKS = (*METHODS, "kl all rows", "scrub all rows", "llmu all rows", *EVALUATIONS)
BOS, IMAGE, PAD, SPECIAL = 1, 3, 4, 5  # ids of the embedded world's tokenizer; below SPECIAL none is a word
PADDING, SEQUENCES, QUESTIONS, CANDIDATES = 16, 2, 2, 6


def write(directory: Path, shape: str) -> int:
    """Write directory/model and directory/adapter, random and the same on every call; returns the number of parameters."""
    sizes, path = SHAPES[shape], directory / "model"
    shutil.copytree(BASE, path, ignore=shutil.ignore_patterns("*.safetensors"))
    config, processor = read_json(BASE / "config.json"), read_json(BASE / "preprocessor_config.json")
    for part in ("text_config", "vision_config"):
        config[part] |= sizes[part]
    edge, patch = sizes["vision_config"]["image_size"], sizes["vision_config"]["patch_size"]
    processor |= {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
    write_json(path / "config.json", config | {"image_seq_length": (edge // patch) ** 2, "dtype": "float32"})
    write_json(path / "preprocessor_config.json", processor)
    write_json(path / "processor_config.json", read_json(BASE / "processor_config.json") | {"patch_size": patch})
    with torch.device("meta"):
        made = dict(Llava(LlavaConfig.from_json(config, path)).named_parameters())

    def noise(name, like):
        scale = like.shape[-1] ** -0.5 * (2 if name.endswith("lm_head.weight") else 1)
        return scale * torch.randn(like.shape, generator=torch_generator(0, name)) + (like.dim() == 1)
    write_tensors(path / "model.safetensors", {name: noise(name, like) for name, like in made.items()})
    vlm = load(path)
    vlm.add_lora(RANK, ALPHA)
    with torch.no_grad():  # a student that differs from its teacher
        for name, adapter in lora.adapters(vlm.model).items():
            adapter.lora_B.normal_(0, 0.02, generator=torch_generator(1, name))
    vlm.save_adapter(directory / "adapter")
    return sum(tensor.numel() for tensor in made.values())


def make_batch(shape: str, name: str, lengths, answers: int) -> Batch:
    """Random ids, labels and pixels of one named batch, a picture in each row, padded on the left to the longest row."""
    sizes = SHAPES[shape]
    edge, patch = sizes["vision_config"]["image_size"], sizes["vision_config"]["patch_size"]
    g, T, n_image = torch_generator(2, name), max(lengths), (edge // patch) ** 2
    ids = torch.randint(SPECIAL, 2500, (len(lengths), T), generator=g)
    mask, labels = torch.ones_like(ids), torch.full_like(ids, IGNORE)
    for row, length in enumerate(lengths):
        first = T - length
        ids[row, :first], mask[row, :first] = PAD, 0
        ids[row, first] = BOS
        ids[row, first + 3:first + 3 + n_image] = IMAGE
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
        return {"prompts": make_batch(shape, task, [length - answer - row for row in range(sizes["rows"])], 0)}
    if task == "likelihood":
        g = torch_generator(3, task)
        made = []
        for question in range(QUESTIONS):
            ids = [torch.randint(SPECIAL, 2500, (answer - c,), generator=g).tolist() for c in range(CANDIDATES)]
            made.append((make_batch(shape, f"question {question}", [length - answer], 0), ids))
        return {"questions": made}
    lengths = [length] * SEQUENCES if task.endswith("all rows") else [length, length - PADDING]
    forget, retain = (make_batch(shape, name, lengths, answer) for name in ("forget", "retain"))
    refusals = torch.randint(SPECIAL, 2500, (len(lengths), answer), generator=torch_generator(2, "idk"))
    ids, labels = (torch.cat((tensor[:, :-answer], refusals), 1) for tensor in (forget.input_ids, forget.labels))
    return {"forget": forget, "retain": retain, "idk": Batch(ids, forget.attention_mask, labels, forget.pixel_values)}


def described(shape: str, n_parameters: int) -> list[str]:
    """The model, its adapters and the batches in lines for people."""
    sizes = SHAPES[shape]
    text, vision = sizes["text_config"], sizes["vision_config"]
    return [f"LLaVA of {n_parameters / 1e6:.1f} M random parameters, fp32: decoder {text['hidden_size']} x "
            f"{text['num_hidden_layers']} layers, vocabulary {text['vocab_size']}, CLIP {vision['hidden_size']} x "
            f"{vision['num_hidden_layers']} layers at {vision['image_size']} px",
            f"LoRA of rank {RANK}, alpha {ALPHA} on every linear layer but the head; a picture in every record",
            f"step: {SEQUENCES} records a batch, {sizes['length']} tokens, {sizes['answer']} of them answer; the second record "
            f"{PADDING} shorter (all rows: equally long)",
            f"generate: {sizes['rows']} prompts, {sizes['new_tokens']} tokens each; likelihood: {QUESTIONS} questions, {CANDIDATES} "
            "candidates each"]
