"""What training leaves out changes nothing: outputs of the last layer that nobody reads, and tensors that backward can do without.

A forward that is asked for its last positions alone gives what a whole one has there, and its last layer computes nothing else: in
float64, with random weights, within 1e-12 (gradients 1e-11), for the same sums are in matrix products of other sizes.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clear_ref.common.errors import ShapeError
from clear_ref.data.batches import IGNORE
from clear_ref.data.draws import torch_generator
from clear_ref.data.records import Record
from clear_ref.loop import prefix
from clear_ref.loop.stage import Stage
from clear_ref.loop.step import all_batch_rows, first_row, rows_of
from clear_ref.methods import Need
from clear_ref.mini.directories import BASE, WORLD
from clear_ref.model.base_model import CausalLM
from clear_ref.model.language import Decoder, SwiGLU
from clear_ref.model.language_config import language_config
from clear_ref.model.qwen2_vl import Qwen2VL, Qwen2VLConfig
from clear_ref.model.vision import QuickGelu
from clear_ref.model.vlm import load
from tests.helpers.small_decoders import DECODERS, TEXT, drawn, text_prompts
from tests.model.test_qwen2_vl import CONFIG, IMAGE, pixels


def made(name) -> tuple:
    """(a model of that kind, its arguments); every batch has padding, pictures where the model sees them."""
    if name == "qwen2_vl":
        ids = torch.tensor([[1, *[IMAGE] * 6, 2, 3], [0, 0, 0, 0, 5, 6, *[IMAGE] * 3]])
        return drawn(Qwen2VL(Qwen2VLConfig.from_json(CONFIG, "config.json"))).model, (
            ids,
            (ids != 0).long(),
            *pixels((4, 6), (6, 2)),
        )
    kind, more = DECODERS[name]
    batch = text_prompts()
    return drawn(CausalLM(language_config(TEXT | more, "config.json", kind))).model, (
        batch.input_ids,
        batch.attention_mask,
    )


def read(model, arguments, start, which, layer=None):
    """[B, positions `which`, D] of a forward from `start` on, and the gradients of its squares' sum."""
    found = model.hidden(*arguments, layer=layer, start=start)
    assert found.shape[1] == arguments[0].shape[1] - start
    read = found[:, [position - start for position in which]]
    weights = torch.linspace(1, 2, read[0].numel(), dtype=torch.float64).view_as(read[0])
    return read.detach(), torch.autograd.grad(
        (weights * read.square()).sum(), list(model.parameters()), allow_unused=True
    )


@pytest.mark.parametrize("layer", [None, 0])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", [*DECODERS, "qwen2_vl"])
def test_values_and_gradients_are_those_of_a_whole_forward(name, checkpointed, layer):
    model, arguments = made(name)
    model.requires_grad_(True)
    model.decoder.checkpointing = checkpointed
    T = arguments[0].shape[1]
    for first in (1, T // 2, T - 1):
        which = list(range(first, T))
        whole, expected = read(model, arguments, 0, which, layer)
        for start in (1, first):
            found, gradients = read(model, arguments, start, which, layer)
            assert torch.allclose(found, whole, rtol=0, atol=1e-12)
            for one, other in zip(gradients, expected, strict=True):
                assert (one is None) == (other is None)
                assert one is None or torch.allclose(one, other, rtol=1e-10, atol=1e-11)


def test_without_padding_too():
    """Where attention takes no mask otherwise."""
    model, _ = made("llama")
    ids = torch.arange(1, 8)[None]
    whole = model.hidden(ids, torch.ones_like(ids))
    assert torch.allclose(
        model.hidden(ids, torch.ones_like(ids), start=3), whole[:, 3:], rtol=0, atol=1e-12
    )


def test_behind_a_cache():
    """Positions count from the first new one."""
    model, (ids, mask) = made("mistral, window 4")
    decoder: Decoder = model.decoder
    embeddings = decoder.embed_tokens(ids)
    _, past = decoder(embeddings[:, :3], mask[:, :3])
    whole = decoder(embeddings[:, 3:], mask, past=past)[0]
    assert torch.allclose(
        decoder(embeddings[:, 3:], mask, past=past, start=2)[0], whole[:, 2:], rtol=0, atol=1e-12
    )


def test_the_last_layer_computes_no_more_than_that():
    """Rows that enter the products of each layer: all of them, but from the last layer's queries on only those asked for; its
    keys and values are of every position."""
    model, arguments = made("llama")
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
    """Two records padded by 2 and by 1; the first label stands at 4 and is predicted at 3. Hidden states are read whole."""
    labels = torch.tensor([[IGNORE] * 5 + [7], [IGNORE] * 4 + [8, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    assert first_row(SimpleNamespace(labels=labels, attention_mask=mask), need) == expected


def test_a_batch_without_labels_is_read_from_its_start():
    batch = SimpleNamespace(
        labels=torch.full((1, 4), IGNORE), attention_mask=torch.ones(1, 4, dtype=torch.long)
    )
    assert first_row(batch, Need()) == 0


def views(vlm, mask):
    """Two views of one record with a picture: its answer and a refusal, a batch each."""
    image = next(iter(sorted(WORLD.rglob("*.png"))))
    return {
        name: vlm.encode([Record("Who is this?", answer, image)], mask)
        for name, answer in (("forget", "Hina Ameen."), ("idk", "I can not say who that is."))
    }


@pytest.mark.parametrize(
    "mask, rows, together",
    [
        ("answer", ("answer", "answer"), True),
        ("answer", ("answer", "attention"), True),
        ("released", ("answer", "answer"), False),
    ],
)
def test_training_computes_the_rows_that_its_needs_name(mask, rows, together):
    """A training step's rows are those of whole forwards. In the last layer's output product stand the last position of the shared
    prompt and each answer; all of the prompt where a view needs it; with labels that begin inside the picture, which is never cut,
    each view from before its first label on."""
    vlm, seen = load(BASE, "float64"), []
    batches, needs = (
        views(vlm, mask),
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
    """Not the one that stands at a negative index."""
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
