"""`certify`: every claim about every method under every semantics, measured, with its bound.

There are three kinds of claims. Closed forms (claims.py) and laws (laws.py) follow from the
formulas and were worked out on paper. The third kind (routes.py) is the same number by another
route: the numpy reference of oracle/reference, and finite differences of the loss, through raw
logits or hidden states and through a whole VLM with adapters. Everything is in float64; the inputs
are random but fixed (oracle/reference/inputs.py). The parts are shared out over as many processes
as torch has threads, with one thread each; the numbers do not depend on how many.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, TypedDict

import torch

from clear_ref.common.errors import RunFailed
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.common.progress import Progress

from . import claims, laws
from .measured import Measured
from .routes import against_reference, through_logits, through_model

# Through a model takes three quarters of the time: it is cut, so that processes can share it.
MODEL_PARTS = 6
PARTS: tuple[Callable[[], list[Measured]], ...] = (
    claims.measure,
    laws.measure,
    against_reference,
    through_logits,
    *(partial(through_model, part, MODEL_PARTS) for part in range(MODEL_PARTS)),
)


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
    """Every claim, in the order of PARTS."""
    started = time.monotonic()
    n_processes = process_count(torch.device("cpu"))
    bar = Progress("certify", len(PARTS), "part")

    def compute(part: Callable[[], list[Measured]]) -> list[dict[str, Any]]:
        found = [asdict(one) for one in part()]
        bar.step(min(n_processes, len(PARTS) - bar.done))
        return found

    measured = [
        Measured(**one) for found in map_in_processes(compute, PARTS, n_processes) for one in found
    ]
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
