"""Per-token terms, the rows they are taken on, and the reductions that turn them into a loss."""

from .reductions import mean_over_sequences, sequence_mean, sequence_sum, token_mean
from .rows import ROW_SETS, BatchRows, Outputs, Rows, select_rows
from .terms import IGNORE, TokenTerms, token_terms

__all__ = [
    "IGNORE",
    "ROW_SETS",
    "Outputs",
    "Rows",
    "BatchRows",
    "TokenTerms",
    "mean_over_sequences",
    "select_rows",
    "sequence_mean",
    "sequence_sum",
    "token_mean",
    "token_terms",
]
