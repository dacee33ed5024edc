"""Per-token terms, the rows they are computed on, and the reductions of them to a loss."""

from typing import TYPE_CHECKING

from clear_ref.common.public_names import public_names

from .reductions import mean_over_sequences, sequence_mean, sequence_sum, token_mean

if TYPE_CHECKING:
    from .elementwise import log_sigmoid
    from .formulas import accumulation_dtype
    from .hidden_states import (
        control_vector,
        control_vectors,
        mean_squared_change,
        squared_differences,
    )
    from .outputs import Outputs
    from .rows import ROW_SETS, BatchRows, Rows, Tensor, select_rows
    from .terms import IGNORE, TokenTerms, token_terms
    from .whole_vocabulary import log_one_plus_log_ratio, log_one_plus_ratio
else:
    # Imported when first used: a method's file is read by --help and explain, without torch.
    __getattr__ = public_names(
        __name__,
        {
            "accumulation_dtype": "formulas",
            "control_vector": "hidden_states",
            "control_vectors": "hidden_states",
            "mean_squared_change": "hidden_states",
            "squared_differences": "hidden_states",
            "log_sigmoid": "elementwise",
            "Outputs": "outputs",
            "ROW_SETS": "rows",
            "BatchRows": "rows",
            "Rows": "rows",
            "Tensor": "rows",
            "select_rows": "rows",
            "IGNORE": "terms",
            "TokenTerms": "terms",
            "token_terms": "terms",
            "log_one_plus_log_ratio": "whole_vocabulary",
            "log_one_plus_ratio": "whole_vocabulary",
        },
    )

__all__ = [
    "IGNORE",
    "ROW_SETS",
    "BatchRows",
    "Outputs",
    "Rows",
    "Tensor",
    "TokenTerms",
    "accumulation_dtype",
    "control_vector",
    "control_vectors",
    "log_one_plus_log_ratio",
    "log_one_plus_ratio",
    "log_sigmoid",
    "mean_over_sequences",
    "mean_squared_change",
    "select_rows",
    "sequence_mean",
    "sequence_sum",
    "squared_differences",
    "token_mean",
    "token_terms",
]
