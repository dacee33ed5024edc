"""Every problem of a model directory at once: each of its files is read by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_json
from clear_ref.data.chat_templates import choose_template
from clear_ref.data.tokens import Tokenizer

from .families import Family, family
from .generation_config import generation
from .vlm import VLM, load_without_weights

Result = TypeVar("Result")


class Reading:
    """Reads files one by one, and keeps the messages of those that cannot be used."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def read(self, reader: Callable[[], Result]) -> Result | None:
        """The reader's result; None if it raised a UserError, whose message is kept once."""
        try:
            return reader()
        except UserError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def directory_problems(directory: PathName, template: str = "") -> tuple[list[str], VLM | None]:
    """(error lines, model): the lines that `load` would raise one after the other.

    No tensor is read: of the weights only the headers. The model has no values; None where there
    is a problem.
    """
    directory = Path(directory)
    where = directory / "config.json"
    reading = Reading()
    config_json = reading.read(lambda: read_json(where))
    own: Family | None = None
    if config_json is not None:
        own = reading.read(lambda: family(config_json, where))
    if config_json is not None and own is not None:
        config = reading.read(lambda: own.config(config_json, where))
        tokenizer = reading.read(lambda: Tokenizer(directory, config_json, own.sees_pictures))
        if tokenizer is not None:
            reading.read(lambda: choose_template(directory, own.name, tokenizer, template))
        if config is not None and own.images is not None:
            images = own.images
            reading.read(lambda: images(directory, config))
        if config is not None and tokenizer is not None:
            vocabulary = config.text.vocab_size
            reading.read(lambda: generation(directory, config_json, vocabulary, tokenizer))
    vlm = reading.read(lambda: load_without_weights(directory, template=template))
    return reading.problems, vlm
