"""estimate: operations and bytes from shapes are those worked out by hand, or those of the same
model with real tensors.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clear_ref import methods, run
from clear_ref.commands import estimate
from clear_ref.commands.file_settings import EstimateSettings
from clear_ref.data.torch_draws import torch_generator
from clear_ref.model import shapes
from clear_ref.model.base_model import CausalLM
from clear_ref.model.costs import ModelCosts, RecordCosts, model_costs
from clear_ref.model.language import rotary
from clear_ref.model.language_config import language_config

D, MLP, V, L, T = 32, 48, 64, 3, 10
LLAMA = {
    "model_type": "llama",
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": MLP,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LINEAR = (
    D * D * 2 + D * (D // 2) * 2 + 3 * D * MLP
)  # q and o, k and v of half the heads, gate, up, down
PAIRS = D * T * T  # multiply-adds of one product of attention, all heads


@pytest.fixture(autouse=True, scope="module")
def costs_of_a_model_are_computed_once():
    """The command computes the costs of the same few models in each test: ten seconds each."""
    computed = {}

    def once(*arguments):
        key = json.dumps(arguments, default=str, sort_keys=True)
        if key not in computed:
            computed[key] = model_costs(*arguments)
        return computed[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "model_costs", once)
        yield


@pytest.mark.slow
def test_operations_by_hand():
    """A multiply-add is two operations. Forward: each weight once a token, and attention's two
    products of T x T. Training of all weights: forward, gradient of the input and of the
    weights, and attention's five products backward (flash attention recomputes its first).
    Through adapters: no gradient of the weights; rank 1 adds little, of which torch counts what
    it knows.
    """
    found = model_costs(LLAMA, torch.float32, 0, T, 0)
    assert found.text.forward == L * (2 * T * LINEAR + 2 * 2 * PAIRS)
    assert found.text.training == L * (3 * 2 * T * LINEAR + 2 * (2 + 5) * PAIRS)
    adapted = model_costs(LLAMA, torch.float32, 1, T, 0)
    least, most = (
        L * (2 * 2 * T * LINEAR + 2 * 7 * PAIRS),
        L * 2 * 3 * T * (5 * D + 4 * D + 3 * (D + MLP)),
    )
    assert (
        adapted.text.forward == found.text.forward
        and least <= adapted.text.training <= least + most
    )


@pytest.mark.slow
def test_counts_by_hand():
    """Parameters: layers with two norms, embedding, head, last norm; adapters of rank 2: (in + out)
    numbers a rank. Keys and values of half the heads, in bytes.
    """
    found = model_costs(LLAMA, torch.float32, 2, T, 0)
    assert found.parameters == L * (LINEAR + 2 * D) + 2 * V * D + D
    assert found.trained == L * 2 * (2 * 2 * D + 2 * (D + D // 2) + 3 * (D + MLP))
    assert found.cache == 2 * L * (D // 2) * 4 and found.head == 2 * D * V and found.picture is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_what_a_real_forward_keeps(dtype):
    """The same layers with real tensors, through the whole decoder: autograd's hook sees each
    storage once. Above the layers the last norm keeps two tensors of [T, D] in fp32 and its
    factor; within 3 %.
    """
    config = language_config(LLAMA | {"num_hidden_layers": 20}, "config.json", "llama")
    model, kept = CausalLM(config).to(dtype), {}
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    embeddings = (
        torch.randn(1, T, D, generator=torch_generator(0, "kept")).to(dtype).requires_grad_()
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.decoder(embeddings, torch.ones(1, T, dtype=torch.long))
    real = sum(size for _, size in kept.values())
    found = model_costs(LLAMA | {"num_hidden_layers": 20}, dtype, 0, T, 0).text
    shared = 19 * sum(
        part.untyped_storage().nbytes() for part in rotary(torch.arange(T)[None], config, dtype)
    )
    assert found.kept == pytest.approx(real + shared, rel=0.03)
    assert found.kept_checkpointed < found.kept / 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, n_image",
    [("llava-1.5-7b", 576), ("qwen2-vl-2b", 37 * 37), ("qwen2.5-vl-3b", 37 * 37)],
)
def test_a_picture_has_its_tokens(shape, n_image):
    """336 / 14 = 24 squared; 1024 is nearest to 37 times 28. Two blocks of a tower are enough."""
    config = shapes.config_of(shape, 1)
    is_llava = shape.startswith("llava")
    config["vision_config"] |= {"num_hidden_layers": 2} if is_llava else {"depth": 2}
    if shape.startswith("qwen2.5"):
        config["vision_config"] |= {"fullatt_block_indexes": [1]}
    assert model_costs(config, torch.bfloat16, 8, 75, 1024).picture.tokens == 75 + n_image


@pytest.mark.slow
def test_windows_save_the_operations_of_attention_outside_them():
    """Four operations for each pair of patches and each number of their width, here in two blocks.

    37 x 37 tokens are 9 x 9 windows of 4 x 4 tokens (64 patches), 9 + 9 of 4 x 1 at two borders
    and one token in the corner.
    """
    forward = []
    for full_blocks in ([0, 1], []):
        config = shapes.config_of("qwen2.5-vl-3b", 1)
        config["vision_config"] |= {"depth": 2, "fullatt_block_indexes": full_blocks}
        forward.append(model_costs(config, torch.bfloat16, 8, 75, 1024).picture.forward)
    pairs = 81 * 64**2 + 18 * 16**2 + 4**2
    assert forward[0] - forward[1] == 2 * 4 * 1280 * ((74 * 74) ** 2 - pairs)


@pytest.mark.slow
def test_seven_billion_parameters_are_two_operations_each_a_token():
    """LLaVA-1.5-7B: embedding aside (131 M) every parameter is used once a token, 576 of them in
    the tower; within 2 %.
    """
    found = model_costs(shapes.config_of("llava-1.5-7b"), torch.bfloat16, 8, 75, 1024)
    text = 2 * (
        found.parameters - 2 * 32064 * 4096 - 305e6 - 21e6
    )  # without embedding, head, tower and projector
    assert found.parameters == 7_063_427_072
    assert found.picture.forward == pytest.approx(
        text * 651 + 2 * (305e6 + 21e6) * 576 + 4 * 651**2 * 4096 * 32, rel=0.02
    )


def fabricated(picture=True):
    return ModelCosts(
        1000,
        100,
        10,
        7,
        50,
        RecordCosts(75, 1.0, 3.0, 11, 5),
        RecordCosts(651, 10.0, 20.0, 111, 55) if picture else None,
    )


def test_a_method_by_hand():
    """kl forgets 379 pictures and 400 texts: forget trained, retain trained and watched by the
    teacher; 45 answer rows of the head forward and backward, and once more for the teacher.
    Memory: weights in bf16, 100 adapters in fp32 with gradient and two moments; two pictures;
    two or three logits of 45 rows each.
    """
    s = EstimateSettings(tflops=1e-6)
    found = estimate.unlearning(fabricated(), "kl", s)
    forget = (379 * 20 + 400 * 3) / 779
    retain, watched = ((3391 * a + 3600 * b) / 6991 for a, b in ((20, 3), (10, 1)))
    flop = 5 * 779 * (forget + retain + watched + 45 * 7 * (2 + 3))
    assert found["pflop"] == pytest.approx(flop / 1e15) and found["minutes"] == pytest.approx(
        flop / 1e6 / 60
    )
    assert found["memory_gb"] == pytest.approx(
        (1000 * 2 + 100 * 16 + 2 * 111 + 45 * 50 * 2 * 5) / 1e9
    )
    # The teacher's 46 rows from the one before the answer on, of width 7 / (2 x 50), in bf16.
    assert found["teacher_gb"] == pytest.approx(5 * 779 * 46 * 0.07 * 2 / 1e9)
    assert found["checkpointed_gb"] == pytest.approx(found["memory_gb"] - 2 * (111 - 55) / 1e9)


ADAPTERS, WHOLE = {}, {"lora_rank": 0, "dtype": "float32"}


@pytest.mark.parametrize(
    "method, tokens, more, rows",
    [
        # forget: 45 answer rows and their gradient; retain: as many rows, and the teacher's
        ("kl", 1024, ADAPTERS, 2 * 45 + 3 * 1024),
        # fused: 128 rows at a time, with the teacher's
        ("kl", 1025, ADAPTERS, 2 * 45 + 2 * 128),
        # a trained head: 1,024 rows at a time
        ("kl", 1444, WHOLE, 2 * 45 + 3 * 1024),
        # forget and retain in chunks, one at a time; 45 answer rows of retain beside them
        ("scrub", 1444, ADAPTERS, 3 * 45 + 2 * 128),
        ("scrub", 1444, WHOLE, 3 * 45 + 3 * 1024),
        # a function of whole rows is not fused
        ("npo", 1444, ADAPTERS, 3 * 1024),
    ],
)
def test_rows_of_logits_by_hand(method, tokens, more, rows):
    """Under `released`, where these methods read every row. 11 bytes are kept of each text."""
    known = replace(fabricated(picture=False), text=RecordCosts(tokens, 1.0, 3.0, 11, 5))
    s = estimate.EstimateSettings(semantics="released", modality="text", **more)
    parts = estimate.unlearning(known, method, s)["parts"]
    n_batches = 1 if method == "npo" else 2
    itemsize = 4 if more else 2
    assert parts["activations"] == 11 * n_batches + rows * 50 * itemsize
    assert parts["checkpointed"] == 5 * n_batches + rows * 50 * itemsize


def test_npo_alone_reads_whole_rows():
    files = Path(methods.__file__).parent.glob("*.py")
    found = [path.stem for path in files if ".column(" in path.read_text(encoding="utf-8")]
    assert found == list(estimate.WHOLE_ROWS)


def test_the_text_says_which_minutes_are_divided(capsys):
    shared = ("estimate", "llava-78m", "--processes", "4")
    assert run.main([*shared]) == 0
    assert "minutes are those of one process divided by 4, without the time of the exchange\n" in (
        capsys.readouterr().out
    )
    assert run.main([*shared, "--shard", "on"]) == 0
    assert "exchange; evaluate's are not: each computes all of it\n" in capsys.readouterr().out
    assert run.main([*shared[:2]]) == 0
    assert "divided" not in capsys.readouterr().out


def test_full_fine_tuning_by_hand():
    """All 1000 weights in fp32 with gradient and two moments: 16 bytes each; kl's teacher is a
    copy, 4 bytes each.
    """
    known, s = (
        ModelCosts(1000, 1000, 10, 7, 50, RecordCosts(75, 1.0, 3.0, 11, 5), None),
        EstimateSettings(lora_rank=0, dtype="float32", modality="text"),
    )
    assert estimate.finetuning(known, s)["memory_gb"] == pytest.approx((16 * 1000 + 11) / 1e9)
    assert estimate.unlearning(known, "kl", s)["memory_gb"] == pytest.approx(
        (20 * 1000 + 2 * 11 + 45 * 50 * 4 * 5) / 1e9
    )


def sharable():
    """As `fabricated`, with 800 of its 1000 numbers in 4 layers."""
    return replace(fabricated(), in_layers=800, n_layers=4)


def test_ddp_has_all_weights_and_a_second_copy_of_the_gradients():
    """bf16: 1000 weights; 100 adapters in fp32, their gradients twice, two moments."""
    s = EstimateSettings(processes=4)
    parts = estimate.unlearning(sharable(), "kl", s)["parts"]
    assert parts["weights"] == 1000 * 2 + 100 * 4
    assert (parts["gradients"], parts["moments"], parts["teacher"]) == (400, 800, 0)
    assert parts["gathered"] == 400
    assert parts["activations"] == 2 * 111 + 45 * 50 * 2 * 5
    assert parts["checkpointed"] == 2 * 55 + 45 * 50 * 2 * 5


def test_shared_out_frozen_weights_by_hand():
    """A fourth of 800, and 200; a layer of 200 numbers is held twice when it is collected.

    All processes evaluate each record together, so the evaluation takes as long as in one.
    """
    s = EstimateSettings(processes=4, shard="on")
    parts = estimate.unlearning(sharable(), "kl", s)["parts"]
    assert parts["weights"] == (200 + 200) * 2 + 100 * 4
    assert (parts["gradients"], parts["moments"], parts["teacher"]) == (400, 800, 0)
    assert parts["gathered"] == 400 + 2 * 200 * 2
    found = estimate.evaluating(sharable(), s)
    assert found["parts"]["weights"] == (200 + 200) * 2
    assert found["parts"]["gathered"] == 2 * 200 * 2
    whole = estimate.evaluating(sharable(), EstimateSettings())
    assert found["minutes"] == whole["minutes"]
    alone = EstimateSettings(processes=4)
    assert estimate.evaluating(sharable(), alone)["minutes"] * 4 == pytest.approx(found["minutes"])
    assert estimate.finetuning(sharable(), s)["parts"]["weights"] == 1000 * 2 + 100 * 4


def test_full_fine_tuning_is_shared_out_by_hand():
    """fp32, a fourth of everything; the teacher's 800 in layers too, its 200 others are whole.

    Gathered: 200 others and their gradients, and seven times a layer of 200.
    """
    known = replace(sharable(), trained=1000)
    s = EstimateSettings(processes=4, lora_rank=0, dtype="float32")
    parts = estimate.unlearning(known, "kl", s)["parts"]
    assert (parts["weights"], parts["gradients"], parts["moments"]) == (1000, 1000, 2000)
    assert parts["teacher"] == (200 + 200) * 4
    assert parts["gathered"] == (2 * 200 + 7 * 200) * 4


@pytest.mark.slow
def test_the_parts_add_up_and_are_shown(capsys):
    assert run.main(["estimate", "llava-78m", "--processes", "2", "--json"]) == 0
    for each in json.loads(capsys.readouterr().out)["runs"]:
        fixed = sum(size for name, size in each["parts"].items() if name != "checkpointed")
        assert fixed / 1e9 == pytest.approx(each["memory_gb"])
    assert run.main(["estimate", "llava-78m", "--processes", "2"]) == 0
    assert "GB of one of 2 processes (whole in each):" in capsys.readouterr().out


def test_evaluation_by_hand():
    """Text alone, forget10 and retain: 400 + 400 questions, each its prompt of 30 tokens, 7
    candidates of 45 and 64 generated; the weights are read for each of 64 tokens of every 8
    records.
    """
    s = EstimateSettings(modality="text", tflops=1e-6, gb_per_s=1e-6)
    found = estimate.evaluating(fabricated(picture=False), s)
    per_token = 1.0 / 75
    flop = 800 * (1.0 - 45 * per_token + (7 * 45 + 64) * (per_token + 7))
    assert found["pflop"] == pytest.approx(flop / 1e15)
    assert found["minutes"] == pytest.approx((flop / 1e6 + 100 * 64 * 2000 / 1e3) / 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, message",
    [
        ("llava", "shape is 'llava'; expected one of llava-78m"),
        ("llama-2-7b", "llama-2-7b sees no pictures; expected --modality text"),
        ("llava-78m --lora-rank 0", "small steps are lost in bfloat16"),
        ("llava-78m --tflops 0", "--tflops is 0.0"),
        ("llava-78m --processes 0", "--processes is 0"),
        ("llava-78m --shard some", "shard is 'some'"),
        ("llava-78m --modality taste", "modality is 'taste'"),
        ("llava-78m --semantics mine", "semantics is 'mine'"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert run.main(["estimate", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_of_the_papers_tables_shows_what_the_command_prints(capsys):
    """Every estimate on the page is the command's own output."""
    page = Path(__file__).parents[2] / "clear_ref/commands/reproducing.md"
    text = page.read_text(encoding="utf-8")
    shown = re.findall(
        r"\$ python -m clear_ref.run (estimate [^\n]*)\n```\n```text\n(.*?)```", text, re.S
    )
    assert shown, "the page shows no estimate"
    for command, output in shown:
        assert run.main(command.split()) == 0
        assert capsys.readouterr().out == output
    assert run.main(["estimate", "llava-78m", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 13


@pytest.mark.parametrize(
    "more, said", [((), True), (("--lora-rank", "0", "--dtype", "float32"), False)]
)
def test_the_line_of_finetune_is_said_to_be_of_whole_weights(more, said, capsys):
    """With adapters it refuses --shard on; without them every weight is shared out."""
    shared = ("--processes", "2", "--shard", "on")
    assert run.main(["estimate", "llava-1.5-7b", *shared, *more]) == 0
    assert ("finetune with adapters refuses --shard on" in capsys.readouterr().out) == said
