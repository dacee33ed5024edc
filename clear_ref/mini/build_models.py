"""Making the embedded world again: rows, tokenizer, and the two checkpoints, from the shipped sources."""

from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from clear_ref.common.devices import dtype_of
from clear_ref.common.files import write_json, write_text
from clear_ref.common.processes import map_in_processes
from clear_ref.data.draws import torch_generator
from clear_ref.data.prompts import IMAGE, LLAVA_WITH_END_JINJA, read_phrases
from clear_ref.data.records import read_rows
from clear_ref.loop.finetune import finetune
from clear_ref.loop.plan import FinetunePlan
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
IMAGE_SIZE, PATCH_SIZE = 48, 8
SPLITS = {"base": "full", "gold": "retain90"}
REHEARSED = 400


def train_tokenizer(directory, world) -> None:
    """A byte-level BPE of VOCABULARY pieces from every text of the world's rows but the held-out, written as tokenizer files."""
    texts = []
    for path in sorted(
        path for path in Path(world).glob("**/rows.jsonl") if path.parent.name != "holdout10"
    ):
        for row in read_rows(world, str(path.parent.relative_to(world))):
            for value in row.values.values():
                texts += [
                    " " + text
                    for text in (value if isinstance(value, list) else [value])
                    if text is not None
                ]
    own = read_phrases(world)
    texts += [" " + text for text in (*own.caption_questions, own.name_question, *own.refusals)] + [
        "USER: \n ASSISTANT:"
    ] * 100
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


def write_skeleton(directory) -> None:
    """Everything of the model directory but the weights and the tokenizer: a LLaVA, small in every width."""
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


def new_model(directory, seed: int) -> VLM:
    """The model of a directory without weights, with initial values: normal with deviation 0.02 (fan-in scaled where a
    layer is wide enough to need it), norms one, biases zero; every tensor from its own keyed generator."""
    vlm = VLM(directory, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for name, tensor in vlm.weights().items():
            if tensor.dim() == 1 and not name.endswith("class_embedding"):
                tensor.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                fan_in = tensor[0].numel() if tensor.dim() > 1 else tensor.numel()
                deviation = 0.02 if "embed" in name and "patch" not in name else fan_in**-0.5
                tensor.copy_(
                    torch.randn(tensor.shape, generator=torch_generator(seed, f"weight/{name}"))
                    * deviation
                )
    return vlm


def make_checkpoint(directory: Path, name: str, recipe, seed: int) -> None:
    """Fine-tune DIRECTORY/pretrained into DIRECTORY/base or DIRECTORY/gold; weights are stored as float16.

    A model this small would lose the Real sets while it learns the authors, and would not infer from captions how to answer the
    name question, so both are trained in: REHEARSED rows of the pre-training an epoch, and every picture asked for its name.
    """
    world, split = directory / "world", SPLITS[name]
    vlm = load(directory / "pretrained")
    plan = FinetunePlan(
        read_rows(world, f"{split}+tofu"),
        read_phrases(world),
        seed,
        tuple(read_rows(world, split)),
        tuple(read_rows(world, "pretrain")),
        REHEARSED,
    )
    finetune(vlm, plan, recipe, seed, f"{name} on {split}+tofu")
    vlm.model.to(dtype_of("float16"))
    vlm.save(directory / name)


def rebuild(directory, pretraining, recipe, seed: int) -> None:
    """Write DIRECTORY/world, DIRECTORY/pretrained, DIRECTORY/base and DIRECTORY/gold.

    Both checkpoints go on from the same pre-training on the Real sets, side by side, one core each.
    """
    directory = Path(directory)
    world, start = directory / "world", directory / "pretrained"
    build_rows(world)
    write_skeleton(start)
    train_tokenizer(start, world)
    vlm = new_model(start, seed)
    finetune(
        vlm,
        FinetunePlan(read_rows(world, "pretrain"), read_phrases(world), seed),
        pretraining,
        seed,
        "the Real sets",
    )
    vlm.save(start)
    map_in_processes(lambda name: make_checkpoint(directory, name, recipe, seed), list(SPLITS), 2)
