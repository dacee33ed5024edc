"""The stages of a dump up to the logits: ids and labels from the records, then what the model makes of them."""

import torch

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.data.batches import IGNORE
from clear_ref.data.records import Record
from clear_ref.model.language import at_least_float32, place_features
from clear_ref.oracle import batch_views

OF_MODEL = (
    "features",
    "embeddings",
    "hidden",
    "layer_hidden",
    "teacher_layer_hidden",
    "logits",
    "teacher_logits",
)
BY_KIND = {
    "image": "image_tokens_counted",
    "prompt": "prompt_counted",
    "padding": "padding_counted",
}


def compare_inputs(c, name: str) -> None:
    """Ids, labels and pixels of a batch against those of its records; without records or model, labels against the ids."""
    batch, records, mask = c.given.batches[name], c.given.records.get(name), c.mask(name)
    if records is None or c.vlm is None:
        c.skip(name, ("input_ids", "pixel_values"), "needs records in the metadata, and --model")
        if "labels" in batch and "input_ids" in batch:
            labels, ids = batch["labels"], batch["input_ids"]
            c.put(
                "labels",
                name,
                labels,
                torch.where(labels == IGNORE, labels, ids),
                torch.ones_like(mask),
            )
            shifted = torch.full_like(labels, IGNORE)
            shifted[:, :-1] = ids[:, 1:]
            if bool(((labels == shifted) | (labels == IGNORE)).all()):
                c.hints["labels", name] = {"shift_off_by_one"}
        return
    try:
        seen = batch_views.view(
            c.vlm, [Record(one["question"], one["answer"], one.get("image")) for one in records]
        )
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{c.given.path}: metadata records of {name} are no list of objects with question, answer and image; "
            "expected one for each sequence"
        ) from None
    if len(mask) != len(records):
        raise UserError(
            f"{c.given.path}: batch {name} has {len(mask)} sequences and {len(records)} records; expected as many"
        )
    own = seen.batch.attention_mask.cpu() == 1
    for b in range(len(mask)):
        if int(mask[b].sum()) != int(own[b].sum()):
            raise UserError(
                f"{c.given.path}: {name} has {int(mask[b].sum())} real tokens in sequence {b}, its record gives "
                f"{int(own[b].sum())}: another template, tokenizer or picture size"
            )
    for stage in ("input_ids", "labels"):
        if stage in batch:
            expected = batch[stage].clone()
            for b in range(len(mask)):
                expected[b][mask[b]] = getattr(seen.batch, stage)[b].cpu()[own[b]]
            c.put(stage, name, batch[stage], expected, mask)
    if "labels" in batch:
        c.hints["labels", name] = miscounted(batch["labels"], mask, seen, own)
    if "pixel_values" in batch and seen.batch.pixel_values is not None:
        pixels = seen.batch.pixel_values
        c.put(
            "pixel_values",
            name,
            batch["pixel_values"],
            pixels,
            torch.ones(pixels.shape[:1], dtype=torch.bool),
        )


def miscounted(labels, mask, seen, own) -> set[str]:
    """The known mistakes that a label mask [B, T] is: kinds of token that it counts too, or each answer's first token lost."""
    found, first_lost = set(), []
    for b in range(len(mask)):
        ours, theirs = seen.batch.labels[b].cpu()[own[b]] != IGNORE, labels[b][mask[b]] != IGNORE
        kinds = [kind for kind in seen.kinds[b] if kind != "padding"]
        found |= {BY_KIND[kinds[i]] for i in (theirs & ~ours).nonzero().flatten().tolist()}
        missing = (ours & ~theirs).nonzero().flatten().tolist()
        first_lost.append(missing == ours.nonzero().flatten().tolist()[:1])
    return found | ({"bos_off_by_one"} if all(first_lost) else set())


def compare_model(c, name: str) -> None:
    """What the model makes of the batch, each stage from the dump's own tensors of the stage before it."""
    if c.vlm is None:
        return c.skip(name, OF_MODEL, "needs --model")
    batch, mask, vlm, model = c.given.batches[name], c.mask(name), c.vlm, c.vlm.model
    ids, pixels, grid = (
        batch.get("input_ids"),
        batch.get("pixel_values"),
        batch.get("image_grid_thw"),
    )
    wide = lambda tensor: tensor.to(vlm.device, vlm.dtype)  # noqa: E731
    check_pictures(c, name)
    if pixels is not None and "features" in batch and hasattr(model, "image_features"):
        features = model.image_features(wide(pixels), *([] if grid is None else [grid])).flatten(
            0, -2
        )
        c.put(
            "features",
            name,
            batch["features"].flatten(0, -2),
            features,
            torch.ones(len(features), dtype=torch.bool),
        )
    else:
        c.skip(name, ("features",), "needs pixel_values")
    if ids is None:
        return c.skip(name, OF_MODEL[1:], "needs input_ids")
    ids, real = ids.to(vlm.device), mask.long().to(vlm.device)
    if not 0 <= int(ids.min()) <= int(ids.max()) < vlm.text_config.vocab_size:
        raise UserError(
            f"{c.given.path}: {name}/input_ids range from {int(ids.min())} to {int(ids.max())}; expected ids in [0, "
            f"{vlm.text_config.vocab_size}), the vocabulary of {vlm.directory}"
        )
    pictures = None if pixels is None else wide(pixels)
    if "features" in batch and model.image_token_id is not None:
        embeddings = place_features(
            model.decoder.embed_tokens(ids),
            ids == model.image_token_id,
            wide(batch["features"]).flatten(0, -2),
            "as many",
        )
    else:
        embeddings = model.embed(ids, pictures, grid)
    if "embeddings" in batch:
        c.put("embeddings", name, batch["embeddings"], embeddings, mask)
        embeddings = wide(batch["embeddings"])
    positions, layer = model.positions(ids, real, grid), getattr(c.given.options, "layer", None)
    decode = lambda which=None: model.decoder(embeddings, real, positions, layer=which)[0]  # noqa: E731
    hidden = decode() if "hidden" in batch or "logits" in batch else None
    if "hidden" in batch:
        c.put("hidden", name, batch["hidden"], hidden, mask)
        hidden = wide(batch["hidden"])
    if "logits" in batch:
        c.put("logits", name, batch["logits"], at_least_float32(vlm.head(hidden)), mask)
    if layer is None:
        c.skip(name, ("layer_hidden", "teacher_layer_hidden"), "needs a method with a layer: rmu")
    else:
        vlm.check_layer(layer)
        if "layer_hidden" in batch:
            c.put("layer_hidden", name, batch["layer_hidden"], decode(layer), mask)
    compare_teacher(c, name, ids, real, pictures, grid, layer)


def check_pictures(c, name: str) -> None:
    """ShapeError for pixels, grid or features of a shape that the model does not take; the model checks Qwen2-VL's patches."""
    batch, vlm = c.given.batches[name], c.vlm
    expected = {"features": [vlm.text_config.hidden_size]}
    if hasattr(vlm.model, "image_features"):
        size = vlm.config.vision.image_size
        expected["pixel_values"] = [3, size, size]
        if "image_grid_thw" in batch:
            raise ShapeError(
                f"{c.given.path}: {name}/image_grid_thw is there; {vlm.directory} takes pictures of one size, "
                "expected none"
            )
    for key, last in expected.items():
        found = list(batch[key].shape) if key in batch else last
        if (
            found[-len(last) :] != last
            or key == "pixel_values"
            and key in batch
            and len(found) != 4
        ):
            axes = ", ".join(map(str, last))
            raise ShapeError(
                f"{c.given.path}: {name}/{key} has shape {found}; expected [., {axes}], as {vlm.directory} has it"
            )


def compare_teacher(c, name: str, ids, real, pictures, grid, layer) -> None:
    """The teacher's logits or hidden states, from ids and pixels. The student's in their place is a known mistake."""
    batch, model, vlm = c.given.batches[name], c.vlm.model, c.vlm
    for stage, student in (("teacher_logits", "logits"), ("teacher_layer_hidden", "layer_hidden")):
        if stage not in batch or stage == "teacher_layer_hidden" and layer is None:
            continue
        with vlm.adapters_off():
            ours = model.hidden(
                ids, real, pictures, grid, layer if student == "layer_hidden" else None
            )
            ours = ours if student == "layer_hidden" else at_least_float32(vlm.head(ours))
        c.put(stage, name, batch[stage], ours, real == 1)
        if student in batch and torch.equal(batch[student], batch[stage]):
            c.hints[stage, name] = {"reference_is_wrong_model"}
