"""The stages of a dump that pictures go through: features and embeddings; checks of a batch."""

from dataclasses import dataclass

import torch

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.model.base_model import place_features
from clear_ref.model.llava import Llava
from clear_ref.model.qwen2_vl import Qwen2VL
from clear_ref.model.vlm import VLM

from .causes.numbers import number_causes
from .causes.vision import wrong_embeddings, wrong_features
from .comparison import Causes, Comparison, Fit
from .dump_tensors import Tensors


@dataclass(frozen=True)
class ModelBatch:
    """One batch of a dump, as the model takes it.

    ids      [B, T] int64 on the model's device; real: [B, T] bool on the CPU, the dump's mask
    pixels   as the model takes them, or None; grid: image_grid_thw or None
    """

    comparison: Comparison
    vlm: VLM
    name: str
    ids: torch.Tensor
    real: torch.Tensor
    pixels: torch.Tensor | None
    grid: torch.Tensor | None

    @property
    def tensors(self) -> Tensors:
        """The batch's tensors by name."""
        return self.comparison.dump.batches[self.name]

    @property
    def mask(self) -> torch.Tensor:
        """[B, T] int64 attention mask on the model's device."""
        return self.real.long().to(self.vlm.device)

    @property
    def is_image(self) -> torch.Tensor:
        """[B, T] bool: image tokens."""
        image = self.vlm.model.image_token_id
        return torch.zeros_like(self.ids, dtype=torch.bool) if image is None else self.ids == image

    @property
    def picture_sizes(self) -> list[tuple[int, int]]:
        """(rows, columns) in tokens of the pictures of Qwen2-VL; [] for other models."""
        model = self.vlm.model
        if not isinstance(model, Qwen2VL):
            return []
        return [(h // model.merge, w // model.merge) for h, w in model.picture_sizes(self.grid)]


def cast(vlm: VLM, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the device and the dtype of the model."""
    return tensor.to(vlm.device, vlm.dtype)


def compare_features(comparison: Comparison, vlm: VLM, name: str) -> None:
    """Compare the pictures' features after the projector or merger, computed from the pixels."""
    tensors = comparison.dump.batches[name]
    if "features" not in tensors:
        return
    model = vlm.model
    grid = tensors.get("image_grid_thw")
    needed = ("pixel_values", "image_grid_thw") if isinstance(model, Qwen2VL) else ("pixel_values",)
    for key in needed:
        if key not in tensors:
            comparison.skip(name, ("features",), f"needs {key}")
            return
    pixels = cast(vlm, tensors["pixel_values"])
    if isinstance(model, Llava):
        ours = model.image_features(pixels).flatten(0, -2)
    elif isinstance(model, Qwen2VL):
        ours = model.visual(pixels, model.picture_sizes(grid))
    else:
        comparison.skip(name, ("features",), f"{vlm.family.name} takes no pictures")
        return
    theirs = tensors["features"].flatten(0, -2)
    if len(theirs) != len(ours):
        raise ShapeError(
            f"{comparison.dump.path}: {name}/features are {len(theirs)}, and the pictures give "
            f"{len(ours)}{_why(model, tensors, len(theirs), len(ours))}"
        )

    def explain(fit: Fit) -> Causes:
        causes: Causes = {}
        for cause, detail, wrong in wrong_features(vlm, pixels, grid):
            if cause not in causes and fit.explained_by(wrong):
                causes[cause] = detail
        return causes or number_causes(fit, ours)

    every_feature = torch.ones(len(ours), dtype=torch.bool)
    comparison.compare("features", name, theirs, ours, every_feature, explain=explain)


def _why(model: Llava | Qwen2VL, tensors: Tensors, theirs: int, ours: int) -> str:
    """The reason for another number of features, as part of a sentence."""
    if isinstance(model, Llava) and theirs - ours == len(tensors["pixel_values"]):
        return "; theirs are one more for each picture: drop the class token"
    if isinstance(model, Qwen2VL) and theirs == ours * model.merge**2:
        return "; theirs are those of the patches: write them after the merger"
    return "; write the output of the projector or merger for these pictures"


def compare_embeddings(batch: ModelBatch) -> torch.Tensor:
    """[B, T, D] input of the first decoder layer: the dump's where it has it, otherwise ours.

    Ours are computed from the dump's ids and its features, or from its pixels without features.
    """
    vlm = batch.vlm
    tensors = batch.tensors
    plain = vlm.model.decoder.embed_tokens(batch.ids)
    if "features" in tensors and vlm.model.image_token_id is not None:
        features = cast(vlm, tensors["features"]).flatten(0, -2)
        embeddings = place_features(plain, batch.is_image, features, "as many")
    else:
        embeddings = vlm.model.embed(batch.ids, batch.pixels, batch.grid)
    if "embeddings" not in tensors:
        return embeddings

    def explain(fit: Fit) -> Causes:
        causes: Causes = {}
        features = embeddings[batch.is_image]
        sizes = _tokens_of_pictures(batch, len(features))
        for cause, detail, wrong in wrong_embeddings(plain, batch.is_image, features, sizes):
            if cause not in causes and fit.explained_by(wrong):
                causes[cause] = detail
        return causes or number_causes(fit, embeddings)

    theirs = tensors["embeddings"]
    batch.comparison.compare(
        "embeddings", batch.name, theirs, embeddings, batch.real, explain=explain
    )
    return cast(vlm, theirs)


def _tokens_of_pictures(batch: ModelBatch, n_features: int) -> list[int]:
    """The number of tokens of each picture."""
    model = batch.vlm.model
    if isinstance(model, Llava):
        return [model.n_image_tokens] * (n_features // model.n_image_tokens)
    return [rows * columns for rows, columns in batch.picture_sizes]


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
