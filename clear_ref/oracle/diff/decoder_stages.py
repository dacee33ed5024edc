"""The stages of a dump that the decoder computes: positions, hidden states, logits, the teacher."""

from collections.abc import Callable
from functools import partial

import torch

from clear_ref.model.language import at_least_float32
from clear_ref.model.qwen2_vl import Qwen2VL

from .causes.decoder import DecoderInputs, decoder_causes
from .causes.numbers import number_causes
from .causes.positions import position_causes, relative, with_axes, wrong_positions
from .comparison import Causes, Fit
from .picture_stages import ModelBatch, cast

Head = Callable[[torch.Tensor], torch.Tensor]


def compare_positions(batch: ModelBatch) -> torch.Tensor:
    """[B, T] or [3, B, T] positions: the dump's where it has them, otherwise ours.

    They are compared relative to each row's first real position, because attention depends on
    differences alone. Positions of one axis may count over the columns, or over the mask.
    """
    vlm = batch.vlm
    real = batch.real
    B, T = real.shape
    is_image = batch.is_image.cpu()
    counted = real
    if isinstance(vlm.model, Qwen2VL):
        # Under a mask that hides a part of a picture no positions are defined.
        counted = batch.comparison.right_masks.get(batch.name, real) | is_image
    ours = vlm.model.positions(batch.ids.cpu(), counted.long(), batch.grid)
    if "position_ids" not in batch.tensors:
        return ours.to(vlm.device)
    theirs = with_axes(batch.tensors["position_ids"], B, T)
    expected = ours
    if ours.ndim == 2:
        theirs = theirs[-1:]
        over_columns = torch.arange(T).expand(1, B, T)
        moved = relative(over_columns, real)
        same = torch.equal(relative(theirs, real)[:, real], moved[:, real])
        expected = over_columns if same else ours[None]

    def explain(fit: Fit) -> Causes:
        return position_causes(fit, theirs, is_image, counted, batch.picture_sizes)

    batch.comparison.compare(
        "position_ids",
        batch.name,
        relative(theirs.expand(len(expected), -1, -1), real).permute(1, 2, 0),
        relative(expected, real).permute(1, 2, 0),
        real,
        explain=explain,
    )
    if ours.ndim == 2:
        return theirs[0].to(vlm.device)
    return theirs.expand(3, -1, -1).to(vlm.device)


def compare_decoder(
    batch: ModelBatch, embeddings: torch.Tensor, positions: torch.Tensor, layer: int | None
) -> None:
    """Compare the hidden states after the last norm, the logits, and the output of `layer`.

    Logits are computed from the dump's hidden states where it has them.
    """
    vlm = batch.vlm
    tensors = batch.tensors
    compare = partial(batch.comparison.compare, batch=batch.name, places=batch.real)
    explain = partial(_explain_hidden, batch, embeddings, positions)

    def decode(layer: int | None = None) -> torch.Tensor:
        return vlm.model.decoder(embeddings, batch.mask, positions, layer=layer)[0]

    def logits_of(hidden: torch.Tensor) -> torch.Tensor:
        return at_least_float32(vlm.head(hidden))

    if "hidden" in tensors:
        ours = decode()
        explain_hidden = partial(explain, None, None, ours)
        compare("hidden", theirs=tensors["hidden"], ours=ours, explain=explain_hidden)
    if "logits" in tensors:
        if "hidden" in tensors:
            ours = logits_of(cast(vlm, tensors["hidden"]))
            explain_logits = partial(_explain_logits, ours)
        else:
            ours = logits_of(decode())
            explain_logits = partial(explain, None, logits_of, ours)
        compare("logits", theirs=tensors["logits"], ours=ours, explain=explain_logits)
    if layer is None:
        batch.comparison.skip(
            batch.name, ("layer_hidden", "teacher_layer_hidden"), "needs a method with a layer: rmu"
        )
        return
    vlm.check_layer(layer)
    if "layer_hidden" in tensors:
        ours = decode(layer)
        explain_layer = partial(explain, layer, None, ours)
        compare("layer_hidden", theirs=tensors["layer_hidden"], ours=ours, explain=explain_layer)


def _explain_logits(ours: torch.Tensor, fit: Fit) -> Causes:
    """The causes of logits that differ from those of the dump's hidden states."""
    if fit.explained_by(ours.log_softmax(-1)):
        return {"logp_for_logits": ""}
    return number_causes(fit, ours)


def _explain_hidden(
    batch: ModelBatch,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    layer: int | None,
    head: Head | None,
    ours: torch.Tensor,
    fit: Fit,
) -> Causes:
    """The causes of hidden states that differ, or of logits if there is a head."""
    sizes = batch.picture_sizes
    others: tuple[tuple[str, str, torch.Tensor], ...] = ()
    if isinstance(batch.vlm.model, Qwen2VL):
        others = tuple(wrong_positions(batch.is_image.cpu(), batch.real, sizes))
    labels = batch.tensors.get("labels")
    ids = batch.ids.cpu()
    given = DecoderInputs(embeddings, batch.real, positions, ids, labels, layer, head, others)
    with torch.no_grad():
        return decoder_causes(fit, batch.vlm, given) or number_causes(fit, ours)


def compare_teacher(batch: ModelBatch, positions: torch.Tensor, layer: int | None) -> None:
    """Compare the teacher's logits, and its hidden states at `layer`, computed from the inputs.

    If they are the student's tensors, this is the known mistake reference_is_wrong_model.
    """
    vlm = batch.vlm
    tensors = batch.tensors
    for student_stage in ("logits", "layer_hidden"):
        stage = f"teacher_{student_stage}"
        if stage not in tensors:
            continue
        if student_stage == "layer_hidden" and layer is None:
            continue
        wanted = layer if student_stage == "layer_hidden" else None
        with vlm.adapters_off():
            embeddings = vlm.model.embed(batch.ids, batch.pixels, batch.grid)
            ours = vlm.model.decoder(embeddings, batch.mask, positions, layer=wanted)[0]
            if student_stage == "logits":
                ours = at_least_float32(vlm.head(ours))
        student = tensors.get(student_stage)

        def explain(
            fit: Fit,
            ours: torch.Tensor = ours,
            student: torch.Tensor | None = student,
        ) -> Causes:
            if student is not None and fit.explained_by(student):
                return {"reference_is_wrong_model": ""}
            return number_causes(fit, ours)

        batch.comparison.compare(
            stage, batch.name, tensors[stage], ours, batch.real, explain=explain
        )
