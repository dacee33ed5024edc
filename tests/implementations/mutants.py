"""Right losses with one small change, for every method; conform must fail each in every dtype.

The numbers are the float64 reference's, with the change, rounded to the dtype of the inputs as an
implementation that casts up would round them. Those with numpy_ in their name take numpy arrays.
"""

import torch

from clear_ref.oracle.mistakes.broken_rules import SwappedKl
from clear_ref.oracle.reference.arithmetic import Sheet
from clear_ref.oracle.reference.formulas import reference_loss


class OtherMean(Sheet):
    """Token means and sequence means are exchanged; sums over an answer are means over it."""

    def token_mean(self, batch, column, row_set="answer"):
        return super().sequence_mean(batch, column, row_set)

    def sequence_mean(self, batch, column, row_set="answer"):
        return super().token_mean(batch, column, row_set)

    def sequence_sums(self, batch, column):
        return [
            self.divide(self.column_sum(rows, column), len(rows))
            for rows in self.rows_by_sequence(batch)
        ]


def _mutant(sheet=Sheet, factor=1.0, in_float32=True):
    def loss(method, batches, options):
        arrays = {}
        for name, batch in batches.items():
            arrays[name] = {
                key: (array.detach().double() if array.is_floating_point() else array).numpy()
                for key, array in batch.items()
            }
        given = {key: value for key, value in options.items() if key != "semantics"}
        result = reference_loss(method, options["semantics"], given, arrays, sheet)
        first = next(iter(batches.values()))
        dtype = first["logits" if "logits" in first else "hidden"].dtype
        wide = torch.float32 if in_float32 and dtype == torch.bfloat16 else dtype
        value = torch.tensor(factor * result.loss, dtype=torch.float64).to(wide)
        gradients = {}
        for name, gradient in result.gradients.items():
            gradients[name] = (factor * torch.from_numpy(gradient)).to(dtype)
        return value, gradients

    return loss


def _numpy_mutant(sheet=Sheet, factor=1.0, semantics=None):
    def loss(method, batches, options):
        arrays = {}
        for name, batch in batches.items():
            arrays[name] = {
                key: array.astype("float64") if array.dtype.kind == "f" else array
                for key, array in batch.items()
            }
        given = {key: value for key, value in options.items() if key != "semantics"}
        asked = semantics or options["semantics"]
        result = reference_loss(method, asked, {} if semantics else given, arrays, sheet)
        first = next(iter(batches.values()))
        dtype = first["logits" if "logits" in first else "hidden"].dtype
        gradients = {name: (factor * g).astype(dtype) for name, g in result.gradients.items()}
        return dtype.type(factor * result.loss), gradients

    return loss


numpy_right = _numpy_mutant()
numpy_times_1_01 = _numpy_mutant(factor=1.01)
numpy_kl_swapped = _numpy_mutant(SwappedKl)
numpy_released = _numpy_mutant(semantics="released")
numpy_other_mean = _numpy_mutant(OtherMean)
right = _mutant()
times_1_01 = _mutant(factor=1.01)
kl_swapped = _mutant(SwappedKl)
other_mean = _mutant(OtherMean)
right_in_bfloat16 = _mutant(in_float32=False)
kl_swapped_in_bfloat16 = _mutant(SwappedKl, in_float32=False)
other_mean_in_bfloat16 = _mutant(OtherMean, in_float32=False)
