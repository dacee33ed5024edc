"""The stages of a dump that a model computes: from pixels and ids to the logits.

Each stage is computed from the dump's own tensors of the stage before it.
"""

from .comparison import Comparison
from .decoder_stages import compare_decoder, compare_positions, compare_teacher
from .picture_stages import (
    ModelBatch,
    cast,
    check_ids,
    compare_embeddings,
    compare_features,
)

OF_MODEL = (
    "features",
    "embeddings",
    "position_ids",
    "hidden",
    "layer_hidden",
    "teacher_layer_hidden",
    "logits",
    "teacher_logits",
)


def compare_model(comparison: Comparison, name: str) -> None:
    """Compare what the model computes from the batch, stage by stage."""
    vlm = comparison.vlm
    if vlm is None:
        comparison.skip(name, OF_MODEL, "needs --model")
        return
    compare_features(comparison, vlm, name)
    tensors = comparison.dump.batches[name]
    if "input_ids" not in tensors:
        comparison.skip(name, OF_MODEL[1:], "needs input_ids")
        return
    check_ids(comparison, vlm, name)
    pixels = tensors.get("pixel_values")
    batch = ModelBatch(
        comparison,
        vlm,
        name,
        tensors["input_ids"].to(vlm.device),
        comparison.real_positions(name),
        None if pixels is None else cast(vlm, pixels),
        tensors.get("image_grid_thw"),
    )
    embeddings = compare_embeddings(batch)
    positions = compare_positions(batch)
    layer = getattr(comparison.dump.options, "layer", None)
    compare_decoder(batch, embeddings, positions, layer)
    compare_teacher(batch, positions, layer)
