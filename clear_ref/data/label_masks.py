"""The names of the label masks: which tokens are trained on."""

MASKS = ("answer", "released")
