"""`certify`: every claim about every method under every semantics, measured, with its bound.

There are three kinds of claims. Closed forms (claims.py) and laws (laws.py) follow from the
formulas and were worked out on paper. The third kind (routes.py) is the same number by another
route: the numpy reference of oracle/reference, and finite differences of the loss, through raw
logits or hidden states and through a whole VLM with adapters. Everything is in float64; the inputs
are random but fixed (oracle/reference/inputs.py).
"""

import time
from dataclasses import asdict
from typing import TypedDict

import torch

from clear_ref.common.errors import RunFailed
from clear_ref.common.progress import Progress

from . import claims, laws
from .measured import Measured
from .routes import against_reference, through_logits, through_model

PARTS = (claims.measure, laws.measure, against_reference, through_logits, through_model)


class CertifiedClaim(TypedDict):
    """The fields of a Measured, and whether the claim holds."""

    claim: str
    method: str
    semantics: str
    n: int
    error: float
    bound: float
    reason: str
    ok: bool


class Certificate(TypedDict):
    """What `certify --json` prints; claims, failed: numbers of rows."""

    rows: list[CertifiedClaim]
    claims: int
    failed: int
    seconds: float


def certify() -> Certificate:
    """Every claim, measured on one thread."""
    started = time.monotonic()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bar = Progress("certify", len(PARTS), "part")
    measured: list[Measured] = []
    try:
        for part in PARTS:
            measured += part()
            bar.step(note=part.__name__)
    finally:
        torch.set_num_threads(n_threads)
        bar.close()
    return Certificate(
        rows=[as_row(one) for one in measured],
        claims=len(measured),
        failed=sum(not one.ok for one in measured),
        seconds=round(time.monotonic() - started, 1),
    )


def as_row(measured: Measured) -> CertifiedClaim:
    """A Measured as printed."""
    fields = asdict(measured)
    return CertifiedClaim(**fields, ok=measured.ok)  # type: ignore[typeddict-item]  # keys unknown


def text(certificate: Certificate) -> str:
    """The table: the claims in order, one line for each method and semantics."""
    lines = []
    claim = None
    for row in certificate["rows"]:
        if row["claim"] != claim:
            claim = row["claim"]
            lines += ["", claim, f"    bound: {row['reason']}"]
        state = "pass" if row["ok"] else "FAIL"
        lines.append(
            f"    {state}  {row['method']:12} {row['semantics']:20} error {row['error']:<8.2g} "
            f"bound {row['bound']:<8.2g} ({row['n']} measured)"
        )
    n_holding = certificate["claims"] - certificate["failed"]
    lines += [
        "",
        f"{n_holding} of {certificate['claims']} claims hold; {certificate['seconds']} s",
    ]
    return "\n".join(lines)


def check(certificate: Certificate) -> None:
    """RunFailed that names the first claim that does not hold."""
    for row in certificate["rows"]:
        if not row["ok"]:
            raise RunFailed(
                f"{certificate['failed']} of {certificate['claims']} claims fail; "
                f"first {row['method']} ({row['semantics']}): {row['claim']}: "
                f"error {row['error']:.3g}, bound {row['bound']:.3g}"
            )
