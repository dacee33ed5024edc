"""The modules of the method files by name.

METHODS are the eleven of CLEAR, which train. FURTHER are losses of other papers: `method_loss` and
the oracle know them, no command trains with them. LOSSES are both.
"""

from types import ModuleType

from . import (
    ceu,
    dpo,
    grad_ascent,
    grad_diff,
    idk,
    kl,
    llmu,
    npo,
    retain_ft,
    rmu,
    satimp,
    scrub,
    simnpo,
    sku,
    undial,
    wga,
)

METHODS: dict[str, ModuleType] = {
    "retain_ft": retain_ft,
    "grad_ascent": grad_ascent,
    "grad_diff": grad_diff,
    "kl": kl,
    "idk": idk,
    "dpo": dpo,
    "npo": npo,
    "scrub": scrub,
    "llmu": llmu,
    "rmu": rmu,
    "sku": sku,
}
FURTHER: dict[str, ModuleType] = {
    "simnpo": simnpo,
    "undial": undial,
    "wga": wga,
    "satimp": satimp,
    "ceu": ceu,
}
LOSSES = {**METHODS, **FURTHER}
