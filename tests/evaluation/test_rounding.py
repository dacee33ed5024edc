"""Rounded weights: values by hand and by numpy, bounds, the model restored."""

import numpy as np
import pytest
import torch

from clear_ref import load
from clear_ref.common.errors import UserError
from clear_ref.evaluation.rounding import rounded, rounded_layers
from clear_ref.model import lora
from tests.helpers.model_state import same, state, write_text_model


@pytest.fixture(scope="module")
def text_directory(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("models") / "text")


def by_numpy(weight, bits, group):
    """Entry by entry in float64: the nearest multiple of max |w| / (2^(bits-1) - 1) of its row and
    group, ties to even."""
    found = np.zeros_like(weight, dtype=np.float64)
    for i in range(weight.shape[0]):
        for first in range(0, weight.shape[1], group or weight.shape[1]):
            part = slice(first, first + (group or weight.shape[1]))
            scale = max(abs(float(value)) for value in weight[i, part]) / (2 ** (bits - 1) - 1)
            for j in range(*part.indices(weight.shape[1])):
                found[i, j] = scale * round(float(weight[i, j]) / scale) if scale else 0.0
    return found


class TestRounding:
    def test_a_row_by_hand(self):
        """4 bits: scale 1/7. 0.26 x 7 = 1.82 -> 2; -0.5 x 7 = -3.5 -> -4, the even one.

        8 bits: 0.26 x 127 = 33.02 -> 33.
        """
        row = torch.tensor([[1.0, -0.5, 0.26]], dtype=torch.float64)
        assert torch.allclose(
            rounded(row, 4), torch.tensor([[7, -4, 2]], dtype=torch.float64) / 7, rtol=1e-15, atol=0
        )
        assert torch.allclose(
            rounded(row, 8),
            torch.tensor([[127, -64, 33]], dtype=torch.float64) / 127,
            rtol=1e-15,
            atol=0,
        )

    def test_groups_by_hand(self):
        """Groups of two columns, the last of one: scales 1, 2 and 0.5 of 3 bits (three steps on
        each side); the other row has its own scales."""
        weight = torch.tensor(
            [[3.0, 1.4, 6.0, -2.9, 1.5], [0.3, 0.14, 0.0, 0.0, -9.0]], dtype=torch.float64
        )
        expected = torch.tensor(
            [[3.0, 1.0, 6.0, -2.0, 1.5], [0.3, 0.1, 0.0, 0.0, -9.0]], dtype=torch.float64
        )
        assert torch.allclose(rounded(weight, 3, 2), expected, rtol=1e-14, atol=0)
        whole = rounded(weight, 3)[
            0
        ]  # one scale of 2: 1.4 -> 2 (0.7 of a step), 1.5 -> 2, 3 -> 1.5 steps, to the even 2
        assert torch.allclose(
            whole, torch.tensor([4.0, 2.0, 6.0, -2.0, 2.0], dtype=torch.float64), rtol=1e-14, atol=0
        )

    @pytest.mark.parametrize(
        "bits, group, shape",
        [(8, 0, (5, 37)), (4, 16, (7, 40)), (4, 128, (3, 160)), (4, 128, (4, 24)), (2, 3, (6, 10))],
    )
    def test_numpy_entry_by_entry_finds_the_same(self, bits, group, shape):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        assert np.allclose(
            rounded(weight, bits, group).numpy(),
            by_numpy(weight.numpy(), bits, group),
            rtol=1e-13,
            atol=0,
        )

    @pytest.mark.parametrize("bits, group", [(8, 0), (4, 16)])
    def test_an_entry_moves_by_half_a_scale_at_most_and_zeros_stay(self, bits, group):
        weight = torch.randn((9, 50), generator=torch.Generator().manual_seed(4))
        weight[2], weight[3, :16], weight[4, 5] = 0.0, 0.0, 0.0
        found, width = rounded(weight, bits, group), group or 50
        for first in range(0, 50, width):
            part = weight[:, first : first + width]
            scale = part.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            assert (
                (found[:, first : first + width] - part).abs() <= scale / 2 + 1e-6 * part.abs()
            ).all()
        assert (
            (found[2] == 0).all()
            and (found[3, :16] == 0).all()
            and found[4, 5] == 0
            and found.isfinite().all()
        )

    def test_rounding_again_changes_nothing(self):
        """But for the last bit of the scale: 7 (s / 7) is not always s."""
        weight = torch.randn((8, 64), generator=torch.Generator().manual_seed(5))
        once = rounded(weight, 4, 32)
        assert torch.allclose(rounded(once, 4, 32), once, rtol=1e-6, atol=0) and not torch.equal(
            once, weight
        )
        assert max(len(row.unique()) for row in once) <= 2 * 15

    def test_fewer_bits_move_more(self):
        weight = torch.randn((8, 64), generator=torch.Generator().manual_seed(6))
        errors = [float((rounded(weight, bits, 32) - weight).norm()) for bits in (2, 3, 4, 6, 8)]
        assert errors == sorted(errors, reverse=True) and errors[-1] < errors[2] / 10

    def test_bfloat16_is_computed_in_fp32(self):
        weight = torch.randn((4, 33), generator=torch.Generator().manual_seed(7)).bfloat16()
        assert torch.equal(rounded(weight, 8), rounded(weight.float(), 8).bfloat16())

    @pytest.mark.parametrize(
        "bits, group, shape", [(1, 0, (2, 2)), (17, 0, (2, 2)), (4, -1, (2, 2)), (4, 0, (4,))]
    )
    def test_what_cannot_be_rounded_is_refused(self, bits, group, shape):
        with pytest.raises(UserError, match="expected 2 to 16 bits"):
            rounded(torch.ones(shape), bits, group)

    def test_layers_are_rounded_with_their_adapters_and_restored(self, tiny):
        """Every linear layer but the head holds rounded(W + scale B A), and nothing else changes.

        After the block everything is as before.
        """
        tiny.add_lora(2, 4, ["q_proj", "fc1"], seed=1)
        with torch.no_grad():
            for number, adapter in enumerate(lora.adapters(tiny.model).values()):
                adapter.lora_B.normal_(generator=torch.Generator().manual_seed(number))
        before, layers = state(tiny), lora.linear_layers(tiny.model)
        merged = {
            name: layer.weight.detach()
            + (
                0
                if layer.adapter is None
                else (2.0 * layer.adapter.lora_B @ layer.adapter.lora_A).detach()
            )
            for name, layer in layers.items()
        }
        with rounded_layers(tiny.model, 4, 16) as names:
            assert set(layers) - set(names) == {"language_model.lm_head"} and not lora.adapters(
                tiny.model
            )
            for name, parameter in tiny.model.named_parameters():
                layer = name.removesuffix(".weight")
                if layer in names:
                    assert torch.equal(parameter, rounded(merged[layer], 4, 16)) or torch.allclose(
                        parameter,
                        torch.from_numpy(by_numpy(merged[layer].numpy(), 4, 16)),
                        atol=1e-12,
                    ), name
                else:
                    assert torch.equal(parameter, before[name][0]), name
        assert same(state(tiny), before)

    def test_eight_bits_take_the_row_and_a_failure_restores_the_model(self, tiny):
        before = state(tiny)
        with pytest.raises(RuntimeError, match="stop"):
            with rounded_layers(tiny.model, 8, 4) as names:
                weight = tiny.model.get_parameter(f"{names[0]}.weight")
                assert np.allclose(
                    weight.detach(),
                    by_numpy(before[f"{names[0]}.weight"][0].numpy(), 8, 0),
                    rtol=1e-12,
                )
                raise RuntimeError("stop")
        assert same(state(tiny), before)

    def test_a_head_tied_to_the_embeddings_is_not_rounded(self, text_directory):
        """One tensor, two uses: neither is rounded."""
        vlm = load(text_directory, template="inst")
        embeddings = vlm.model.model.embed_tokens.weight
        before = embeddings.detach().clone()
        with rounded_layers(vlm.model, 4, 0) as names:
            assert (
                torch.equal(embeddings, before)
                and names
                and not any("lm_head" in name for name in names)
            )
