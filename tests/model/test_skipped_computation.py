"""Skipped computation changes no result.

Training does not compute the last layer's output at positions that no loss reads, and does not keep
tensors that backward can compute again. A forward from a later start position equals a whole
forward at these positions, in float64 with random weights, within 1e-12 (gradients 1e-11): the same
sums are part of matrix products of other sizes.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clear_ref.common.errors import ShapeError
from clear_ref.data.batches import IGNORE
from clear_ref.data.records import Record
from clear_ref.data.torch_draws import torch_generator
from clear_ref.loop import prefix
from clear_ref.loop.batch_rows import all_batch_rows, first_row, rows_of
from clear_ref.loop.stage import Stage
from clear_ref.methods import Need
from clear_ref.mini.directories import BASE, WORLD
from clear_ref.model.base_model import CausalLM
from clear_ref.model.families import FAMILIES
from clear_ref.model.generate import prefill
from clear_ref.model.language import Decoder, SwiGLU
from clear_ref.model.language_config import language_config
from clear_ref.model.vision import QuickGelu
from clear_ref.model.vlm import load
from tests.helpers.small_decoders import DECODERS, TEXT, drawn, text_prompts
from tests.helpers.small_qwen2_vl import (
    IMAGE_TOKEN,
    QWEN2_5_VL_CONFIG,
    QWEN2_VL_CONFIG,
    noise_patches,
)

VLMS = {"qwen2_vl": QWEN2_VL_CONFIG, "qwen2_5_vl": QWEN2_5_VL_CONFIG}


def random_model(name) -> tuple:
    """(a model of that kind, its arguments). Every batch has padding, and pictures for a VLM."""
    if name in VLMS:
        ids = torch.tensor([[1, *[IMAGE_TOKEN] * 6, 2, 3], [0, 0, 0, 0, 5, 6, *[IMAGE_TOKEN] * 3]])
        kind = FAMILIES[name]
        return drawn(kind.model(kind.config(VLMS[name], "config.json"))).model, (
            ids,
            (ids != 0).long(),
            *noise_patches((4, 6), (6, 2)),
        )
    kind, more = DECODERS[name]
    batch = text_prompts()
    return drawn(CausalLM(language_config(TEXT | more, "config.json", kind))).model, (
        batch.input_ids,
        batch.attention_mask,
    )


def states_and_gradients(model, arguments, start, positions, layer=None):
    """Hidden states [B, positions, D] of a forward from `start` on, and gradients.

    The gradients are those of a weighted sum of squares.
    """
    hidden = model.hidden(*arguments, layer=layer, start=start)
    assert hidden.shape[1] == arguments[0].shape[1] - start
    states = hidden[:, [position - start for position in positions]]
    weights = torch.linspace(1, 2, states[0].numel(), dtype=torch.float64).view_as(states[0])
    gradients = torch.autograd.grad(
        (weights * states.square()).sum(), list(model.parameters()), allow_unused=True
    )
    return states.detach(), gradients


@pytest.mark.slow
@pytest.mark.parametrize("layer", [None, 0])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", [*DECODERS, *VLMS])
def test_values_and_gradients_are_those_of_a_whole_forward(name, checkpointed, layer):
    model, arguments = random_model(name)
    model.requires_grad_(True)
    model.decoder.checkpointing = checkpointed
    T = arguments[0].shape[1]
    for first in (1, T // 2, T - 1):
        which = list(range(first, T))
        whole, expected = states_and_gradients(model, arguments, 0, which, layer)
        for start in (1, first):
            found, gradients = states_and_gradients(model, arguments, start, which, layer)
            assert torch.allclose(found, whole, rtol=0, atol=1e-12)
            for one, other in zip(gradients, expected, strict=True):
                assert (one is None) == (other is None)
                assert one is None or torch.allclose(one, other, rtol=1e-10, atol=1e-11)


def test_a_later_start_without_padding():
    """Without padding, attention has no mask when the forward starts at 0."""
    model, _ = random_model("llama")
    ids = torch.arange(1, 8)[None]
    whole = model.hidden(ids, torch.ones_like(ids))
    assert torch.allclose(
        model.hidden(ids, torch.ones_like(ids), start=3), whole[:, 3:], rtol=0, atol=1e-12
    )


def test_a_later_start_after_a_cache():
    """The start counts from the first new position, not from the first cached one."""
    model, (ids, mask) = random_model("mistral, window 4")
    decoder: Decoder = model.decoder
    embeddings = decoder.embed_tokens(ids)
    _, past = decoder(embeddings[:, :3], mask[:, :3])
    whole = decoder(embeddings[:, 3:], mask, past=past)[0]
    assert torch.allclose(
        decoder(embeddings[:, 3:], mask, past=past, start=2)[0], whole[:, 2:], rtol=0, atol=1e-12
    )


def test_the_last_layer_computes_only_the_requested_positions():
    """Positions that enter the matrix products of each layer.

    All positions in the first layer; in the last layer all for keys and values, and only the
    requested ones for everything else.
    """
    model, arguments = random_model("llama")
    rows = {}
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(
                lambda _, given, name=name: rows.update({name: given[0].shape[1]})
            )
    model.hidden(*arguments, start=5)
    for layer, expected in (("0", 7), ("1", 2)):
        assert {
            rows[f"model.layers.{layer}.{part}"]
            for part in (
                "self_attn.q_proj",
                "self_attn.o_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            )
        } == {expected}
        assert (
            rows[f"model.layers.{layer}.self_attn.k_proj"]
            == rows[f"model.layers.{layer}.self_attn.v_proj"]
            == 7
        )


@pytest.mark.parametrize(
    "need, expected",
    [
        (Need(("answer",)), 3),
        (Need(("attention",)), 1),
        (Need(("all",)), 0),
        (Need(("answer", "attention")), 1),
        (Need(("answer",), hidden=True), 0),
    ],
)
def test_the_first_position_that_is_read(need, expected):
    """Two records padded by 2 and by 1. The first label is at 4 and is predicted at 3.

    Hidden states are read at every position.
    """
    labels = torch.tensor([[IGNORE] * 5 + [7], [IGNORE] * 4 + [8, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    assert first_row(SimpleNamespace(labels=labels, attention_mask=mask), need) == expected


def test_a_batch_without_labels_is_read_from_its_start():
    batch = SimpleNamespace(
        labels=torch.full((1, 4), IGNORE), attention_mask=torch.ones(1, 4, dtype=torch.long)
    )
    assert first_row(batch, Need()) == 0


def two_batches(vlm, mask):
    """One record with a picture, as a batch with its answer and a batch with a refusal."""
    image = next(iter(sorted(WORLD.rglob("*.png"))))
    return {
        name: vlm.encode([Record("Who is this?", answer, image)], mask)
        for name, answer in (("forget", "Hina Ameen."), ("idk", "I can not say who that is."))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask, rows, together",
    [
        ("answer", ("answer", "answer"), True),
        ("answer", ("answer", "attention"), True),
        ("released", ("answer", "answer"), False),
    ],
)
def test_training_computes_the_rows_that_its_needs_name(mask, rows, together):
    """A training step's rows are those of whole forwards, and the last layer computes no others.

    Its output product has the last position of the shared prompt and each answer; the whole prompt
    if a batch needs it. If labels begin inside the picture, which is always computed whole, each
    batch is computed from the position before its first label on.
    """
    vlm, seen = load(BASE, "float64"), []
    batches, needs = (
        two_batches(vlm, mask),
        {name: Need((row_set,)) for name, row_set in zip(("forget", "idk"), rows, strict=True)},
    )
    assert len(prefix.groups(vlm, batches, dict.fromkeys(batches))) == (1 if together else 2)
    whole = {name: vlm.head(vlm.hidden(batch)) for name, batch in batches.items()}
    vlm.model.decoder.layers[-1].self_attn.o_proj.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].shape[1])
    )
    found = all_batch_rows(
        vlm, batches, Stage("llmu", needs, None), None, 1, {name: {} for name in batches}
    )
    lengths = {name: batch.input_ids.shape[1] for name, batch in batches.items()}
    firsts = {
        name: int((batch.labels[0] != IGNORE).nonzero()[0]) for name, batch in batches.items()
    }
    if together:
        n = firsts["forget"]
        assert seen == [n if "attention" in rows else 1, *(lengths[name] - n for name in batches)]
    else:
        assert all(
            bool((batches[name].input_ids[0, first:] == vlm.model.image_token_id).any())
            for name, first in firsts.items()
        )
        assert seen == [lengths[name] - first + 1 for name, first in firsts.items()]
    for name, batch in batches.items():
        picked = batch.labels[0, 1:] != IGNORE
        expected = F.cross_entropy(
            whole[name][0, :-1][picked], batch.labels[0, 1:][picked], reduction="none"
        )
        assert torch.allclose(found[name].terms("answer").nll, expected, rtol=0, atol=1e-11)


def test_a_row_that_is_not_computed_is_an_error():
    """A negative index would silently read another row."""
    logits = rows_of(
        SimpleNamespace(head=lambda hidden: hidden), torch.arange(6.0).view(1, 3, 2), 4
    )
    zero = torch.zeros(2, dtype=torch.long)
    assert logits(zero, torch.tensor([4, 6])).tolist() == [[0.0, 1.0], [4.0, 5.0]]
    with pytest.raises(
        ShapeError, match="row 3 of the logits is read, and those from 4 on are computed"
    ):
        logits(zero, torch.tensor([6, 3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quick_gelu_has_the_bits_of_its_formula(dtype):
    """x sigmoid(1.702 x), as transformers computes it."""
    x = torch.cat((torch.linspace(-30, 30, 4001), torch.tensor([0.0, -0.0, 1e30, -1e30]))).to(dtype)
    assert torch.equal(QuickGelu.apply(x), x * torch.sigmoid(1.702 * x))


def test_quick_gelus_gradient():
    """Finite differences in float64; and by hand at 0, where it is 1/2."""
    x = torch.linspace(-9, 9, 41, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(QuickGelu.apply, (x,), atol=1e-8)
    at = torch.zeros(1, requires_grad=True)
    QuickGelu.apply(at).backward()
    assert float(at.grad) == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_has_the_bits_of_its_formula(dtype):
    """Value and both gradients, as autograd takes them of silu(gate) * up."""
    gate, up = (
        torch.randn(3, 40, generator=torch_generator(0, name)).mul(4).to(dtype).requires_grad_()
        for name in ("gate", "up")
    )
    whole = F.silu(gate) * up
    grad = torch.linspace(-2, 2, whole.numel()).view_as(whole).to(dtype)
    found = SwiGLU.apply(gate, up)
    assert torch.equal(found, whole)
    for one, other in zip(
        torch.autograd.grad(found, (gate, up), grad),
        torch.autograd.grad(whole, (gate, up), grad),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_swiglu_keeps_two_tensors():
    """Of 4 bytes a number each: gate and up themselves."""
    kept = []
    gate, up = (torch.ones(5, 7, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor
    ):
        SwiGLU.apply(gate, up)
    assert sorted(kept) == sorted([gate.data_ptr(), up.data_ptr()])


def test_generation_computes_the_last_layer_at_the_last_position_alone(tiny, monkeypatch):
    """The same keys, values and ids as after a whole forward of the prompts, one of them padded."""
    prompts = [Record("Who is this?"), Record("Where does the person in the picture work?")]
    batch = tiny.encode(prompts)
    whole, last = prefill(tiny.model, batch), prefill(tiny.model, batch, last_only=True)
    assert last.hidden.shape[1] == 1 < whole.hidden.shape[1]
    assert (last.hidden - whole.hidden[:, -1:]).abs().max() <= 1e-12
    for ours, expected in zip(last.past, whole.past, strict=True):
        assert ours.keys.equal(expected.keys) and ours.values.equal(expected.values)
    widths = []
    mlp = tiny.model.decoder.layers[-1].mlp
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: widths.append(x.shape[1]) or forward(x))
    ids = tiny.generate_ids(batch, 4)
    assert set(widths) == {1}
    assert ids.equal(tiny.generate_ids(batch, 4, whole))
