"""The names of the semantics, and under which of them a method is defined."""

DEFAULT_SEMANTICS = "paper"
DATED = ("released", "released@2024-12-10", "released@2024-10-23")
TEXT_ONLY = "released@nlp"  # the authors' text-only code
SEMANTICS = ("paper", "original", *DATED, TEXT_ONLY)
NOT_TEXT_ONLY = ("sku",)  # the methods that the text-only code does not have


def exists(method: str, semantics: str) -> bool:
    """Whether the code that a semantics stands for has this method."""
    return semantics != TEXT_ONLY or method not in NOT_TEXT_ONLY


def later(semantics: str) -> list[str]:
    """`semantics`; of a dated one also the later dates up to `released`, of `released@nlp` also
    `released`.

    A method's variant is that of the first of these names that the method has.
    """
    if semantics == TEXT_ONLY:
        return [semantics, "released"]
    if semantics not in DATED:
        return [semantics]
    return list(reversed(DATED[: DATED.index(semantics) + 1]))
