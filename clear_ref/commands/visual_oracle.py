"""visual-oracle: certificates, golden vectors, conform and diff of the visual-only methods."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import check_directory
from clear_ref.oracle.certify import certificates
from clear_ref.oracle.visual import certify, conform, diff, golden

from .given import settings_from
from .output import Output
from .visual_oracle_settings import VISUAL_VECTORS, VisualOracleSettings

# The settings that each action reads.
READ: dict[str, set[str]] = {
    "certify": set(),
    "vectors": {"out"},
    "conform": {"loss", "methods", "semantics", "dtype", "framework"},
    "diff": {"dump", "methods", "semantics"},
}


def command(arguments: Namespace) -> Output:
    """What `visual-oracle` prints; certify, conform and diff fail if a claim, a case or the loss
    does.
    """
    settings = settings_from(arguments, VisualOracleSettings)
    action = arguments.action
    for each in fields(VisualOracleSettings):
        if each.name in vars(arguments) and each.name not in READ[action]:
            raise UserError(
                f"visual-oracle {action}: --{each.name} is given, which {action} does not read; "
                "leave it out"
            )
    if action == "certify":
        return Output(certify.certify(), certificates.text, certificates.check)
    if action == "vectors":
        directory = settings.out or VISUAL_VECTORS
        check_directory(Path(directory), "--out")
        return Output(golden.write(directory), golden.text)
    if action == "diff":
        for name in ("dump", "methods"):
            if not getattr(settings, name):
                raise UserError(
                    f"visual-oracle diff: --{name} is missing; expected --dump FILE --methods "
                    "METHOD, the file and method of one step"
                )
        found = diff.run(settings.dump, settings.methods, settings.semantics)
        return Output(found, diff.text, diff.check)
    if not settings.loss:
        raise UserError(
            "visual-oracle conform: --loss is missing; expected module:function, such as "
            "mylosses:loss"
        )
    found = conform.run(
        settings.loss,
        settings.methods,
        settings.semantics,
        settings.dtype,
        settings.framework,
    )
    return Output(found, conform.text, conform.check)
