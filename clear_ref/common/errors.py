"""Error classes. The command line prints their text as one line and exits with their status."""

MOST_CHARACTERS = 2000  # of a message


def message_line(text: str) -> str:
    """A message on one line of at most MOST_CHARACTERS printable characters.

    Signs that would end the line or change a terminal are written as escapes. A longer message
    loses its middle: its beginning names the thing, its end says what to do.
    """
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2 - 5
    return f"{text[:half]} [...] {text[-half:]}"


class UserError(ValueError):
    """The input is wrong. Exit status 2.

    The message names the thing, the value found, the value expected and what to do; it is one line
    of at most 2,000 characters, whatever is quoted in it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(message_line(str(message)))


class ShapeError(UserError):
    """Tensors that belong together disagree in shape, dtype or device."""


class LabelError(UserError):
    """A label is neither IGNORE nor an id of the vocabulary."""


class RunFailed(RuntimeError):
    """The input was right but the run failed, for example on a non-finite loss. Exit status 1.

    The message is one line of at most 2,000 characters.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(message_line(str(message)))


class Notice(UserWarning):
    """A choice that was made for the user. The command line prints each once, in one line."""
