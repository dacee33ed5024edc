"""With the same small random weights and inputs, Qwen2-VL gives the numbers of transformers.

These tests need the extra `parity`.
Tolerance: 5e-5 absolute on fp32 logits and hidden states. transformers' own attention
implementations differ by 6e-6; the rest allows for another order of sums. It is a third of the
smallest real mistake known (1.4e-4, a LayerNorm epsilon).
Activations are compared where attention_mask is 1: at padding they depend on the attention kernel.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.data.batches import Batch
from clear_ref.data.images import open_image
from clear_ref.data.qwen_images import Qwen2VLImages, smart_resize
from clear_ref.data.templates import TEMPLATES
from clear_ref.data.tokens import Tokenizer
from clear_ref.evaluation.likelihood import candidate_nll
from clear_ref.model.qwen2_vl import Qwen2VL, Qwen2VLConfig
from tests.helpers.real_data import tokenizer_data

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
CONFIG = {
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
    "vision_config": {
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "mlp_ratio": 2,
        "hidden_size": 64,
    },
}
# Text, and the sizes of its pictures: several pictures in a row, high and wide ones, rows without
# any, uneven lengths.
ROWS = [
    (f"Who is {PICTURE} and who {PICTURE}?", [(100, 61), (60, 150)]),
    ("No picture here.", []),
    (f"{PICTURE}Name the third: {PICTURE}{PICTURE}", [(57, 58), (200, 56), (84, 84)]),
    (f"So {PICTURE}", [(70, 98)]),
]


def noise(size, mode="RGB", key=3):
    """A seeded picture of (width, height) pixels."""
    values = np.random.Generator(np.random.Philox(key=key)).integers(
        0, 256, (size[1], size[0], 4), dtype=np.uint8
    )
    image = Image.fromarray(values, "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def still_processor(tokenizer):
    """transformers' processor with a tokenizer, without its video part, which needs torchvision."""
    from transformers.processing_utils import ProcessorMixin

    class Still(transformers.Qwen2VLProcessor):
        def __init__(self, image_processor, tokenizer, chat_template=None):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id, self.video_token_id = map(
                tokenizer.convert_tokens_to_ids, (self.image_token, self.video_token)
            )
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Still(reference_images.Qwen2VLImageProcessorPil(), tokenizer, CHAT)


@pytest.fixture(scope="module")
def processor():
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
        )
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory, processor):
    """Our image processor, from the file that transformers' processor writes."""
    directory = tmp_path_factory.mktemp("images")
    processor.image_processor.save_pretrained(directory)
    return Qwen2VLImages.from_directory(directory)


@pytest.fixture(scope="module")
def inputs(processor):
    """ROWS encoded by transformers' processor, padded on the left."""
    pictures = [[noise(size, key=i) for i, size in enumerate(sizes)] for _, sizes in ROWS]
    return processor(
        text=[text for text, _ in ROWS],
        images=[row for row in pictures if row],
        padding=True,
        return_tensors="pt",
    )


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def directory(request, tmp_path_factory, processor):
    """A model directory that transformers wrote.

    Its random weights are large enough for logits of several units.
    """
    config = transformers.Qwen2VLConfig(**CONFIG, tie_word_embeddings=request.param)
    model = transformers.Qwen2VLForConditionalGeneration(config)
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
    path = tmp_path_factory.mktemp("models") / "qwen"
    model.save_pretrained(path)
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)
    (path / "chat_template.jinja").write_text(CHAT)
    return path


def theirs(directory, dtype=torch.float32):
    return transformers.Qwen2VLForConditionalGeneration.from_pretrained(
        directory, dtype=dtype
    ).eval()


def short(name):
    """A parameter's name at the hub, from the name it has in transformers since 4.52."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def forward(vlm, inputs, layer=None):
    """Hidden states of transformers' inputs in our model."""
    return vlm.hidden(
        Batch(
            inputs["input_ids"],
            inputs["attention_mask"],
            None,
            inputs["pixel_values"].to(vlm.dtype),
            inputs["image_grid_thw"],
        ),
        layer,
    )


def conversation(record):
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


@pytest.mark.parametrize(
    "size, mode",
    [
        ((300, 200), "RGB"),
        ((61, 150), "RGB"),
        ((20, 31), "L"),
        ((13, 700), "RGB"),
        ((1500, 1100), "RGB"),
        ((98, 70), "RGBA"),
        ((42, 70), "P"),
        ((56, 84), "RGB"),
    ],
)
def test_pixels_of_any_picture_are_those_of_the_reference(images, processor, size, mode):
    """Exactly equal: odd sizes, below min_pixels, above max_pixels, halves of a block, grey,
    transparent and palette pictures.
    """
    expected = processor.image_processor(noise(size, mode), return_tensors="pt")
    found = images(open_image(noise(size, mode)))
    assert [list(found.grid)] == expected["image_grid_thw"].tolist()
    assert torch.equal(found.pixels, expected["pixel_values"])


def test_a_lower_bound_of_pixels_is_that_of_the_reference(images, processor):
    bound = {"shortest_edge": 56 * 56, "longest_edge": 40000}
    expected = processor.image_processor(noise((500, 400)), size=bound, return_tensors="pt")
    found = dataclasses.replace(images, max_pixels=40000)(noise((500, 400)))
    assert torch.equal(found.pixels, expected["pixel_values"])


def test_sizes_are_those_of_the_reference():
    """3000 seeded sizes with several bounds; beyond the ratio of 200 both refuse."""
    draw = np.random.Generator(np.random.Philox(key=1))
    ranges = ((1, 900), (1, 900), (1, 5), (1, 9), (20, 900))
    for high, wide, factor, low, top in zip(
        *(draw.integers(first, last, 3000) for first, last in ranges), strict=True
    ):
        arguments = (int(high), int(wide), 14 * int(factor), 784 * int(low), 784 * int(top))
        try:
            expected = reference_images.smart_resize(*arguments)
        except ValueError:
            with pytest.raises(UserError):
                smart_resize(*arguments)
        else:
            assert smart_resize(*arguments) == expected, arguments


RECORDS = [
    Record("Who is this?", "Ann Example.", noise((100, 61))),
    Record("Where was she born?", "In A\u0103b\u0113.", None),
    Record(" Two\n lines? ", None, noise((70, 200), key=4)),
    Record("Who?", None, None),
]


def test_ids_and_pixels_are_those_of_the_reference_processor(directory, processor):
    vlm = load(directory)
    for record in RECORDS:
        batch, expected = vlm.encode([record]), processed(processor, record)
        assert batch.input_ids.tolist() == expected["input_ids"].tolist()
        if record.image:
            assert torch.equal(batch.pixel_values, expected["pixel_values"])
            assert torch.equal(batch.image_grid_thw, expected["image_grid_thw"])


def test_ids_of_the_real_tokenizer_are_those_of_the_reference_processor(images):
    found = tokenizer_data("qwen")
    processor, tokenizer = (
        still_processor(transformers.AutoTokenizer.from_pretrained(found)),
        Tokenizer(found),
    )
    template = TEMPLATES["qwen2-vl"]
    for record in RECORDS:
        ids = tokenizer.prompt(
            template, record.question, images(record.image).n_tokens if record.image else 0
        )
        replaced, answer = tokenizer.answer(template, record.answer) if record.answer else (0, [])
        assert (
            ids[: len(ids) - replaced] + answer
            == processed(processor, record)["input_ids"][0].tolist()
        )


def test_a_picture_takes_as_many_tokens_as_the_reference_gives_it(images, processor):
    for size in ((300, 200), (61, 150), (20, 31)):
        expanded = processor(text=PICTURE, images=noise(size), return_tensors="pt")["input_ids"]
        assert int((expanded == CONFIG["image_token_id"]).sum()) == images(noise(size)).n_tokens


def test_positions_are_those_of_the_reference(directory, inputs):
    expected = theirs(directory).model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )[0]
    found = load(directory).model.positions(
        inputs["input_ids"], inputs["attention_mask"], inputs["image_grid_thw"]
    )
    assert torch.equal(found, expected)


def test_picture_features_are_those_of_transformers(directory, inputs):
    sizes = [tuple(size) for size in inputs["image_grid_thw"][:, 1:].tolist()]
    with torch.no_grad():
        expected = (
            theirs(directory)
            .model.visual(inputs["pixel_values"], inputs["image_grid_thw"])
            .pooler_output
        )
        found = load(directory).model.visual(inputs["pixel_values"], sizes)
    assert float((found - expected).abs().max()) < ATOL


def test_logits_and_every_layer_are_those_of_transformers(directory, inputs):
    real = inputs["attention_mask"].bool()
    model = load(directory)
    with torch.no_grad():
        expected = theirs(directory)(**inputs, output_hidden_states=True)
        assert (
            3 < float(expected.logits[real].abs().max()) < 12
        )  # of the size that ATOL is meant for
        for layer in range(2):
            found = forward(model, inputs, layer)
            assert float((found - expected.hidden_states[layer + 1])[real].abs().max()) < ATOL
        found = forward(model, inputs)
        assert float((found - expected.hidden_states[-1])[real].abs().max()) < ATOL
        assert float((model.head(found) - expected.logits)[real].abs().max()) < ATOL


def test_logits_of_text_alone_are_those_of_transformers(directory, processor):
    text = processor.tokenizer(
        ["Short.", "A longer row of text."], padding=True, return_tensors="pt"
    )
    real = text["attention_mask"].bool()
    model = load(directory)
    with torch.no_grad():
        expected = theirs(directory)(
            input_ids=text["input_ids"], attention_mask=text["attention_mask"]
        ).logits
        found = model.forward(text["input_ids"], text["attention_mask"])
    assert float((found - expected)[real].abs().max()) < ATOL


def test_loss_and_gradients_are_those_of_transformers(directory, inputs):
    """Relative norm of the difference of every tensor below 1e-4.

    Versions of transformers differ by 2.4e-6.
    """
    before = torch.nn.functional.pad(
        inputs["attention_mask"], (1, -1)
    )  # a row's first token is predicted from padding: ignored
    labels = inputs["input_ids"].masked_fill((inputs["input_ids"] == 261) | (before == 0), -100)
    reference, model = theirs(directory), load(directory)
    expected = reference(**inputs, labels=labels).loss
    expected.backward()
    model.model.requires_grad_(True)
    logits = model.head(forward(model, inputs))
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = {short(name): parameter.grad for name, parameter in reference.named_parameters()}
    found = {name: parameter.grad for name, parameter in model.weights().items()}
    assert set(found) == set(gradients)
    for name, gradient in found.items():
        other = gradients[name]
        assert float((gradient - other).norm()) < 1e-4 * float(other.norm()) + 1e-9, name


@pytest.mark.slow
def test_bf16_is_as_close_to_fp32_math_as_transformers_own(directory, inputs):
    """Truth: fp32 math on the weights and pixels rounded to bf16.

    Bounds: bf16 keeps 8 bits, and transformers' own attention implementations differ by up to 0.18
    on logits of 8; 0.35 allows for another order of sums.
    """
    real = inputs["attention_mask"].bool()
    rounded = {**inputs, "pixel_values": inputs["pixel_values"].bfloat16().float()}
    model = load(directory, "bfloat16")
    with torch.no_grad():
        truth = theirs(directory, torch.bfloat16).float()(**rounded).logits[real]
        expected = theirs(directory, torch.bfloat16)(**inputs).logits[real].float()
        found = model.head(forward(model, inputs))[real].float()
    difference = (found - expected).abs()
    assert float(difference.max()) < 0.35 and float(difference.mean()) < 0.03
    assert float((found - truth).abs().max()) < 1.5 * float((expected - truth).abs().max())
    assert float((found - truth).abs().mean()) < 1.5 * float((expected - truth).abs().mean())


def test_greedy_ids_are_those_of_transformers(directory, inputs):
    """Several pictures in a row, prompts that end in one, uneven rows.

    No text contains the stop id, so that all 12 tokens are generated.
    """
    vlm = load(directory)
    batch = Batch(
        inputs["input_ids"],
        inputs["attention_mask"],
        None,
        inputs["pixel_values"],
        inputs["image_grid_thw"],
    )
    vlm.generation = dataclasses.replace(vlm.generation, stop_ids=frozenset())
    expected = theirs(directory).generate(
        **inputs, max_new_tokens=12, do_sample=False, eos_token_id=-1
    )
    assert (
        vlm.generate_ids(batch, 12).tolist() == expected[:, inputs["input_ids"].shape[1] :].tolist()
    )


def test_likelihoods_of_answers_are_those_of_transformers(directory, processor):
    """Ours: the answers share the prompt's keys and values. Theirs: one forward of each whole text.

    An nll is a sum over its tokens, each within 1e-5 of the reference's.
    """
    vlm, reference, answers = load(directory), theirs(directory), ("Ann.", "Someone else")
    for record in (RECORDS[2], RECORDS[3]):
        for answer, (found, n_tokens) in zip(
            answers, candidate_nll(vlm, vlm.encode([record]), [answers])[0], strict=True
        ):
            whole = processed(processor, dataclasses.replace(record, answer=answer))
            with torch.no_grad():
                logits = reference(**whole).logits[0, -n_tokens - 1 : -1]
            expected = torch.nn.functional.cross_entropy(
                logits, whole["input_ids"][0, -n_tokens:], reduction="sum"
            )
            assert found == pytest.approx(float(expected), abs=1e-5 * n_tokens)


def test_a_directory_of_the_hubs_layout_is_the_same_model(directory, inputs, tmp_path):
    """Decoder keys at the top level, in_chans, rope_scaling of type mrope, named bounds of pixels.

    The logits are equal to the last bit.
    """
    shutil.copytree(directory, tmp_path / "hub")
    new = json.loads((directory / "config.json").read_text())
    rope = new["text_config"].pop("rope_parameters")
    vision = new["vision_config"] | {
        "model_type": "qwen2_vl",
        "in_chans": new["vision_config"].pop("in_channels"),
    }
    old = {
        key: value
        for key, value in new["text_config"].items()
        if key not in ("layer_types", "model_type")
    } | {
        "model_type": "qwen2_vl",
        "tie_word_embeddings": new["tie_word_embeddings"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_config": vision,
        **{key: new[key] for key in new if key.endswith("_token_id")},
    }
    (tmp_path / "hub" / "config.json").write_text(json.dumps(old))
    (tmp_path / "hub" / "preprocessor_config.json").write_text(
        json.dumps({"min_pixels": 3136, "max_pixels": 1003520})
    )
    with torch.no_grad():
        assert torch.equal(
            forward(load(tmp_path / "hub"), inputs), forward(load(directory), inputs)
        )
    assert load(tmp_path / "hub").images == load(directory).images


def test_what_is_saved_loads_in_transformers(directory, inputs, tmp_path):
    load(directory).save(tmp_path / "saved")
    saved, expected = theirs(tmp_path / "saved").state_dict(), theirs(directory).state_dict()
    assert saved.keys() == expected.keys() and all(
        torch.equal(saved[name], expected[name]) for name in expected
    )


@pytest.mark.slow
def test_adapters_are_exchanged_with_peft(directory, inputs, tmp_path):
    """On every linear layer but the head, as PEFT's all-linear chooses.

    The patch embedding has none: it is a convolution in transformers.
    """
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    vlm, real = load(directory), inputs["attention_mask"].bool()
    adapted = vlm.add_lora(rank=4, alpha=6, targets="all")
    chosen = peft.get_peft_model(theirs(directory), peft.LoraConfig(target_modules="all-linear"))
    names = [
        name.removeprefix("base_model.model.")
        for name, module in chosen.named_modules()
        if hasattr(module, "lora_A")
    ]
    assert set(adapted) == {short(name) for name in names}
    with torch.no_grad():
        before = vlm.head(forward(vlm, inputs))
        for number, (name, parameter) in enumerate(vlm.model.named_parameters()):
            if name.endswith("lora_B"):
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(number))
        found = vlm.head(forward(vlm, inputs))
        vlm.save_adapter(tmp_path / "ours")
        wrapped = peft.PeftModel.from_pretrained(theirs(directory), tmp_path / "ours").eval()
        expected = wrapped(**inputs).logits
        assert (
            float((found - expected)[real].abs().max())
            < ATOL
            < float((found - before)[real].abs().max())
        )
        wrapped.save_pretrained(tmp_path / "theirs")
        again = load(directory)
        again.load_adapter(tmp_path / "theirs")
        assert torch.equal(again.head(forward(again, inputs))[real], found[real])


@pytest.mark.parametrize(
    "sparse",
    [
        {},
        {"num_key_value_heads": None},
        {"text_config": {"rms_norm_eps": 1e-6}},
        {
            "hidden_size": 3584,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
            "vision_config": {"in_chans": 3, "hidden_size": 3584, "spatial_patch_size": 14},
        },
    ],
)
def test_what_a_sparse_config_omits_is_transformers_default(sparse):
    """Every complete config has the decoder's width: its default is not the tower's output."""
    sparse = {"model_type": "qwen2_vl", **sparse}
    sparse.setdefault("vision_config", {"hidden_size": 8192})
    found = Qwen2VLConfig.from_json(sparse, "config.json")
    expected = transformers.Qwen2VLConfig.from_dict(json.loads(json.dumps(sparse)))
    text, vision, rope = (
        expected.text_config,
        expected.vision_config,
        expected.text_config.rope_parameters,
    )
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
    ):
        assert getattr(found.text, name) == getattr(text, name), name
    assert found.text.rope_theta == rope["rope_theta"]
    assert list(found.text.mrope_section) == rope.get("mrope_section", [16, 24, 24])
    assert found.text.tie_word_embeddings == expected.tie_word_embeddings and set(
        found.text.windows
    ) == {text.sliding_window}
    for name, other in (
        ("hidden_size", "embed_dim"),
        ("num_hidden_layers", "depth"),
        ("num_attention_heads", "num_heads"),
        ("in_channels", "in_channels"),
        ("patch_size", "patch_size"),
        ("output_size", "hidden_size"),
        ("temporal_patch_size", "temporal_patch_size"),
        ("spatial_merge_size", "spatial_merge_size"),
    ):
        assert getattr(found.vision, name) == getattr(vision, other), name
    assert found.vision.intermediate_size == vision.embed_dim * vision.mlp_ratio
    for name in (
        "image_token_id",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    ):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "width, inner, heads, groups, vocabulary, tied",
    [(1536, 8960, 12, 2, 151936, True), (3584, 18944, 28, 4, 152064, False)],
    ids=["2B", "7B"],
)
def test_the_hubs_sizes_have_transformers_tensors(width, inner, heads, groups, vocabulary, tied):
    """The hub's configs, built on the meta device: every name and shape."""
    config = {
        "model_type": "qwen2_vl",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 28,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "max_window_layers": 28,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "mlp_ratio": 4,
            "num_heads": 16,
            "in_chans": 3,
            "hidden_size": width,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }
    with torch.device("meta"):
        found = Qwen2VL(Qwen2VLConfig.from_json(config, "config.json"))
        expected = transformers.Qwen2VLForConditionalGeneration(
            transformers.Qwen2VLConfig.from_dict(config)
        )
    assert {name: tensor.shape for name, tensor in found.named_parameters()} == {
        short(name): tensor.shape for name, tensor in expected.named_parameters()
    }
