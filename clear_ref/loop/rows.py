"""The data rows to forget and to retain."""

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName
from clear_ref.data.records import Row, has_config, read_rows

from .modalities import MODALITIES


def split_rows(
    directory: PathName,
    modality: str,
    forget: int,
    pictures: bool = True,
    retain_modality: str = "both",
) -> tuple[list[Row], list[Row]]:
    """The rows to forget and those to retain: pictures, texts or both.

    forget           per cent of the authors that are forgotten: 1, 5 or 10
    pictures         the model sees pictures; one that does not takes text alone, as in the paper's
                     text-only experiments
    retain_modality  modality of the retain rows; the paper's ablation (App. C) keeps both, whatever
                     is forgotten
    """
    for option, value in (("modality", modality), ("retain modality", retain_modality)):
        if value not in MODALITIES:
            raise UserError(f"{option} is {value!r}; expected one of {', '.join(MODALITIES)}")
    if not pictures:
        _check_text_only(modality, retain_modality)
        retain_modality = "text"
    forgotten = read_rows(directory, MODALITIES[modality].format(f"forget{forget:02d}"))
    retained = read_rows(directory, MODALITIES[retain_modality].format(f"retain{100 - forget}"))
    return forgotten, retained


def forget_configs(directory: PathName, forget: int) -> list[str]:
    """The configs of a forget set that a data directory holds: pictures, texts, both."""
    configs = [name.format(f"forget{forget:02d}") for name in MODALITIES.values()]
    return [config for config in configs if has_config(directory, config)]


def forget_rows(directory: PathName, forget: int) -> list[Row]:
    """The rows of every config of a forget set that a data directory holds."""
    found = forget_configs(directory, forget)
    return [row for config in found for row in read_rows(directory, config)]


def _check_text_only(modality: str, retain_modality: str) -> None:
    if modality != "text":
        raise UserError(
            f"--modality is {modality}, and the model sees no pictures; expected --modality text"
        )
    if retain_modality == "visual":
        raise UserError(
            "--retain-modality is visual, and the model sees no pictures; "
            "expected --retain-modality text"
        )
