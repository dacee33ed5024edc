"""Names that settings choose from: sets of definitions (definitions.py), rules (selection.py)."""

SETS = ("paper", "released", "tofu")
DEFAULT_RULE = "forget-at-retain-0.9"
