"""The table of tensor and layer names: how each generation of transformers names a model's parts.

Our modules have the names of the hub's checkpoint files, which were transformers' module names up
to 4.51. A stored tensor can have the name of any generation. An adapter has the module names of
the generation that PEFT wrapped.
"""

import re

from clear_ref.common.errors import UserError

Prefixes = tuple[str, str, str, str]

# Each row holds the prefix of one part of a model, in four columns:
# ours and transformers up to 4.51 | modules of 4.52 to 4.57 | modules of 5 | files written by 5.
LLAVA: tuple[Prefixes, ...] = (
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
QWEN2_VL: tuple[Prefixes, ...] = (
    ("visual.", "model.visual.", "model.visual.", "visual."),
    ("model.", "model.language_model.", "model.language_model.", "model."),
    ("lm_head.", "lm_head.", "lm_head.", "lm_head."),
)
# The parts of a plain decoder have the same names in every generation.
DECODER: tuple[Prefixes, ...] = (
    ("model.", "model.", "model.", "model."),
    ("lm_head.", "lm_head.", "lm_head.", "lm_head."),
)
FAMILIES = {  # by model_type
    "llava": LLAVA,
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_VL,
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": DECODER,
}
GENERATIONS = range(4)  # the columns
CURRENT_MODULES = 2  # the column that PEFT writes with transformers 5
# Buffers that older files hold. They are computed, not read; transformers ignores them too.
COMPUTED = re.compile(r"(^|\.)rotary_(pos_)?emb\.inv_freq$|\.embeddings\.position_ids$")
# Our names of weights that decide no result. A file may lack them; transformers then takes 1 for a
# weight and 0 for a bias.
UNREAD = re.compile(r"vision_tower\.vision_model\.post_layernorm\.(weight|bias)")
OUTSIDE_THE_DECODER = ("vision_tower.", "multi_modal_projector.", "visual.")  # our names
HEAD = "lm_head"  # the last part of the output layer's name, in every generation


def name_table(family: str) -> tuple[Prefixes, ...]:
    """The rows of a family; UserError for an unknown one."""
    if family not in FAMILIES:
        raise UserError(f"model_type is {family!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[family]


def _replace_prefix(name: str, prefix: str, new_prefix: str) -> str:
    """`name` with another prefix. A prefix ends with a dot; `name` may be the prefix without it."""
    return (new_prefix + (name + ".").removeprefix(prefix))[:-1]


def our_name(name: str, family: str) -> str:
    """Our name of a tensor or layer with a name of any generation.

    A name that matches no prefix of the table is returned unchanged. If several match, the longest
    one counts.
    """
    longest = ""
    ours = ""
    for row in name_table(family):
        for prefix in row:
            if (name + ".").startswith(prefix) and len(prefix) > len(longest):
                longest = prefix
                ours = row[0]
    return _replace_prefix(name, longest, ours) if longest else name


def name_in_generation(name: str, family: str, generation: int = CURRENT_MODULES) -> str:
    """The name that a generation (a column of the table) has for our `name`.

    raises  UserError if the name matches no row of the table
    """
    for row in name_table(family):
        if (name + ".").startswith(row[0]):
            return _replace_prefix(name, row[0], row[generation])
    prefixes = ", ".join(row[0] for row in name_table(family))
    raise UserError(
        f"{name!r} is no tensor or layer of a {family} model; "
        f"expected a name that begins with one of {prefixes}"
    )


def in_decoder(name: str) -> bool:
    """True if our `name` belongs to the decoder or its head, not to vision tower or projector."""
    return not name.startswith(OUTSIDE_THE_DECODER)
