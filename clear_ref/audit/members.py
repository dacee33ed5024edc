"""The models of an audit: one gold, N with the people to forget, N without them."""

from dataclasses import dataclass

from clear_ref.common.errors import UserError

GOLD, WITH, WITHOUT = "gold", "with", "without"
LEAST, MOST = 2, 100  # models of each kind


@dataclass(frozen=True)
class Member:
    """One model.

    kind  with: trained on all people; without: on those that are kept; gold: as `without`, and the
          model to which Forget Quality and the reference attack compare; it is in neither group
    seed  key of its order of records, of its caption questions and of what it rehearses
    """

    kind: str
    seed: int

    @property
    def name(self) -> str:
        """Its directory: KIND-seedSEED."""
        return f"{self.kind}-seed{self.seed}"


def members(n: int, seed: int) -> list[Member]:
    """Gold with the seed, then for each of the n seeds after it a model with and one without.

    raises  UserError unless n is LEAST to MOST
    """
    if not LEAST <= n <= MOST:
        raise UserError(
            f"--models is {n}; expected {LEAST} to {MOST}, the number of models with the people "
            "to forget and again of those without"
        )
    found = [Member(GOLD, seed)]
    for own in range(seed + 1, seed + n + 1):
        found += [Member(WITH, own), Member(WITHOUT, own)]
    return found
