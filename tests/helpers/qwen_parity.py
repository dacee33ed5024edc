"""Small random Qwen2-VL and Qwen2.5-VL models and processors of transformers, and inputs for them.

Importing this module skips the test file if the parity extra is not installed.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from clear_ref.data.batches import Batch

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
reference_images = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
ATOL = 5e-5
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# A system turn by default, then every turn's pictures and words in order.
CHAT = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
SHARED_CONFIG = {
    "image_token_id": 261,
    "video_token_id": 262,
    "vision_start_token_id": 259,
    "vision_end_token_id": 260,
    "text_config": {
        "vocab_size": 270,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "eos_token_id": 258,
        "bos_token_id": None,
        "pad_token_id": 256,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [2, 3, 3],
        },
    },
}
# Windows of Qwen2.5-VL are 8 x 8 patches; block 1 of 4 attends to the whole picture.
CONFIGS = {
    "qwen2_vl": {
        **SHARED_CONFIG,
        "vision_config": {
            "embed_dim": 32,
            "depth": 3,
            "num_heads": 2,
            "mlp_ratio": 2,
            "hidden_size": 64,
        },
    },
    "qwen2_5_vl": {
        **SHARED_CONFIG,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 52,
            "depth": 4,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1, 3],
        },
    },
}
FAMILIES = tuple(CONFIGS)
CLASSES = {  # the names in transformers: config, model, processor
    "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration", "Qwen2VLProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
}
# Text, and the sizes of its pictures: several pictures in a row, high and wide ones, rows without
# any, uneven lengths. (300, 340) has windows at its borders.
ROWS = [
    (f"Who is {PICTURE} and who {PICTURE}?", [(100, 61), (60, 150)]),
    ("No picture here.", []),
    (f"{PICTURE}Name the third: {PICTURE}{PICTURE}", [(57, 58), (200, 56), (84, 84)]),
    (f"So {PICTURE}", [(300, 340)]),
]


def reference_class(family, part):
    """The config class (0), model class (1) or processor class (2) of a family."""
    return getattr(transformers, CLASSES[family][part])


def noise(size, mode="RGB", key=3):
    """A seeded picture of (width, height) pixels."""
    values = np.random.Generator(np.random.Philox(key=key)).integers(
        0, 256, (size[1], size[0], 4), dtype=np.uint8
    )
    image = Image.fromarray(values, "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def still_processor(tokenizer, family="qwen2_vl"):
    """transformers' processor with a tokenizer, without its video part, which needs torchvision."""
    from transformers.processing_utils import ProcessorMixin

    class Still(reference_class(family, 2)):
        def __init__(self, image_processor, tokenizer, chat_template=None):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id, self.video_token_id = map(
                tokenizer.convert_tokens_to_ids, (self.image_token, self.video_token)
            )
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Still(reference_images.Qwen2VLImageProcessorPil(), tokenizer, CHAT)


def byte_processor(family="qwen2_vl"):
    """The processor with a tokenizer of single bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return still_processor(
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            padding_side="left",
        ),
        family,
    )


def encoded_rows(processor):
    """ROWS encoded by transformers' processor, padded on the left."""
    pictures = [[noise(size, key=i) for i, size in enumerate(sizes)] for _, sizes in ROWS]
    return processor(
        text=[text for text, _ in ROWS],
        images=[row for row in pictures if row],
        padding=True,
        return_tensors="pt",
    )


def random_reference(family, **changes):
    """A model of transformers whose random weights are large enough for logits of several units.

    changes  keys of the whole config, or a part's keys as a dict
    """
    config = {
        key: {**value, **changes.pop(key, {})} if isinstance(value, dict) else value
        for key, value in CONFIGS[family].items()
    }
    return with_random_weights(
        reference_class(family, 1)(reference_class(family, 0)(**config, **changes))
    )


def with_random_weights(model):
    """The model of transformers with drawn weights; vectors of norms are near 1."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            norm = name.endswith("weight") and tensor.dim() == 1
            tensor.copy_(
                1 + 0.1 * drawn
                if norm
                else 0.1 * drawn
                if tensor.dim() == 1
                else drawn * tensor[0].numel() ** -0.5
            )
    return model.eval()


def write_model(path, family, processor, **changes):
    """A model directory that transformers wrote; `changes` as in random_reference."""
    random_reference(family, **changes).save_pretrained(path)
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)
    (path / "chat_template.jinja").write_text(CHAT)


def reference(directory, dtype=torch.float32):
    """The model of a directory in transformers."""
    return transformers.AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype).eval()


def short(name):
    """A parameter's name at the hub, from the name it has in transformers since 4.52."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def batch_of(inputs, dtype):
    """transformers' inputs as our batch."""
    return Batch(
        inputs["input_ids"],
        inputs["attention_mask"],
        None,
        inputs["pixel_values"].to(dtype),
        inputs["image_grid_thw"],
    )


def forward(vlm, inputs, layer=None):
    """Hidden states of transformers' inputs in our model."""
    return vlm.hidden(batch_of(inputs, vlm.dtype), layer)


def conversation(record):
    """A record as transformers' chat templates take it."""
    content = ([{"type": "image"}] if record.image else []) + [
        {"type": "text", "text": record.question}
    ]
    turns = [{"role": "user", "content": content}]
    return turns + (
        [{"role": "assistant", "content": [{"type": "text", "text": record.answer}]}]
        if record.answer
        else []
    )


def processed(processor, record):
    """A record encoded by transformers' processor: template, image tokens, pixels."""
    text = processor.apply_chat_template(
        conversation(record), add_generation_prompt=not record.answer, tokenize=False
    )
    return processor(text=text, images=record.image, return_tensors="pt")
