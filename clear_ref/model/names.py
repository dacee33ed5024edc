"""The one table of names: what each generation of transformers calls the places of a model, and which of them is ours.

Our modules have the names of the hub's checkpoint files, which were transformers' module names up to 4.51. A stored tensor may
have the name of any generation; an adapter has the module names of the generation that PEFT wrapped.
"""

import re

from clear_ref.common.errors import UserError

# Columns: ours and transformers up to 4.51 | modules of 4.52 to 4.57 | modules of 5 | what 5 writes into files.
LLAVA = (
    (
        "language_model.model.",
        "model.language_model.",
        "model.language_model.",
        "language_model.model.",
    ),
    ("language_model.lm_head.", "lm_head.", "lm_head.", "language_model.lm_head."),
    (
        "vision_tower.vision_model.",
        "model.vision_tower.vision_model.",
        "model.vision_tower.",
        "vision_tower.",
    ),
    (
        "multi_modal_projector.",
        "model.multi_modal_projector.",
        "model.multi_modal_projector.",
        "multi_modal_projector.",
    ),
)
QWEN2_VL = (
    ("visual.", "model.visual.", "model.visual.", "visual."),
    ("model.", "model.language_model.", "model.language_model.", "model."),
    ("lm_head.", "lm_head.", "lm_head.", "lm_head."),
)
DECODER = (("model.",) * 4, ("lm_head.",) * 4)  # a plain decoder was never renamed
FAMILIES = {
    "llava": LLAVA,
    "qwen2_vl": QWEN2_VL,
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": DECODER,
}  # by model_type
GENERATIONS = range(4)
MODULES_TODAY = 2  # the column that PEFT writes today
# Buffers that older saves hold and that are computed, not read: transformers passes over them too.
COMPUTED = re.compile(r"(^|\.)rotary_(pos_)?emb\.inv_freq$|\.embeddings\.position_ids$")
BESIDE_THE_DECODER = ("vision_tower.", "multi_modal_projector.", "visual.")  # ours
HEAD = "lm_head"  # the last part of the output layer's name, everywhere


def table(family: str) -> tuple[tuple[str, ...], ...]:
    """The rows of a family; UserError for one without."""
    if family not in FAMILIES:
        raise UserError(f"model_type is {family!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[family]


def _move(name: str, prefix: str, other: str) -> str:
    return (other + (name + ".").removeprefix(prefix))[:-1]


def ours(name: str, family: str) -> str:
    """Our name of a tensor or layer that any generation named; a name that none of them has comes back unchanged."""
    known = [
        (prefix, row[0])
        for row in table(family)
        for prefix in row
        if (name + ".").startswith(prefix)
    ]
    return _move(name, *max(known, key=lambda pair: len(pair[0]))) if known else name


def spelled(name: str, family: str, generation: int = MODULES_TODAY) -> str:
    """What a generation (a column of the table) calls our `name`; UserError for a name outside of the table."""
    for row in table(family):
        if (name + ".").startswith(row[0]):
            return _move(name, row[0], row[generation])
    raise UserError(
        f"{name!r} is no place of a {family} model; expected a name below {', '.join(r[0] for r in table(family))}"
    )


def in_decoder(name: str) -> bool:
    """Whether our `name` is of the decoder or its head, not of the vision tower or the projector."""
    return not name.startswith(BESIDE_THE_DECODER)
