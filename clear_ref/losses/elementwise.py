"""log(1 / (1 + exp(-x))), for the losses on the difference of two log-probabilities."""

from torch.nn.functional import logsigmoid as log_sigmoid

__all__ = ["log_sigmoid"]
