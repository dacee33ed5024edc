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
# The set of definitions whose numbers are there with --leakage alone, beside those of any set, and
# its probes (leakage.py): of the questions about pictures, and of those about text.
LEAKAGE = "leakage"
PICTURE_PROBES = ("no_picture", "other_picture", "other_person", "reworded")
TEXT_PROBES = ("with_picture", "reworded")
PROBE_WORDS = {
    "no_picture": "asked without the picture",
    "other_picture": "asked with another picture of the person",
    "other_person": "asked with a picture of another person, of the retain set",
    "with_picture": "asked with a picture of the person",
    "reworded": "asked in other words",
}
CAPTION_PROBE_TASKS = tuple(f"eval_forget_{probe}" for probe in PICTURE_PROBES)
NAME_PROBE_TASKS = tuple(f"eval_forget_facerec_{probe}" for probe in PICTURE_PROBES)
TEXT_PROBE_TASKS = tuple(f"eval_text_forget_{probe}" for probe in TEXT_PROBES)
PROBE_TASKS = (*CAPTION_PROBE_TASKS, *NAME_PROBE_TASKS, *TEXT_PROBE_TASKS)
