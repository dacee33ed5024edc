"""Error classes. The command line prints their text as one line and exits with their status."""


class UserError(ValueError):
    """The input is wrong. Exit status 2.

    The message names the thing, the value found, the value expected and what to do.
    """


class ShapeError(UserError):
    """Tensors that belong together disagree in shape, dtype or device."""


class LabelError(UserError):
    """A label is neither IGNORE nor an id of the vocabulary."""


class RunFailed(RuntimeError):
    """The input was right but the run failed, for example on a non-finite loss. Exit status 1."""


class Notice(UserWarning):
    """A choice that was made for the user. The command line prints each once, in one line."""
