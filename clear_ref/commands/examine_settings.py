"""Settings of the commands that examine a method, another implementation, or the machine."""

from dataclasses import dataclass

from clear_ref.common.settings import DTYPES, setting
from clear_ref.data.label_masks import MASKS
from clear_ref.loop.modalities import MODALITIES

from .released_code import released_code_setting
from .settings import (
    data_setting,
    device_setting,
    forget_setting,
    model_setting,
    seed_setting,
    template_setting,
)

VECTORS = "vectors"  # directory that `vectors` writes


@dataclass(frozen=True)
class DoctorSettings:
    """doctor: the machine, or one model directory."""

    model: str = setting(
        "",
        "only say whether this model directory (or mini) can be loaded; if not, all that is wrong",
    )
    template: str = template_setting()


@dataclass(frozen=True)
class ExplainSettings:
    """Options of `explain METHOD`."""

    semantics: str = setting("", "one semantics; default: all; with --batch: paper")
    released_code: str = released_code_setting()
    compare: str = setting(
        "",
        "two semantics with a comma, such as paper,released: a batch under both, side by side; the "
        "second may be what --mistake takes",
    )
    mistake: str = setting(
        "",
        "a known mistake, or another project's meaning or name: a batch under one semantics and "
        "with it, side by side; explain --mistakes prints all names",
    )
    html: str = setting("", "file for a page with the tokens of a batch coloured")
    records: int = setting(2, "records in the batch")
    index: int = setting(0, "the first record's number in the forget set")
    model: str = model_setting("mini")
    adapter: str = setting(
        "",
        "PEFT directory: the student is the model with these adapters, the teacher without; "
        "default: none, the student is the teacher",
    )
    template: str = template_setting()
    data: str = data_setting()
    modality: str = setting("both", "which forget set", choices=list(MODALITIES))
    forget: int = forget_setting()
    mask: str = setting(
        "auto",
        "what the labels cover: answer, released (image and prompt too) "
        "or auto: as the semantics has it",
        choices=("auto", *MASKS),
    )
    seed: int = seed_setting()
    device: str = device_setting()
    dtype: str = setting(
        "float64", "dtype of the weights and of the computation", choices=list(DTYPES)
    )


@dataclass(frozen=True)
class DiffSettings:
    """Options of `diff DUMP`."""

    model: str = model_setting(
        "",
        "model directory in HF format, or mini: with it the stages before the logits are compared",
    )
    adapter: str = setting(
        "", "PEFT directory: the student is the model with these adapters, the teacher without"
    )
    pictures: str = setting(
        "", "folder of the pictures that the dump's records name, if it is not the dump's own"
    )
    method: str = setting("", "the method, instead of the one that the dump names")
    semantics: str = setting("", "its semantics, instead of the one that the dump names")
    template: str = template_setting()
    device: str = device_setting()
