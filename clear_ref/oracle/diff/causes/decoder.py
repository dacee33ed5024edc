"""Causes of wrong hidden states: another mask, other positions, or a decoder with one rule broken.

Each cause is tried on the first row that differs, and then on the whole batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from clear_ref.model.language import causal_mask
from clear_ref.model.vlm import VLM

from ..comparison import Causes, Fit
from .broken_decoder import Change, changes, unchanged
from .masks import wrong_masks

MOST_TOKENS = 4  # positions by which a mask inside a model is shifted or cut


@dataclass(frozen=True)
class DecoderInputs:
    """What the decoder computes hidden states from.

    embeddings  [B, T, D]; mask [B, T] bool; positions [B, T] or [3, B, T]
    ids, labels [B, T], labels or None; layer: whose output is wanted, None: after the last norm
    head        hidden states -> the logits that are compared; None: hidden states are
    others      (name of a cause, detail, positions): wrong positions
    """

    embeddings: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor | None
    layer: int | None
    head: Callable[[torch.Tensor], torch.Tensor] | None = None
    others: tuple[tuple[str, str, torch.Tensor], ...] = ()

    def row(self, b: int) -> "DecoderInputs":
        """The inputs of one row of the batch."""
        one = slice(b, b + 1)
        labels = None if self.labels is None else self.labels[one]
        others = tuple((name, detail, wrong[..., one, :]) for name, detail, wrong in self.others)
        return DecoderInputs(
            self.embeddings[one],
            self.mask[one],
            self.positions[..., one, :],
            self.ids[one],
            labels,
            self.layer,
            self.head,
            others,
        )


@dataclass(frozen=True)
class Trial:
    """One cause to try: changed inputs of the decoder, or a changed decoder.

    mask, positions  instead of the inputs'; None: theirs
    attends          window -> [B, 1, T, T] bool, where a position attends; None: by the mask
    """

    name: str
    detail: str
    change: Change = unchanged
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    attends: Callable[[DecoderInputs, int | None], torch.Tensor] | None = None


def decoder_causes(fit: Fit, vlm: VLM, inputs: DecoderInputs) -> Causes:
    """The causes that give their hidden states; those that explain the most places.

    A wrong mask says nothing about a position for which it leaves nothing to attend to.
    """
    found: dict[str, tuple[int, str]] = {}  # {name: (number of places explained, detail)}
    b = int(fit.beyond.flatten(1).any(1).long().argmax())
    first_row = Fit(
        fit.theirs[b : b + 1], fit.beyond[b : b + 1], fit.places[b : b + 1], fit.allowed, fit.dtype
    )
    for trial in trials(vlm, inputs):
        if trial.name in found:
            continue
        if _explains(vlm, first_row, inputs.row(b), _row_of(trial, b)):
            if len(fit.theirs) == 1 or _explains(vlm, fit, inputs, trial):
                reached = _places(trial)
                places = fit.places if reached is None else fit.places & reached
                found[trial.name] = int(places.sum()), trial.detail
    most = max((n for n, _ in found.values()), default=0)
    causes = {name: detail for name, (n, detail) in found.items() if n == most}
    total = int(fit.places.sum())
    if most < total:
        for name, detail in causes.items():
            rest = f"it explains {most} of {total} places, the others have nothing to attend to"
            causes[name] = f"{detail}; {rest}" if detail else rest
    return causes


def _row_of(trial: Trial, b: int) -> Trial:
    mask = None if trial.mask is None else trial.mask[b : b + 1]
    positions = None if trial.positions is None else trial.positions[..., b : b + 1, :]
    return Trial(trial.name, trial.detail, trial.change, mask, positions, trial.attends)


def _explains(vlm: VLM, fit: Fit, inputs: DecoderInputs, trial: Trial) -> bool:
    """Whether the trial gives their hidden states, where its mask leaves something to attend to."""
    positions = inputs.positions if trial.positions is None else trial.positions
    attends = trial.attends
    window_mask = None
    if trial.mask is not None:
        attends = partial(_keys_of_mask, mask=trial.mask)
    if attends is not None:

        def window_mask(window: int | None) -> torch.Tensor:
            return attends(inputs, window)

    with trial.change(vlm):
        hidden = vlm.model.decoder(
            inputs.embeddings,
            inputs.mask.long().to(vlm.device),
            positions.to(vlm.device),
            layer=inputs.layer,
            mask_for_window=window_mask,
        )[0]
        if inputs.head is not None:
            hidden = inputs.head(hidden)
    return fit.explained_by(hidden, _places(trial))


def _places(trial: Trial) -> torch.Tensor | None:
    """[B, T] bool: the positions with something to attend to; None: all."""
    return None if trial.mask is None else trial.mask.cummax(1).values


def _keys_of_mask(inputs: DecoderInputs, window: int | None, mask: torch.Tensor) -> torch.Tensor:
    """[B, 1, T, T]: as `causal_mask`, but a masked position does not attend to itself.

    If nothing is left to attend to, it does.
    """
    mask = mask.to(inputs.embeddings.device)
    allowed = causal_mask(mask.long(), mask.shape[1], window) & mask[:, None, None, :]
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return allowed | (itself & ~allowed.any(-1, keepdim=True))


def trials(vlm: VLM, inputs: DecoderInputs) -> Iterator[Trial]:
    """Every cause that exists for this model and batch."""
    image = vlm.model.image_token_id
    ids = inputs.ids.cpu()
    tried: list[torch.Tensor] = []
    for name, detail, mask in wrong_masks(inputs.mask, ids, inputs.labels, image, MOST_TOKENS):
        if torch.equal(mask, inputs.mask) or any(torch.equal(mask, old) for old in tried):
            continue
        tried.append(mask)
        yield Trial(name, detail, mask=mask)
    for name, detail, positions in inputs.others:
        yield Trial(name, detail, positions=positions)
    yield Trial("mask_not_causal", "", attends=_without_order)
    windows = set(vlm.text_config.windows)
    if windows != {None}:
        yield Trial("window_ignored", "", attends=lambda given, window: _causal(given, None))
    if None in windows and len(windows) > 1:
        least = min(window for window in windows if window is not None)
        yield Trial("window_everywhere", "", attends=lambda given, window: _causal(given, least))
    yield Trial("rotary_missing", "", positions=torch.zeros_like(inputs.positions))
    yield Trial("rotary_backwards", "", positions=-inputs.positions)
    for name, detail, change in changes(vlm, inputs.layer):
        yield Trial(name, detail, change)


def _causal(inputs: DecoderInputs, window: int | None) -> torch.Tensor:
    mask = inputs.mask.long().to(inputs.embeddings.device)
    return causal_mask(mask, mask.shape[1], window)


def _without_order(inputs: DecoderInputs, window: int | None) -> torch.Tensor:
    """[B, 1, T, T]: every real position is attended to; a position always attends to itself."""
    mask = inputs.mask.to(inputs.embeddings.device)
    T = mask.shape[1]
    itself = torch.eye(T, dtype=torch.bool, device=mask.device)
    return (mask[:, None, :].expand(-1, T, -1) | itself)[:, None]
