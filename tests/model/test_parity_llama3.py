"""Llama-3.1 and 3.2 equal transformers: rope_type llama3, tied and own heads, their chat template,
several end tokens, adapters; in the hub's layout of config.json and in that of transformers 5.

These tests need the extra `parity`. Small random checkpoints. Tolerances as in test_parity.py:
5e-5 on fp32 logits and hidden states, 1e-4 relative on gradients.
"""

import json

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors

from clear_ref import Record, load
from clear_ref.data.torch_draws import torch_generator
from clear_ref.model.shape_table import LLAMA_3_TOKENS
from tests.helpers.peft_files import randomise
from tests.helpers.text_parity import check_loss_and_gradients

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
ATOL = 5e-5
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
SPECIAL += ("<|eom_id|>", "<|eot_id|>")
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 1024,
    "bos_token_id": 256,
    "eos_token_id": [257, 260, 261],
    "rope_theta": 500000.0,
}
# Some frequencies of a head of 16 or 32 numbers are kept, some are between, the others are
# divided.
ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
# {name: what differs from SIZES; "head_dim" as the hub's 1B and 3B have it}
MODELS = {
    "3.1": {"rope_scaling": ROPE, "tie_word_embeddings": False},
    "3.2": {
        "rope_scaling": ROPE | {"factor": 32.0, "original_max_position_embeddings": 16},
        "tie_word_embeddings": True,
        "head_dim": 32,
    },
}
RECORDS = [
    Record("Who wrote it?", "Hina Ameen."),
    Record("  Where was the author of these books born, and when did she leave? ", "There."),
    Record("Why?", "Because the rain had stopped by then, and nobody minded the wind."),
]


def write_tokenizer(directory):
    """Every byte is a token; the special tokens follow."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*letters, *SPECIAL])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(w, normalized=False) for w in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 256)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": SPECIAL[0], "eos_token": "<|eot_id|>"}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(LLAMA_3_TOKENS.template)


def write_checkpoint(directory, values, layout):
    """The files of a small model; the weights are seeded and have a scale of fan-in."""
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES, **values}
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(directory), dtype=torch.float32
    )
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=torch_generator(11, name))
            tensor.copy_(
                1 + 0.3 * noise
                if name.endswith("norm.weight")
                else noise * 1.5 * tensor.shape[-1] ** -0.5
            )
    model.save_pretrained(directory)
    if layout == "hub":
        (directory / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
        (directory / "generation_config.json").write_text(
            json.dumps({"bos_token_id": 256, "do_sample": True, "eos_token_id": [257, 260, 261]})
        )
    else:
        written = json.loads((directory / "config.json").read_text())
        assert written["rope_parameters"]["rope_type"] == "llama3" and "rope_theta" not in written
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request, tmp_path_factory):
    """Our model and transformers' (eager attention, fp32); the hub's layout of config.json."""
    values = MODELS[request.param]
    directory = write_checkpoint(tmp_path_factory.mktemp("llama") / "m", values, "hub")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return load(directory), theirs


@pytest.mark.slow
def test_hidden_states_of_every_layer_and_logits_are_those_of_transformers(pair):
    ours, theirs = pair
    batch = ours.encode(RECORDS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        expected = theirs(batch.input_ids, batch.attention_mask, output_hidden_states=True)
        for layer in range(ours.text_config.num_hidden_layers - 1):
            found = ours.hidden(batch, layer)
            assert float((found - expected.hidden_states[layer + 1])[real].abs().max()) < ATOL
        found = ours.forward(batch.input_ids, batch.attention_mask)
    assert float((found - expected.logits)[real].abs().max()) < ATOL


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_layout_of_transformers_5_is_the_same_model(tmp_path, name):
    models = [load(write_checkpoint(tmp_path / kind, MODELS[name], kind)) for kind in ("hub", "5")]
    hub, saved = models
    assert hub.text_config == saved.text_config
    assert all(torch.equal(tensor, saved.weights()[name]) for name, tensor in hub.weights().items())
    batch = hub.encode(RECORDS)
    assert torch.equal(*(each.forward(batch.input_ids, batch.attention_mask) for each in models))


@pytest.mark.slow
def test_the_scaling_of_the_frequencies_matters(pair, tmp_path):
    """Without it the logits move by far more than the tolerance."""
    ours, theirs = pair
    config = json.loads((ours.directory / "config.json").read_text())
    for key in ("rope_scaling", "rope_parameters"):
        config.pop(key, None)
    for path in ours.directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 500000.0}))
    batch = ours.encode(RECORDS)
    with torch.no_grad():
        expected = theirs(batch.input_ids, batch.attention_mask).logits
        found = load(tmp_path).forward(batch.input_ids, batch.attention_mask)
    assert float((found - expected)[batch.attention_mask.bool()].abs().max()) > 0.1


@pytest.mark.slow
def test_in_bf16_logits_stay_within_the_references_own_spread(pair):
    """Not further from fp32 math than 1.5 times transformers' bf16."""
    narrow = load(pair[0].directory, "bfloat16")
    batch = narrow.encode(RECORDS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        exact = pair[0].forward(batch.input_ids, batch.attention_mask)[real]
        found = narrow.forward(batch.input_ids, batch.attention_mask)[real]
        other = transformers.AutoModelForCausalLM.from_pretrained(
            narrow.directory, dtype=torch.bfloat16
        )
        other = other.eval()(batch.input_ids, batch.attention_mask).logits[real].float()
    assert float((found - other).abs().max()) < 0.35 and float((found - other).abs().mean()) < 0.03
    assert float((found - exact).abs().mean()) < 1.5 * float((other - exact).abs().mean())


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_transformers(pair):
    check_loss_and_gradients(*pair, RECORDS)


@pytest.mark.slow
def test_ids_are_those_of_the_chat_template(pair):
    """Its system turn, blanks removed at the ends of a text, one BOS."""
    ours, _ = pair
    tokenizer = transformers.AutoTokenizer.from_pretrained(ours.directory)
    assert ours.template.name == "llama-3.1"
    for record in RECORDS:
        turns = [{"role": "user", "content": record.question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert ours.encode([Record(record.question)]).input_ids[0].tolist() == prompt
        turns.append({"role": "assistant", "content": record.answer})
        whole = tokenizer.apply_chat_template(turns)["input_ids"]
        assert ours.encode([record]).input_ids[0].tolist() == whole


@pytest.mark.slow
def test_greedy_text_ends_at_any_of_several_end_tokens(pair, tmp_path):
    """Two ends are tokens of the free text of two rows: rows stop at different ones."""
    ours, theirs = pair
    batch = ours.encode([Record(record.question) for record in RECORDS])
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    length = batch.input_ids.shape[1]
    settings = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 299}
    free = theirs.generate(**inputs, **settings, eos_token_id=298)[:, length:].tolist()
    ends = [261] + [
        next(number for number in free[row] if number not in free[other])
        for row, other in ((0, 1), (1, 0))
    ]
    for path in ours.directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    generation = {"bos_token_id": 256, "eos_token_id": ends, "do_sample": False}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    expected = theirs.generate(**inputs, **settings, eos_token_id=ends)[:, length:].tolist()
    again = load(tmp_path)
    found = again.generate_ids(batch, 20).tolist()
    tokenizer = transformers.AutoTokenizer.from_pretrained(ours.directory)
    texts = again.generate(batch, 20)
    stops = set()
    for row, reference, text in zip(found, expected, texts, strict=True):
        reference = [number for number in reference if number != 299]
        assert row[: len(reference)] == reference
        assert text == tokenizer.decode(reference, skip_special_tokens=True).strip()
        stops.add(reference[-1])
    assert len(stops & set(ends)) >= 2


@pytest.mark.slow
def test_adapters_give_pefts_logits_both_ways(pair, tmp_path):
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    ours, theirs = load(pair[0].directory), pair[1]
    base = transformers.AutoModelForCausalLM.from_pretrained(
        ours.directory, dtype=torch.float32, attn_implementation="eager"
    )
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 2]
    )
    model = peft.get_peft_model(base, config).eval()
    randomise(parameter for name, parameter in model.named_parameters() if "lora_" in name)
    model.save_pretrained(tmp_path / "theirs")
    batch = ours.encode(RECORDS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        plain = theirs(batch.input_ids, batch.attention_mask).logits
        expected = model(batch.input_ids, attention_mask=batch.attention_mask).logits
        assert len(ours.load_adapter(tmp_path / "theirs")) == 4
        found = ours.forward(batch.input_ids, batch.attention_mask)
    assert float((found - expected)[real].abs().max()) < ATOL
    assert float((plain - expected)[real].abs().max()) > 0.1
    ours.save_adapter(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(ours.directory, dtype=torch.float32),
        tmp_path / "ours",
    ).eval()
    with torch.no_grad():
        back = again(batch.input_ids, attention_mask=batch.attention_mask).logits
    assert float((back - expected)[real].abs().max()) < ATOL


@pytest.mark.slow
def test_what_we_save_transformers_loads_unchanged(pair, tmp_path):
    ours, theirs = pair
    ours.save(tmp_path / "saved")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.rope_parameters == theirs.config.rope_parameters
    state = again.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    assert torch.equal(again.model.rotary_emb.inv_freq, theirs.model.rotary_emb.inv_freq)
