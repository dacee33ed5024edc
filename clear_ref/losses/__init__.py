"""Per-token terms, the rows they are computed on, and the reductions of them to a loss."""

from .outputs import Outputs
from .reductions import mean_over_sequences, sequence_mean, sequence_sum, token_mean
from .rows import ROW_SETS, BatchRows, Rows, select_rows
from .terms import IGNORE, TokenTerms, token_terms

__all__ = [
    "IGNORE",
    "ROW_SETS",
    "BatchRows",
    "Outputs",
    "Rows",
    "TokenTerms",
    "mean_over_sequences",
    "select_rows",
    "sequence_mean",
    "sequence_sum",
    "token_mean",
    "token_terms",
]
