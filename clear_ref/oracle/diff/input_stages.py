"""The first stages of a dump: ids, mask, labels, grid and pixels, compared with their records'."""

from dataclasses import replace
from functools import partial

import torch

from clear_ref.common.errors import UserError
from clear_ref.data.batches import IGNORE
from clear_ref.data.images import ImageSource
from clear_ref.data.qwen_images import Qwen2VLImages
from clear_ref.data.records import Record
from clear_ref.model.families import ImageProcessor
from clear_ref.model.vlm import VLM
from clear_ref.oracle.encoded_batches import EncodedBatch, encode
from clear_ref.oracle.reference.rows import IMAGE, KINDS, PADDING

from .alignment import NOTHING, Alignment, align
from .causes.ids import id_causes
from .causes.labels import label_causes
from .causes.masks import mask_causes, real_by_ids
from .causes.numbers import number_causes
from .causes.pixels import grid_causes, pixel_causes
from .comparison import Causes, Comparison, Fit

UNKNOWN = len(KINDS)  # the kind of a token that is prompt or answer


def compare_inputs(comparison: Comparison, name: str) -> None:
    """Compare ids, mask, labels, grid and pixels of a batch with those encoded from its records.

    Without records, or without a model, mask and labels are compared with the batch's own ids.
    """
    vlm = comparison.vlm
    if vlm is None or comparison.dump.records.get(name) is None:
        stages = ("input_ids", "image_grid_thw", "pixel_values")
        comparison.skip(name, stages, "needs records in the metadata, and --model")
        right = None if vlm is None else mask_by_ids(comparison, vlm, name)
        if right is not None:
            compare_mask(comparison, name, right)
        compare_labels_with_ids(comparison, name, right)
        return
    tensors = comparison.dump.batches[name]
    records = records_of(comparison, name)
    encoded = encode(vlm, records)
    found = alignment_of(comparison, name, encoded)
    if "input_ids" in tensors:
        compare_ids(comparison, vlm, name, found)
        theirs = comparison.real_positions(name)
        right = torch.where(found.whole[:, None], found.real, theirs)
        compare_mask(comparison, name, right)
    if "labels" in tensors:
        if bool(found.whole.all()):
            compare_labels(comparison, name, found)
        else:
            compare_labels_with_ids(comparison, name, None)
    compare_pictures(comparison, vlm, name, encoded)


def alignment_of(comparison: Comparison, name: str, encoded: EncodedBatch) -> Alignment:
    """Where the records' tokens lie; UserError for another number of records or, without ids, of
    tokens.
    """
    tensors = comparison.dump.batches[name]
    real = comparison.real_positions(name)
    if len(real) != len(encoded.records):
        raise UserError(
            f"{comparison.dump.path}: batch {name} has {len(real)} sequences and "
            f"{len(encoded.records)} records; expected as many"
        )
    ids = tensors.get("input_ids")
    if ids is None:
        own_real = encoded.batch.attention_mask.cpu() == 1
        if real.sum(1).tolist() != own_real.sum(1).tolist():
            raise UserError(
                f"{comparison.dump.path}: {name} has {real.sum(1).tolist()} real tokens in its "
                f"sequences, its records give {own_real.sum(1).tolist()}; add input_ids to the dump"
            )
        ids = torch.zeros(real.shape, dtype=torch.long)
        ids[real] = encoded.batch.input_ids.cpu()[own_real]
    pad = 0 if comparison.vlm is None else comparison.vlm.tokenizer.pad
    return align(encoded, ids, real, pad)


def compare_ids(comparison: Comparison, vlm: VLM, name: str, found: Alignment) -> None:
    """Compare ids at the records' positions, and at the mask's in rows that differ."""
    ids = comparison.dump.batches[name]["input_ids"]
    mask = comparison.real_positions(name)
    places = found.real | (mask & ~found.whole[:, None])

    def explain(fit: Fit) -> Causes:
        rows = [
            row[found.real[b]].tolist() if found.whole[b] else row[mask[b]].tolist()
            for b, row in enumerate(ids)
        ]
        others = {}
        for batch in comparison.dump.records:
            if batch != name:
                encoded = encode(vlm, records_of(comparison, batch)).batch
                others[batch] = [
                    own[real == 1].tolist()
                    for own, real in zip(encoded.input_ids, encoded.attention_mask, strict=True)
                ]
        causes = id_causes(vlm, rows, found.rows, records_of(comparison, name), others)
        if "other_number_of_image_tokens" in causes:
            causes |= explain_grid(comparison, vlm, name)
        return causes

    theirs, ours, places = with_rest(ids, found, places)
    comparison.compare("input_ids", name, theirs, ours, places, explain=explain)


def with_rest(
    ids: torch.Tensor, found: Alignment, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(theirs, ours, places) with columns for the tokens of records that the rows have no room for.

    There theirs is NOTHING.
    """
    theirs = ids
    ours = torch.where(places, found.ids, ids)
    n_more = max(len(own) - int(found.real[b].sum()) for b, own in enumerate(found.rows))
    if n_more:
        rest = torch.full((len(ids), n_more), NOTHING)
        theirs = torch.cat((theirs, rest), 1)
        ours = torch.cat((ours, rest), 1)
        for b, own in enumerate(found.rows):
            missing = own[int(found.real[b].sum()) :]
            ours[b, ids.shape[1] : ids.shape[1] + len(missing)] = torch.tensor(missing)
        places = torch.cat((places, ours[:, ids.shape[1] :] != NOTHING), 1)
    return theirs, ours, places


def mask_by_ids(comparison: Comparison, vlm: VLM, name: str) -> torch.Tensor | None:
    """The mask as far as ids tell without records; None without ids."""
    tensors = comparison.dump.batches[name]
    if "input_ids" not in tensors:
        return None
    special = {vlm.tokenizer.bos, vlm.model.image_token_id, *vlm.generation.stop_ids}
    return real_by_ids(
        tensors["input_ids"],
        comparison.real_positions(name),
        tensors.get("labels"),
        vlm.tokenizer.pad,
        special - {None},  # type: ignore[arg-type]
    )


def compare_mask(comparison: Comparison, name: str, right: torch.Tensor) -> None:
    """Compare the attention mask; without one, every position is taken as real.

    right  [B, T] bool
    """
    comparison.right_masks[name] = right
    tensors = comparison.dump.batches[name]
    if "attention_mask" not in tensors and bool(right.all()):
        return
    mask = comparison.real_positions(name)

    def explain(fit: Fit) -> Causes:
        if "attention_mask" not in tensors:
            return {"mask_missing": ""}
        vlm = comparison.vlm
        image = None if vlm is None else vlm.model.image_token_id
        return mask_causes(mask, right, tensors["input_ids"], tensors.get("labels"), image)

    everywhere = torch.ones_like(right)
    comparison.compare(
        "attention_mask", name, mask.long(), right.long(), everywhere, explain=explain
    )


def compare_labels(comparison: Comparison, name: str, found: Alignment) -> None:
    """Compare labels with those of the records, at every position."""
    tensors = comparison.dump.batches[name]
    labels = tensors["labels"]
    ids = tensors.get("input_ids", found.ids)

    def explain(fit: Fit) -> Causes:
        return label_causes(labels, ids, found.kinds)

    everywhere = torch.ones(labels.shape, dtype=torch.bool)
    comparison.compare("labels", name, labels, found.labels, everywhere, explain=explain)


def compare_labels_with_ids(comparison: Comparison, name: str, right: torch.Tensor | None) -> None:
    """Compare labels that are not ignored with the ids at the same positions.

    Padding and image tokens have no label. right: [B, T] bool, None if unknown
    """
    tensors = comparison.dump.batches[name]
    if "labels" not in tensors or "input_ids" not in tensors:
        return
    labels = tensors["labels"]
    ids = tensors["input_ids"]
    kinds = torch.full_like(ids, UNKNOWN)
    image = None if comparison.vlm is None else comparison.vlm.model.image_token_id
    if image is not None:
        kinds[ids == image] = IMAGE
    if right is None and "attention_mask" in tensors:
        right = tensors["attention_mask"] == 1
    if right is not None:
        kinds[~right] = PADDING
    without_label = (labels == IGNORE) | (kinds == IMAGE) | (kinds == PADDING)
    ours = torch.where(without_label, IGNORE, ids)

    def explain(fit: Fit) -> Causes:
        return label_causes(labels, ids, kinds)

    everywhere = torch.ones(labels.shape, dtype=torch.bool)
    comparison.compare("labels", name, labels, ours, everywhere, explain=explain)


def compare_pictures(comparison: Comparison, vlm: VLM, name: str, encoded: EncodedBatch) -> None:
    """Compare image_grid_thw and pixels with those of the records' pictures."""
    tensors = comparison.dump.batches[name]
    sources = sources_of(encoded.records)
    images = vlm.images
    pixels = encoded.batch.pixel_values
    if images is None or pixels is None:
        reason = "the records have no pictures"
        comparison.skip(name, ("image_grid_thw", "pixel_values"), reason)
        return
    grid = tensors.get("image_grid_thw")
    own_grid = encoded.batch.image_grid_thw
    if grid is not None and own_grid is not None:
        everywhere = torch.ones(grid.shape[:1], dtype=torch.bool)
        comparison.compare(
            "image_grid_thw",
            name,
            grid,
            own_grid,
            everywhere,
            explain=lambda fit: explain_grid(comparison, vlm, name),
        )
        if not torch.equal(grid, own_grid.cpu()):
            comparison.skip(name, ("pixel_values",), "its pictures have another size")
            return
    if "pixel_values" in tensors:
        every_picture = torch.ones(pixels.shape[:1], dtype=torch.bool)
        explain = partial(_explain_pixels, pixels=pixels, images=images, sources=sources)
        comparison.compare(
            "pixel_values", name, tensors["pixel_values"], pixels, every_picture, explain=explain
        )


def explain_grid(comparison: Comparison, vlm: VLM, name: str) -> Causes:
    """The causes of an image_grid_thw that is not that of the records' pictures; {} without one."""
    grid = comparison.dump.batches[name].get("image_grid_thw")
    if grid is None or not isinstance(vlm.images, Qwen2VLImages):
        return {}
    return grid_causes(grid.tolist(), vlm.images, sources_of(records_of(comparison, name)))


def sources_of(records: list[Record]) -> list[ImageSource]:
    """The pictures of records that have one."""
    return [record.image for record in records if record.image is not None]


def _explain_pixels(
    fit: Fit, pixels: torch.Tensor, images: ImageProcessor, sources: list[ImageSource]
) -> Causes:
    causes = pixel_causes(fit, images, sources, pixels.cpu())
    return causes or number_causes(fit, pixels)


def records_of(comparison: Comparison, name: str) -> list[Record]:
    """The records of a batch from the dump's metadata.

    raises  UserError unless they are well formed, and for a picture outside of the dump's folders
    """
    stored = comparison.dump.records[name]
    records = [record_of(value) for value in stored] if isinstance(stored, list) else [None]
    if None in records:
        raise UserError(
            f"{comparison.dump.path}: metadata records of {name} are not a list of objects with "
            "question, answer and image; expected one for each sequence"
        )
    return [
        replace(record, image=record.image and comparison.dump.picture(str(record.image)))
        for record in records
        if record is not None
    ]


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
