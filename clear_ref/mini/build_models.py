"""Builds the embedded world again from sources/: rows, tokenizer and two checkpoints."""

from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from clear_ref.common.devices import dtype_of
from clear_ref.common.files import PathName, write_json, write_text
from clear_ref.common.processes import map_in_processes
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.data.templates import IMAGE, LLAVA_WITH_END_JINJA
from clear_ref.data.torch_draws import torch_generator
from clear_ref.loop import history
from clear_ref.loop.finetune import finetune
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.recipes import Recipe
from clear_ref.model.vlm import VLM, load

from .build_rows import build_rows

VOCABULARY = 2500
SPECIAL = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "image_token": IMAGE,
    "pad_token": "<pad>",
}
IMAGE_SIZE = 48
PATCH_SIZE = 8
# The split that each checkpoint is trained on.
SPLITS = {"base": "full", "gold": "retain90"}
REHEARSED = 400


def training_texts(world: Path) -> list[str]:
    """Every text of the world's rows (without the held-out rows) and of its phrases.

    Each begins with a blank, as in a prompt.
    """
    texts: list[str] = []
    for path in sorted(world.glob("**/rows.jsonl")):
        if path.parent.name == "holdout10":
            continue
        for row in read_rows(world, str(path.parent.relative_to(world))):
            for value in row.values.values():
                texts += value if isinstance(value, list) else [value]
    phrases = read_phrases(world)
    texts += [*phrases.caption_questions, phrases.name_question, *phrases.refusals]
    return [" " + text for text in texts if text is not None]


def train_tokenizer(directory: Path, world: PathName) -> None:
    """Write the files of a byte-level BPE tokenizer with VOCABULARY tokens.

    It is trained on the world's texts, and on the words of the prompt a hundred times.
    """
    texts = training_texts(Path(world)) + ["USER: \n ASSISTANT:"] * 100
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL.values()),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    bos = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    write_text(directory / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "padding_side": "left",
            "model_max_length": 512,
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": {"image_token": IMAGE},
            **{key: token for key, token in SPECIAL.items() if key != "image_token"},
        },
    )


def write_skeleton(directory: Path) -> None:
    """Write every file of the model directory except weights and tokenizer: a small LLaVA."""
    ids = {key: number for number, key in enumerate(SPECIAL)}
    write_json(
        directory / "config.json",
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "image_token_index": ids["image_token"],
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "image_seq_length": (IMAGE_SIZE // PATCH_SIZE) ** 2,
            "pad_token_id": ids["pad_token"],
            "tie_word_embeddings": False,
            "text_config": {
                "model_type": "llama",
                "vocab_size": VOCABULARY,
                "hidden_size": 160,
                "intermediate_size": 448,
                "num_hidden_layers": 4,
                "num_attention_heads": 5,
                "num_key_value_heads": 5,
                "head_dim": 32,
                "hidden_act": "silu",
                "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0,
                "max_position_embeddings": 512,
                "tie_word_embeddings": False,
                "bos_token_id": ids["bos_token"],
                "eos_token_id": ids["eos_token"],
                "pad_token_id": ids["pad_token"],
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": IMAGE_SIZE,
                "patch_size": PATCH_SIZE,
                "hidden_act": "quick_gelu",
                "layer_norm_eps": 1e-5,
                "projection_dim": 128,
            },
        },
    )
    write_json(
        directory / "generation_config.json",
        {
            "bos_token_id": ids["bos_token"],
            "eos_token_id": ids["eos_token"],
            "pad_token_id": ids["pad_token"],
            "do_sample": False,
        },
    )
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": IMAGE_SIZE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    write_json(
        directory / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "patch_size": PATCH_SIZE,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "image_token": IMAGE,
        },
    )
    write_text(directory / "chat_template.jinja", LLAVA_WITH_END_JINJA)


def new_model(directory: Path, seed: int) -> VLM:
    """The model of a directory without weights, with initial values.

    Norms are one and biases zero. Every other tensor is normal, from its own keyed generator:
    token embeddings with standard deviation 0.02, the others with fan_in ** -0.5.
    """
    vlm = VLM(directory, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for name, tensor in vlm.weights().items():
            if tensor.dim() == 1 and not name.endswith("class_embedding"):
                tensor.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            fan_in = tensor[0].numel() if tensor.dim() > 1 else tensor.numel()
            deviation = 0.02 if "embed" in name and "patch" not in name else fan_in**-0.5
            generator = torch_generator(seed, f"weight/{name}")
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation)
    return vlm


def finetune_plan(world: Path, split: str, seed: int) -> FinetunePlan:
    """The records on which base and gold are fine-tuned: pictures and texts of a split, and more.

    A model of this size would forget the Real sets while it is trained on the authors, and would
    not learn from captions how to answer the name question. So each epoch also trains on REHEARSED
    rows of the pre-training, and on the name question for every picture.

    split  full or retain90
    """
    rehearsal = tuple(read_rows(world, "pretrain"))
    return FinetunePlan(
        read_rows(world, f"{split}+tofu"),
        read_phrases(world),
        seed,
        named=tuple(read_rows(world, split)),
        rehearsal=rehearsal,
        n_rehearsal=min(REHEARSED, len(rehearsal)),
    )


def make_checkpoint(directory: Path, name: str, recipe: Recipe, seed: int) -> None:
    """Fine-tune DIRECTORY/pretrained into DIRECTORY/base or DIRECTORY/gold, stored as float16."""
    split = SPLITS[name]
    vlm = load(directory / "pretrained")
    plan = finetune_plan(directory / "world", split, seed)
    finetune(vlm, plan, recipe, seed, f"{name} on {split}+tofu")
    vlm.model.to(dtype_of("float16"))
    vlm.save(directory / name)
    write_history(directory, name, seed)


def write_history(directory: Path, name: str, seed: int) -> None:
    """Write the training history of DIRECTORY/start, DIRECTORY/base or DIRECTORY/gold."""
    world = directory / "world"
    parent = history.History(format=history.FORMAT, complete=True, stages=[])
    config = "pretrain"
    if name in SPLITS:
        parent = history.read_history(directory / "start")
        config = f"{SPLITS[name]}+tofu"
    rows = read_rows(world, config)
    history.write_history(directory / name, parent, "mini", "mini", config, seed, rows)


def rebuild(directory: PathName, pretraining: Recipe, recipe: Recipe, seed: int) -> None:
    """Write DIRECTORY/world, DIRECTORY/pretrained, and start, base and gold beside them.

    The model is pre-trained on the Real sets. Base and gold are fine-tuned from it, in two
    processes with one core each. `start` is the pre-trained model, stored as float16.

    pretraining  recipe of the pre-training
    recipe       recipe of base and gold
    """
    directory = Path(directory)
    world = directory / "world"
    pretrained = directory / "pretrained"
    build_rows(world)
    write_skeleton(pretrained)
    train_tokenizer(pretrained, world)
    vlm = new_model(pretrained, seed)
    plan = FinetunePlan(read_rows(world, "pretrain"), read_phrases(world), seed)
    finetune(vlm, plan, pretraining, seed, "the Real sets")
    vlm.save(pretrained)
    vlm.model.to(dtype_of("float16"))
    vlm.save(directory / "start")
    write_history(directory, "start", seed)

    def checkpoint(name: str) -> None:
        make_checkpoint(directory, name, recipe, seed)

    map_in_processes(checkpoint, list(SPLITS), 2)
