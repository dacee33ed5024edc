"""The stages of a dump that a model computes: from pixels and ids to the logits.

Each stage is computed from the dump's own tensors of the stage before it.
"""

from dataclasses import dataclass

import torch

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.model.base_model import place_features
from clear_ref.model.language import at_least_float32
from clear_ref.model.llava import Llava
from clear_ref.model.vlm import VLM

from .comparison import Comparison

OF_MODEL = (
    "features",
    "embeddings",
    "hidden",
    "layer_hidden",
    "teacher_layer_hidden",
    "logits",
    "teacher_logits",
)


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of the model from one batch of a dump, on the model's device.

    ids, mask  [B, T] int64; pixels, grid: as the model takes them, or None
    """

    ids: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor | None
    grid: torch.Tensor | None


def compare_model(comparison: Comparison, name: str) -> None:
    """Compare what the model computes from the batch, stage by stage."""
    vlm = comparison.vlm
    if vlm is None:
        comparison.skip(name, OF_MODEL, "needs --model")
        return
    check_pictures(comparison, vlm, name)
    compare_features(comparison, vlm, name)
    tensors = comparison.dump.batches[name]
    if "input_ids" not in tensors:
        comparison.skip(name, OF_MODEL[1:], "needs input_ids")
        return
    check_ids(comparison, vlm, name)
    pixels = tensors.get("pixel_values")
    inputs = ModelInputs(
        tensors["input_ids"].to(vlm.device),
        comparison.real_positions(name).long().to(vlm.device),
        None if pixels is None else cast(vlm, pixels),
        tensors.get("image_grid_thw"),
    )
    embeddings = compare_embeddings(comparison, vlm, name, inputs)
    layer = getattr(comparison.dump.options, "layer", None)
    compare_decoder(comparison, vlm, name, inputs, embeddings, layer)
    compare_teacher(comparison, vlm, name, inputs, layer)


def cast(vlm: VLM, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the device and the dtype of the model."""
    return tensor.to(vlm.device, vlm.dtype)


def compare_features(comparison: Comparison, vlm: VLM, name: str) -> None:
    """Compare the picture features, computed from the dump's pixels."""
    tensors = comparison.dump.batches[name]
    model = vlm.model
    is_complete = "pixel_values" in tensors and "features" in tensors
    if not isinstance(model, Llava) or not is_complete:
        comparison.skip(name, ("features",), "needs pixel_values")
        return
    ours = model.image_features(cast(vlm, tensors["pixel_values"])).flatten(0, -2)
    theirs = tensors["features"].flatten(0, -2)
    every_feature = torch.ones(len(ours), dtype=torch.bool)
    comparison.compare("features", name, theirs, ours, every_feature)


def compare_embeddings(
    comparison: Comparison, vlm: VLM, name: str, inputs: ModelInputs
) -> torch.Tensor:
    """[B, T, D] input of the first decoder layer: the dump's where it has it, otherwise ours.

    Ours are computed from the dump's ids and its features, or from its pixels without features.
    """
    tensors = comparison.dump.batches[name]
    model = vlm.model
    if "features" in tensors and model.image_token_id is not None:
        embeddings = place_features(
            model.decoder.embed_tokens(inputs.ids),
            inputs.ids == model.image_token_id,
            cast(vlm, tensors["features"]).flatten(0, -2),
            "as many",
        )
    else:
        embeddings = model.embed(inputs.ids, inputs.pixels, inputs.grid)
    if "embeddings" not in tensors:
        return embeddings
    real = comparison.real_positions(name)
    comparison.compare("embeddings", name, tensors["embeddings"], embeddings, real)
    return cast(vlm, tensors["embeddings"])


def compare_decoder(
    comparison: Comparison,
    vlm: VLM,
    name: str,
    inputs: ModelInputs,
    embeddings: torch.Tensor,
    layer: int | None,
) -> None:
    """Compare the hidden states after the last norm, the logits, and the output of `layer`.

    Logits are computed from the dump's hidden states where it has them.
    """
    tensors = comparison.dump.batches[name]
    real = comparison.real_positions(name)
    positions = vlm.model.positions(inputs.ids, inputs.mask, inputs.grid)

    def decode(layer: int | None = None) -> torch.Tensor:
        return vlm.model.decoder(embeddings, inputs.mask, positions, layer=layer)[0]

    if "hidden" in tensors or "logits" in tensors:
        hidden = decode()
        if "hidden" in tensors:
            comparison.compare("hidden", name, tensors["hidden"], hidden, real)
            hidden = cast(vlm, tensors["hidden"])
        if "logits" in tensors:
            logits = at_least_float32(vlm.head(hidden))
            comparison.compare("logits", name, tensors["logits"], logits, real)
    if layer is None:
        comparison.skip(
            name, ("layer_hidden", "teacher_layer_hidden"), "needs a method with a layer: rmu"
        )
        return
    vlm.check_layer(layer)
    if "layer_hidden" in tensors:
        comparison.compare("layer_hidden", name, tensors["layer_hidden"], decode(layer), real)


def compare_teacher(
    comparison: Comparison, vlm: VLM, name: str, inputs: ModelInputs, layer: int | None
) -> None:
    """Compare the teacher's logits, and its hidden states at `layer`, computed from the inputs.

    If they are the student's tensors, this is the known mistake reference_is_wrong_model.
    """
    tensors = comparison.dump.batches[name]
    real = comparison.real_positions(name)
    for student_stage in ("logits", "layer_hidden"):
        stage = f"teacher_{student_stage}"
        if stage not in tensors:
            continue
        if student_stage == "layer_hidden" and layer is None:
            continue
        with vlm.adapters_off():
            ours = vlm.model.hidden(
                inputs.ids,
                inputs.mask,
                inputs.pixels,
                inputs.grid,
                layer if student_stage == "layer_hidden" else None,
            )
            if student_stage == "logits":
                ours = at_least_float32(vlm.head(ours))
        comparison.compare(stage, name, tensors[stage], ours, real)
        student = tensors.get(student_stage)
        if student is not None and torch.equal(student, tensors[stage]):
            comparison.mistakes[stage, name] = {"reference_is_wrong_model"}


def check_ids(comparison: Comparison, vlm: VLM, name: str) -> None:
    """UserError for an id that is not in the model's vocabulary."""
    ids = comparison.dump.batches[name]["input_ids"]
    lowest = int(ids.min())
    highest = int(ids.max())
    if lowest < 0 or highest >= vlm.text_config.vocab_size:
        raise UserError(
            f"{comparison.dump.path}: {name}/input_ids range from {lowest} to {highest}; "
            f"expected ids in [0, {vlm.text_config.vocab_size}), the vocabulary of {vlm.directory}"
        )


def check_pictures(comparison: Comparison, vlm: VLM, name: str) -> None:
    """ShapeError for pixels, grid or features of a shape that the model does not take.

    The patches of Qwen2-VL are checked by the model itself.
    """
    tensors = comparison.dump.batches[name]
    path = comparison.dump.path
    expected_last = {"features": [vlm.text_config.hidden_size]}
    if isinstance(vlm.model, Llava):
        if "image_grid_thw" in tensors:
            raise ShapeError(
                f"{path}: {name}/image_grid_thw is given; {vlm.directory} takes pictures of one "
                "size, expected none"
            )
        size = vlm.config.vision.image_size
        expected_last["pixel_values"] = [3, size, size]
    for key, last in expected_last.items():
        if key not in tensors:
            continue
        shape = list(tensors[key].shape)
        wrong_rank = key == "pixel_values" and len(shape) != 4
        if shape[-len(last) :] != last or wrong_rank:
            axes = ", ".join(map(str, last))
            raise ShapeError(
                f"{path}: {name}/{key} has shape {shape}; expected [., {axes}], "
                f"the shape that {vlm.directory} takes"
            )
