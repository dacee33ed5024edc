"""The first stages of a dump: ids, labels and pixels, compared with those encoded from records."""

import torch

from clear_ref.common.errors import UserError
from clear_ref.data.batches import IGNORE
from clear_ref.data.records import Record
from clear_ref.oracle.encoded_batches import EncodedBatch, encode

from .comparison import Comparison

# {kind of token: the known mistake if labels cover it}
MISTAKE_OF_KIND = {
    "image": "image_tokens_counted",
    "prompt": "prompt_counted",
    "padding": "padding_counted",
}


def compare_inputs(comparison: Comparison, name: str) -> None:
    """Compare ids, labels and pixels of a batch with those encoded from its records.

    Without records, or without a model, the labels are compared with the batch's own ids.
    """
    vlm = comparison.vlm
    if vlm is None or comparison.dump.records.get(name) is None:
        comparison.skip(
            name, ("input_ids", "pixel_values"), "needs records in the metadata, and --model"
        )
        compare_labels_with_ids(comparison, name)
        return
    tensors = comparison.dump.batches[name]
    real = comparison.real_positions(name)
    encoded = encode(vlm, records_of(comparison, name))
    ours_real = encoded.batch.attention_mask.cpu() == 1
    check_counts(comparison, name, real, ours_real)
    for stage in ("input_ids", "labels"):
        if stage in tensors:
            ours = tensors[stage].clone()
            for b in range(len(real)):
                ours[b][real[b]] = getattr(encoded.batch, stage)[b].cpu()[ours_real[b]]
            comparison.compare(stage, name, tensors[stage], ours, real)
    if "labels" in tensors:
        comparison.mistakes["labels", name] = label_mistakes(
            tensors["labels"], real, encoded, ours_real
        )
    pixels = encoded.batch.pixel_values
    if "pixel_values" in tensors and pixels is not None:
        every_picture = torch.ones(pixels.shape[:1], dtype=torch.bool)
        comparison.compare("pixel_values", name, tensors["pixel_values"], pixels, every_picture)


def compare_labels_with_ids(comparison: Comparison, name: str) -> None:
    """Compare labels that are not ignored with the ids at the same positions."""
    tensors = comparison.dump.batches[name]
    if "labels" not in tensors or "input_ids" not in tensors:
        return
    labels = tensors["labels"]
    ids = tensors["input_ids"]
    ours = torch.where(labels == IGNORE, labels, ids)
    every_position = torch.ones(labels.shape, dtype=torch.bool)
    comparison.compare("labels", name, labels, ours, every_position)
    shifted = torch.full_like(labels, IGNORE)
    shifted[:, :-1] = ids[:, 1:]
    if bool(((labels == shifted) | (labels == IGNORE)).all()):
        comparison.mistakes["labels", name] = {"shift_off_by_one"}


def records_of(comparison: Comparison, name: str) -> list[Record]:
    """The records of a batch from the dump's metadata; UserError unless they are well formed."""
    stored = comparison.dump.records[name]
    records = [record_of(value) for value in stored] if isinstance(stored, list) else [None]
    if None in records:
        raise UserError(
            f"{comparison.dump.path}: metadata records of {name} are not a list of objects with "
            "question, answer and image; expected one for each sequence"
        )
    return [record for record in records if record is not None]


def record_of(value: object) -> Record | None:
    """The Record of one JSON value; None if it is not an object with the keys of a record."""
    if not isinstance(value, dict) or "question" not in value or "answer" not in value:
        return None
    question = value["question"]
    answer = value["answer"]
    image = value.get("image")
    if not isinstance(question, str):
        return None
    if not isinstance(answer, str | None) or not isinstance(image, str | None):
        return None
    return Record(question, answer, image)


def check_counts(
    comparison: Comparison, name: str, theirs: torch.Tensor, ours: torch.Tensor
) -> None:
    """UserError unless the batch has as many sequences as records, of as many real tokens each.

    theirs, ours  [B, T] bool: the real positions; T may differ
    """
    if len(theirs) != len(ours):
        raise UserError(
            f"{comparison.dump.path}: batch {name} has {len(theirs)} sequences and {len(ours)} "
            "records; expected as many"
        )
    for b in range(len(theirs)):
        if int(theirs[b].sum()) != int(ours[b].sum()):
            raise UserError(
                f"{comparison.dump.path}: {name} has {int(theirs[b].sum())} real tokens in "
                f"sequence {b}, its record gives {int(ours[b].sum())}: another template, "
                "tokenizer or picture size"
            )


def label_mistakes(
    labels: torch.Tensor, real: torch.Tensor, encoded: EncodedBatch, ours_real: torch.Tensor
) -> set[str]:
    """The names of the known mistakes that labels [B, T] show.

    These are: kinds of token that the labels wrongly cover; the first token of every answer lost.
    real, ours_real  [B, T] bool: the real positions of the dump and of the encoded batch
    """
    mistakes: set[str] = set()
    first_token_lost = []
    for b in range(len(real)):
        ours = encoded.batch.labels[b].cpu()[ours_real[b]] != IGNORE
        theirs = labels[b][real[b]] != IGNORE
        kinds = [kind for kind in encoded.kinds[b] if kind != "padding"]
        for i in (theirs & ~ours).nonzero().flatten().tolist():
            mistakes.add(MISTAKE_OF_KIND[kinds[i]])
        missing = (ours & ~theirs).nonzero().flatten().tolist()
        first_token_lost.append(missing == ours.nonzero().flatten().tolist()[:1])
    if all(first_token_lost):
        mistakes.add("bos_off_by_one")
    return mistakes
