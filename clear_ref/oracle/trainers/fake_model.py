"""A model that returns the stored logits of a case, with the interface of a Hugging Face model."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad

from clear_ref.common.errors import UserError
from clear_ref.losses import IGNORE

from .stored_batches import StoredBatches

N_LAYERS = 32
# Arguments that change nothing, because the logits are stored.
WITHOUT_EFFECT = (
    "aspect_ratio_ids",
    "aspect_ratio_mask",
    "cache_position",
    "cross_attention_mask",
    "image_grid_thw",
    "image_sizes",
    "mm_token_type_ids",
    "output_attentions",
    "pixel_attention_mask",
    "pixel_values",
    "position_ids",
    "token_type_ids",
    "use_cache",
)


def causal_lm_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """The mean over labels of the next token's nll, as transformers gives it.

    logits [B, T, V], labels [B, T]; the label at t + 1 belongs to the logits at t, IGNORE to none.
    With num_items_in_batch it is the sum divided by that.
    source  transformers 5.23.0, loss/loss_utils.py, ForCausalLMLoss and fixed_cross_entropy. One
            difference: coarser logits become float32 as there, but float64 stays float64.
            4.45.1 gives the same numbers: its LLaVA leaves out rows of mask 0, which have no label.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    following = pad(labels, (0, 1), value=IGNORE)[..., 1:]
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = cross_entropy(logits.flatten(0, 1), following.flatten(), reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


class FakeOutput(dict[str, Any]):
    """What a FakeModel returns: loss, logits, hidden_states by name, key or place.

    A name that is absent gives None, as in a ModelOutput; the keys and places are of what is there.
    """

    lacking: str = ""  # the sentence for the logits and the loss of a case without logits

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in ("loss", "logits") and self.lacking:
            raise UserError(self.lacking)
        if name in ("loss", "logits", "hidden_states", "attentions", "past_key_values"):
            return None
        raise AttributeError(f"the output of the fake model has no {name}")

    def __getitem__(self, key: Any) -> Any:
        return (
            tuple(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)
        )

    def to_tuple(self) -> tuple[Any, ...]:
        """What is there, in order."""
        return tuple(self.values())


class FakeLayer(torch.nn.Module):
    """A decoder layer that returns the hidden states it gets; for forward hooks."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states [B, T, D]."""
        return hidden


class FakeDecoder(torch.nn.Module):
    """The decoder inside a FakeModel: its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(FakeLayer() for _ in range(N_LAYERS))

    @property
    def language_model(self) -> "FakeDecoder":
        """The decoder itself: vision-language models have it one level deeper."""
        return self


class FakeModel(torch.nn.Module):
    """The student or the teacher of a case.

    Called with the input_ids of a batch it returns that batch's stored logits: the student's with a
    path to the tensor that conform differentiates by, the teacher's without any. It has one
    parameter, which has no effect. For rmu every layer returns the stored hidden states.

    A deep copy is the teacher, as a trainer means it that copies its model before it changes it. A
    copy that is put in training mode is the student again.
    """

    def __init__(self, stored: StoredBatches, is_teacher: bool = False) -> None:
        super().__init__()
        self.stored = stored
        self.is_teacher = is_teacher
        self.is_copy = False
        first = next(iter(stored.batches.values()))
        example = first["logits" if "logits" in first else "hidden"]
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=example.dtype))
        self.model = FakeDecoder()
        self.device = example.device
        self.dtype = example.dtype
        self.config = _config(example.shape[-1])
        self.name_or_path = "fake"

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **others: object,
    ) -> FakeOutput | tuple[Any, ...]:
        """The stored output for input_ids [B, T]; with labels [B, T], their loss.

        raises  UserError for ids of no batch, another attention_mask than theirs, and arguments
                that would change the logits
        """
        unknown = [
            name for name in others if name not in WITHOUT_EFFECT and others[name] is not None
        ]
        if unknown:
            raise UserError(
                f"the fake model was called with {unknown[0]}; expected input_ids, attention_mask, "
                f"labels, output_hidden_states, return_dict, num_items_in_batch or one of "
                f"{', '.join(WITHOUT_EFFECT)}"
            )
        parts = self.stored.parts(input_ids)
        self._check_mask(attention_mask, self.stored.rows(parts, "attention_mask"))
        output = FakeOutput()
        if self.stored.has(parts, "hidden"):
            hidden = self._tensor(parts, "hidden")
            states = [hidden]
            for layer in self.model.layers:
                states.append(layer(states[-1]))
            if output_hidden_states:
                output["hidden_states"] = tuple(states)
            output.lacking = (
                "the cases of rmu have hidden states and no logits; expected a loss of "
            )
            output.lacking += "hidden states alone"
        else:
            logits = self._tensor(parts, "logits")
            if labels is not None:
                output["loss"] = causal_lm_loss(logits, labels, num_items_in_batch)
            output["logits"] = logits
        return output.to_tuple() if return_dict is False else output

    def _tensor(self, parts: list[tuple[str, int, int]], key: str) -> torch.Tensor:
        """A new tensor: the student's with its path if gradients are enabled, or the teacher's."""
        if self.is_teacher:
            return self.stored.rows(parts, f"teacher_{key}").detach()
        return self.stored.rows(parts, key)

    @staticmethod
    def _check_mask(given: torch.Tensor | None, expected: torch.Tensor) -> None:
        if given is None:
            return
        if given.shape != expected.shape or not torch.equal(given.long(), expected.long()):
            raise UserError(
                f"the fake model was called with another attention_mask than the batch's (shape "
                f"{list(given.shape)}, {int(given.sum())} ones; expected {list(expected.shape)}, "
                f"{int(expected.sum())} ones): the stored logits hold for the batch's mask alone"
            )

    def train(self, mode: bool = True) -> "FakeModel":
        """Itself, in training mode or not; a copy becomes the student or the teacher by that."""
        if self.is_copy:
            self.is_teacher = not mode
        super().train(mode)
        return self

    def __deepcopy__(self, memo: object) -> "FakeModel":
        copied = FakeModel(self.stored, is_teacher=True)
        copied.is_copy = True
        return copied

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within it the model is the teacher: the adapters hold all that was changed (PEFT)."""
        before = self.is_teacher
        self.is_teacher = True
        try:
            yield
        finally:
            self.is_teacher = before

    @property
    def language_model(self) -> "FakeModel":
        """The model itself: LLaVA has its language model at this name."""
        return self

    @property
    def module(self) -> "FakeModel":
        """The model itself: DDP and DeepSpeed have the model that they wrap at this name."""
        return self

    def generate(self, input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        """The input_ids: no token is generated."""
        return input_ids

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """A table of embeddings of the vocabulary's size, which has no effect."""
        return torch.nn.Embedding(self.config.vocab_size, 1)

    def resize_token_embeddings(self, *sizes: object, **options: object) -> torch.nn.Embedding:
        """The table of embeddings; nothing is resized."""
        return self.get_input_embeddings()

    def gradient_checkpointing_enable(self, *args: object, **options: object) -> None:
        """Nothing: it changes no number."""

    def enable_input_require_grads(self) -> None:
        """Nothing: it changes no number."""

    def print_trainable_parameters(self) -> None:
        """Nothing: there is nothing to train."""

    def merge_and_unload(self) -> "FakeModel":
        """The model itself."""
        return self

    def save_pretrained(self, *args: object, **options: object) -> None:
        """Nothing is written."""


def _config(width: int) -> SimpleNamespace:
    """The sizes that trainers ask for; image placeholders have id V - 1, padding 0 in the cases."""
    config = SimpleNamespace(
        vocab_size=width,
        hidden_size=width,
        num_hidden_layers=N_LAYERS,
        pad_token_id=0,
        image_token_index=width - 1,
        image_token_id=width - 1,
        is_encoder_decoder=False,
        model_type="fake",
        use_cache=False,
    )
    config.text_config = config
    return config
