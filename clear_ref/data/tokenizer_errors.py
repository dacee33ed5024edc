"""Errors of the tokenizers library as UserErrors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line

_NOT_OF_THE_LIBRARY = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, UserError)


@contextmanager
def library_errors(where: PathName, what: str) -> Iterator[None]:
    """Inside the block an error of the library is a UserError that begins with `where`.

    The library raises a bare Exception for a file that it cannot use, and a PanicException, which
    is no Exception, where its Rust code has not foreseen the file.
    what  what failed, in words
    """
    try:
        yield
    except _NOT_OF_THE_LIBRARY:
        raise
    except BaseException as error:
        raise UserError(
            f"{where}: {what} ({one_line(error, 200)}); fetch the tokenizer's files again"
        ) from None
