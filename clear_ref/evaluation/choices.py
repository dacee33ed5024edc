"""Names that settings choose from: sets of definitions (definitions.py), rules (selection.py)."""

SETS = ("paper", "released", "tofu", "mmunlearner", "open_mmunlearning", "forgetium")
# Tasks of multiple-choice questions, and the sets that have them among all tasks (--tasks all).
CHOICE_TASKS = (
    "eval_forget_choice",
    "eval_retain_choice",
    "eval_real_faces_choice",
    "eval_real_world_choice",
)
WITH_CHOICES = ("mmunlearner", "open_mmunlearning")
DEFAULT_RULE = "forget-at-retain-0.9"
