"""Causes of wrong labels: shifted already, over tokens of the wrong kind, or not over all."""

import torch

from clear_ref.data.batches import IGNORE
from clear_ref.oracle.reference.rows import ANSWER, IMAGE, PADDING, PROMPT

from ..comparison import Causes

# {kind of token: the known mistake if labels cover it}
MISTAKE_OF_KIND = {
    IMAGE: "image_tokens_counted",
    PROMPT: "prompt_counted",
    PADDING: "padding_counted",
}
SHIFTS = {
    0: "",
    1: "labels_shifted_before",
    2: "labels_shifted_twice",
    -1: "labels_shifted_back",
}
OTHER_IGNORED = (0, -1)


def label_causes(labels: torch.Tensor, ids: torch.Tensor, kinds: torch.Tensor | None) -> Causes:
    """What is wrong with labels [B, T] of ids [B, T].

    kinds  [B, T] numbers in KINDS, of the right labels; None if they are unknown
    """
    for ignored in (IGNORE, *OTHER_IGNORED, *_filler(labels, kinds)):
        meant = torch.where(labels == ignored, IGNORE, labels)
        for shift, name in SHIFTS.items():
            aligned = unshifted(meant, shift)
            if not agrees(aligned, ids):
                continue
            causes = {name: ""} if name else {}
            if ignored != IGNORE:
                causes["ignored_with_other_number"] = f"it is {ignored}"
            if kinds is not None:
                causes |= coverage(aligned, kinds, shift)
            return causes
    return {}


def unshifted(labels: torch.Tensor, shift: int) -> torch.Tensor:
    """Labels moved right by `shift` positions; IGNORE where nothing is known."""
    moved = torch.full_like(labels, IGNORE)
    if shift > 0:
        moved[:, shift:] = labels[:, :-shift]
    elif shift < 0:
        moved[:, :shift] = labels[:, -shift:]
    else:
        moved = labels
    return moved


def agrees(labels: torch.Tensor, ids: torch.Tensor) -> bool:
    """Whether there are labels, and each is the id at its position."""
    given = labels != IGNORE
    return bool(given.any()) and bool((labels == ids)[given].all())


def _filler(labels: torch.Tensor, kinds: torch.Tensor | None) -> list[int]:
    """The number at padding and prompt, if it is one number."""
    if kinds is None:
        return []
    outside = labels[kinds != ANSWER].unique().tolist()
    return outside if len(outside) == 1 else []


def coverage(labels: torch.Tensor, kinds: torch.Tensor, shift: int) -> Causes:
    """The kinds of tokens that labels wrongly cover, and the tokens of answers that they lose.

    shift  the first positions whose label is unknown, because the labels were moved
    """
    causes: Causes = {}
    given = labels != IGNORE
    known = torch.ones_like(given)
    if shift > 0:
        known[:, :shift] = False
    if shift < 0:
        known[:, shift:] = False
    for kind, name in MISTAKE_OF_KIND.items():
        n_tokens = int((given & (kinds == kind)).sum())
        if n_tokens:
            causes[name] = f"{n_tokens} tokens"
    lost_first, lost_last, lost = [], [], 0
    for b in range(len(labels)):
        answer = ((kinds[b] == ANSWER) & known[b]).nonzero().flatten().tolist()
        missing = [t for t in answer if not bool(given[b, t])]
        lost_first.append(missing == answer[:1])
        lost_last.append(missing == answer[-1:])
        lost += len(missing)
    if lost and all(lost_first):
        causes["bos_off_by_one"] = ""
    elif lost and all(lost_last):
        causes["last_label_lost"] = ""
    elif lost:
        causes["answer_not_labelled"] = f"{lost} tokens"
    return causes
