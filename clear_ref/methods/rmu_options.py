"""What RMU can be told, in each of its meanings."""

from dataclasses import dataclass

from clear_ref.common.errors import UserError
from clear_ref.common.settings import setting

from .option_checks import check_finite


@dataclass(frozen=True)
class Steering:
    layer: int = setting(7, "decoder layer, 0-based, whose output is steered", "paper App. B.10")
    c: float = setting(
        300.0, "length of the target vector", "released code (mm/trainer.py); the paper gives none"
    )
    seed: int = setting(0, "fixes the random directions")

    def __post_init__(self):
        check_finite(self, *({"c", "alpha", "beta"} & vars(self).keys()))
        if self.layer < 0:
            raise UserError(
                f"option layer is {self.layer}; expected a decoder layer, counted from 0"
            )


@dataclass(frozen=True)
class Options(Steering):
    alpha: float = setting(
        1.0, "weight of the retain term", "paper App. B.10 names it; its formula has none: 1"
    )


@dataclass(frozen=True)
class Original(Steering):
    c: float = setting(20.0, "length of the target vector", "WMDP (--steering_coeffs)")
    alpha: float = setting(100.0, "weight of the retain term", "WMDP (--alpha)")


@dataclass(frozen=True)
class Released(Steering):
    beta: float = setting(
        1.0, "weight of the forget term", "released code (config/mm/forget.yaml, loss_beta)"
    )


@dataclass(frozen=True)
class ReleasedHead(Released):
    n_vectors: int = setting(
        0, "control vectors; 0: as many as the first batch has records", "released code"
    )
