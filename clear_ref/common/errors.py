"""The errors that a person can act on. The command line prints their text as one line and exits with their status."""


class UserError(ValueError):
    """The input is wrong. The message names the thing, the value found, the value expected and what to do. Exit status 2."""


class ShapeError(UserError):
    """Tensors that belong together disagree in shape, dtype or device."""


class LabelError(UserError):
    """A label is neither IGNORE nor an id of the vocabulary."""


class RunFailed(RuntimeError):
    """The input was right and the run still failed (a loss that is not finite, say). Exit status 1."""
