"""Plain language models equal transformers: small random Llama, Mistral and Qwen2 checkpoints.

These tests need the extra `parity`.
Tolerances as in test_parity.py: 5e-5 on fp32 logits and hidden states (largest about 8), 1e-4
relative on gradients.
"""

import shutil

import pytest
import torch

from clear_ref import Record, load
from clear_ref.data.torch_draws import torch_generator
from clear_ref.mini.directories import BASE
from tests.helpers.text_parity import check_loss_and_gradients

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
ATOL = 5e-5
SMALL = {
    "vocab_size": 2500,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 4,
}
# name: (transformers' configuration class, what differs from SMALL)
VARIANTS = {
    "llama": ("LlamaConfig", {}),
    "llama grouped": (
        "LlamaConfig",
        {"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "head_dim": 10},
    ),
    "llama tied": ("LlamaConfig", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama linear rope": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}},
    ),
    "mistral": (
        "MistralConfig",
        {"num_key_value_heads": 3, "sliding_window": None, "head_dim": 12},
    ),
    "mistral window": ("MistralConfig", {"num_key_value_heads": 2, "sliding_window": 7}),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2}),
    "qwen2 tied": ("Qwen2Config", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2 window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    ),
}
RECORDS = [
    Record("Who wrote it?", "Hina Ameen."),
    Record("Where was the author of these books born, and when did she leave?", "There."),
    Record("Why?", "Because the rain had stopped by then, and nobody minded the wind."),
    Record("A", "B"),
]


def write_checkpoint(directory, config):
    """A checkpoint of transformers' class for the config, with the embedded world's tokenizer.

    The weights are seeded and have a scale of fan-in.
    """
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=torch_generator(11, name))
            tensor.copy_(
                1 + 0.3 * noise
                if name.endswith("norm.weight")
                else noise * 1.5 * tensor.shape[-1] ** -0.5
            )
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, directory / name)
    return directory


@pytest.fixture(scope="module", params=list(VARIANTS))
def pair(request, tmp_path_factory):
    """Our model and transformers' (eager attention, fp32) from one directory."""
    kind, values = VARIANTS[request.param]
    directory = write_checkpoint(
        tmp_path_factory.mktemp("text") / "model", getattr(transformers, kind)(**SMALL | values)
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    template = "" if not request.param.startswith("qwen2") else "inst"
    return load(directory, template=template), theirs


@pytest.mark.slow
def test_hidden_states_of_every_layer_and_logits_are_those_of_transformers(pair):
    ours, theirs = pair
    batch = ours.encode(RECORDS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        expected = theirs(batch.input_ids, batch.attention_mask, output_hidden_states=True)
        for layer in range(ours.text_config.num_hidden_layers - 1):
            found = ours.hidden(batch, layer)
            assert float((found - expected.hidden_states[layer + 1])[real].abs().max()) < ATOL, (
                layer
            )
        found = ours.forward(batch.input_ids, batch.attention_mask)
    assert (
        float((found - expected.logits)[real].abs().max())
        < ATOL
        < float(expected.logits[real].abs().max()) / 1e4
    )


@pytest.mark.slow
def test_in_bf16_logits_stay_within_the_references_own_spread(pair):
    """Compared with transformers' bf16, and with fp32 math.

    From transformers' bf16 at most 1.5 times as far as its two attention implementations are from
    each other (largest and mean). From fp32 math at most 1.5 times as far as transformers' bf16.
    Logits reach 9 here, so the largest difference is up to 0.53.
    """
    narrow = load(pair[0].directory, "bfloat16", template=pair[0].template.name)
    batch = narrow.encode(RECORDS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        exact = pair[0].forward(batch.input_ids, batch.attention_mask)[real]
        found = narrow.forward(batch.input_ids, batch.attention_mask)[real]
        other, eager = (
            transformers.AutoModelForCausalLM.from_pretrained(
                narrow.directory, dtype=torch.bfloat16, attn_implementation=kind
            )
            .eval()(batch.input_ids, batch.attention_mask)
            .logits[real]
            .float()
            for kind in ("sdpa", "eager")
        )
    apart, spread = (found - other).abs(), (eager - other).abs()
    assert float(apart.max()) < 1.5 * float(spread.max()) and float(apart.mean()) < min(
        0.03, 1.5 * float(spread.mean())
    )
    assert float((found - exact).abs().mean()) < 1.5 * float((other - exact).abs().mean())


def test_a_window_matters_where_there_is_one(pair):
    """Without the window the logits change by far more than the tolerance.

    So the tests above would fail if the window were not computed.
    """
    ours, _ = pair
    batch = ours.encode(RECORDS)
    decoder = ours.model.decoder
    with torch.no_grad():
        found = ours.forward(batch.input_ids, batch.attention_mask)
        windows = decoder.config.windows
        object.__setattr__(decoder.config, "windows", (None,) * len(windows))
        without = ours.forward(batch.input_ids, batch.attention_mask)
        object.__setattr__(decoder.config, "windows", windows)
    moved = float((found - without).abs().max())
    assert moved > 0.1 if any(windows) else moved == 0


def test_loss_and_gradients_are_those_of_transformers(pair):
    check_loss_and_gradients(*pair, RECORDS)


@pytest.mark.slow
def test_greedy_ids_are_those_of_transformers(pair):
    ours, theirs = pair
    batch = ours.encode([Record(record.question) for record in RECORDS])
    expected = theirs.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=24,
        do_sample=False,
    )
    assert ours.generate_ids(batch, 24).tolist() == expected[:, batch.input_ids.shape[1] :].tolist()


@pytest.mark.slow
def test_the_repetition_penalty_of_generation_config_is_applied(pair, tmp_path):
    ours, theirs = pair
    shutil.copytree(ours.directory, tmp_path / "m")
    transformers.GenerationConfig(repetition_penalty=1.7, eos_token_id=[2, 9]).save_pretrained(
        tmp_path / "m"
    )
    penal = load(tmp_path / "m", template=ours.template.name)
    batch = ours.encode([Record(record.question) for record in RECORDS])
    expected = theirs.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=24,
        do_sample=False,
        repetition_penalty=1.7,
        eos_token_id=[2, 9],
    )
    found = penal.generate_ids(batch, 24).tolist()
    assert (
        found
        == expected[:, batch.input_ids.shape[1] :].tolist()
        != ours.generate_ids(batch, 24).tolist()
    )


def test_what_we_save_transformers_loads_unchanged(pair, tmp_path):
    ours, theirs = pair
    ours.save(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32
    )
    state = again.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())


@pytest.mark.slow
def test_checkpointing_changes_neither_loss_nor_gradient(pair):
    ours, _ = pair
    batch, gradients = ours.encode(RECORDS), []
    ours.model.requires_grad_(True)
    for on in (False, True):
        ours.model.decoder.checkpointing = on
        ours.model.zero_grad()
        loss = torch.logsumexp(ours.forward(batch.input_ids, batch.attention_mask), -1).sum()
        loss.backward()
        gradients.append(
            [loss.detach(), *(parameter.grad.clone() for parameter in ours.model.parameters())]
        )
    ours.model.decoder.checkpointing = False
    ours.model.requires_grad_(False)
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_a_picture_is_refused(pair):
    from PIL import Image

    with pytest.raises(ValueError, match="holds a language model; expected text alone"):
        pair[0].encode([Record("Who?", None, Image.new("RGB", (8, 8)))])
