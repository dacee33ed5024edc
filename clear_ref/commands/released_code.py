"""Which of the authors' two training codes `--semantics released` stands for in a run.

mm/ trains vision-language models on pictures and texts; nlp/ trains language models on texts.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeVar

from clear_ref.common.errors import UserError
from clear_ref.common.settings import setting
from clear_ref.methods.semantics import DATED, TEXT_ONLY

Settings = TypeVar("Settings")
CODES = ("auto", "mm", "nlp")


def released_code_setting() -> Any:
    """--released-code"""
    return setting(
        "auto",
        "which code of the authors --semantics released is: mm, the multimodal one; nlp, the "
        "text-only one (released@nlp); auto: nlp for --modality text, else mm",
        "nlp/ made Table 4, mm/ the others; Table 3 has text with mm",
        choices=CODES,
    )


def with_released_code(settings: Settings, given: Collection[str] = ()) -> Settings:
    """The settings with the semantics by its full name: released@nlp for the text-only code.

    settings  of a command, with semantics, modality and released_code. A retain_modality becomes
              text, because the text-only code reads no picture
    given     names of the settings that the command line gave
    raises    UserError for values that contradict each other
    """
    changed: Any = settings
    code = released_code(changed.semantics, changed.modality, changed.released_code)
    changes = {"released_code": code}
    if code == "nlp":
        changes["semantics"] = TEXT_ONLY
        retained = getattr(changed, "retain_modality", "text")
        if retained != "text" and "retain_modality" in given:
            raise UserError(
                f"--retain-modality is {retained}, and the authors' text-only code reads no "
                "pictures; expected --retain-modality text, or --released-code mm"
            )
        if hasattr(changed, "retain_modality"):
            changes["retain_modality"] = "text"
    return replace(changed, **changes)


def changed_sources(before: Any, after: Any) -> dict[str, str]:
    """{name: source for settings.json} of what with_released_code changed.

    released_code itself keeps the source of its default.
    """
    found = {}
    if before.semantics != after.semantics:
        found["semantics"] = f"--semantics {before.semantics} with the authors' text-only code"
    if before.retain_modality != after.retain_modality:
        found["retain_modality"] = "the authors' text-only code reads no pictures"
    return found


def released_code(semantics: str, modality: str, code: str) -> str:
    """mm or nlp for the released semantics; auto for the others, which are not released code.

    code    the value of --released-code
    raises  UserError for values that contradict each other
    """
    if semantics not in (*DATED, TEXT_ONLY):
        if code != "auto":
            raise UserError(
                f"--released-code is {code}, and --semantics is {semantics}, which is no released "
                "code; leave --released-code out, or give --semantics released"
            )
        return code
    if semantics == TEXT_ONLY and code == "mm":
        raise UserError(
            f"--released-code is mm, and --semantics is {TEXT_ONLY}; expected --semantics released"
        )
    if code == "auto" and semantics != TEXT_ONLY:
        return "nlp" if modality == "text" else "mm"
    if code == "mm":
        return code
    if modality != "text":
        raise UserError(
            f"--modality is {modality}, and the authors' text-only code (nlp/) reads no pictures; "
            "expected --modality text, or --semantics released with --released-code mm"
        )
    return "nlp"
