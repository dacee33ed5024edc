"""Pictures of files, as a model reads them: those that were read last stay in memory.

A training reads a picture in every epoch, an evaluation in every task that shows it.
"""

import os
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

from .images import ImageSource, Picture, open_image

MOST_BYTES = 64 << 20  # of the pixels; a picture of LLaVA-1.5 has 1.4 MB
File = tuple[str, int, int, int]  # path, inode, size, time of the last change in ns


class PictureMemory:
    """The pictures that were read last.

    read        what makes a model's input of an RGB picture
    most_bytes  of the pixels that are kept
    """

    def __init__(
        self, read: Callable[[Image.Image], Picture], most_bytes: int = MOST_BYTES
    ) -> None:
        self.read = read
        self.bytes_left = most_bytes
        self._pictures: OrderedDict[File, Picture] = OrderedDict()

    def __call__(self, source: ImageSource, where: str) -> Picture:
        """read(open_image(source, where)), or the same from memory; nobody may change its pixels.

        A file that has changed is read again.
        """
        file = file_of(source)
        if file is not None and file in self._pictures:
            self._pictures.move_to_end(file)
            return self._pictures[file]
        picture = self.read(open_image(source, where))
        if file is not None:
            self._keep(file, picture)
        return picture

    def _keep(self, file: File, picture: Picture) -> None:
        self._pictures[file] = picture
        self.bytes_left -= picture.pixels.nbytes
        while self.bytes_left < 0:
            _, oldest = self._pictures.popitem(last=False)
            self.bytes_left += oldest.pixels.nbytes


def file_of(source: ImageSource) -> File | None:
    """What tells a file's content from another one; None for what is no file."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        found = os.stat(source)
    except (OSError, ValueError):  # open_image says what is wrong
        return None
    return os.fspath(source), found.st_ino, found.st_size, found.st_mtime_ns
