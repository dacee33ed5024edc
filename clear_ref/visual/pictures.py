"""The pictures of data rows as the face network reads them.

Each picture: opened by the house's reader (data/images.py, the route of a path); the shorter side
becomes `size` and the longer one int(size * longer / shorter), by Pillow's bilinear filter;
kept as uint8. `pixels`: divided by 255, minus ImageNet's mean, divided by its deviation. Nothing
is cropped and nothing is drawn: training and scoring see the same pixels.

source  CLEAR cv/finetune.py:58-64 at bb14c96 (torchvision's Resize, ToTensor, Normalize)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.common.progress import Progress
from clear_ref.data.images import ImageSource, check_size, open_image
from clear_ref.data.records import Row

SIZE = 224
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size.

    values  uint8 [n, 3, H, W]
    raises  ShapeError for any other tensor
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dtype != torch.uint8 or self.values.ndim != 4 or self.values.shape[1] != 3:
            raise ShapeError(
                f"pictures are {self.values.dtype} {list(self.values.shape)}; "
                "expected torch.uint8 [n, 3, H, W]"
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of each picture."""
        return self.values.shape[2], self.values.shape[3]

    def to(self, device: torch.device) -> "Pictures":
        """The same pictures on a device."""
        return Pictures(self.values.to(device))

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """float32 [B, 3, H, W] of these pictures, on the device of `values`."""
        chosen = self.values[torch.as_tensor(indices, device=self.values.device)]
        mean = chosen.new_tensor(MEAN, dtype=torch.float32).view(3, 1, 1)
        deviation = chosen.new_tensor(DEVIATION, dtype=torch.float32).view(3, 1, 1)
        return chosen.float().div_(255).sub_(mean).div_(deviation)

    def mirrored(self, indices: Sequence[int]) -> Tensor:
        """`pixels`, left and right exchanged."""
        return self.pixels(indices).flip(-1)


def resized(image: Image.Image, size: int) -> Image.Image:
    """The picture with its shorter side of `size` pixels; unchanged if it has that already.

    raises  UserError if the result would have too many pixels
    """
    width, height = image.size
    shorter, longer = min(image.size), max(image.size)
    if shorter == size:
        return image
    other = int(size * longer / shorter)
    new = (size, other) if width <= height else (other, size)
    check_size(image.size, new)
    return image.resize(new, Image.Resampling.BILINEAR)


def read_pictures(
    sources: Sequence[ImageSource], size: int = SIZE, where: Sequence[str] | None = None
) -> Pictures:
    """Pictures from paths or Pillow images.

    where   what to call each in messages; None: picture 0, picture 1, ...
    raises  UserError as open_image; for pictures of different sizes, naming the first that differs
    memory  n * 3 * H * W bytes: 567 MB for CLEAR's 3,768 pictures at 224
    """
    if size < 1:
        raise UserError(f"size is {size}; expected at least 1 pixel")
    if not sources:
        raise UserError("there is no picture; expected at least one")
    progress = Progress("read pictures", len(sources), "picture")
    values: np.ndarray | None = None
    for index, source in enumerate(sources):
        name = where[index] if where is not None else f"picture {index}"
        image = open_image(source, name)
        try:
            array = np.asarray(resized(image, size)).transpose(2, 0, 1)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if values is None:
            values = np.empty((len(sources), *array.shape), np.uint8)
        if array.shape != values.shape[1:]:
            raise UserError(
                f"{name}: its picture is {array.shape[2]} x {array.shape[1]} pixels after the "
                f"resize, the first one {values.shape[3]} x {values.shape[2]}; expected one size: "
                "crop the pictures to one shape"
            )
        values[index] = array
        progress.step()
    progress.close()
    return Pictures(torch.from_numpy(values))


def row_pictures(rows: Sequence[Row], size: int = SIZE) -> Pictures:
    """The pictures of data rows; UserError as read_pictures, and for a row without a picture."""
    sources = []
    for row in rows:
        if row.image is None:
            raise UserError(f"{row.where}: the row has no picture; expected one in each row")
        sources.append(row.image)
    return read_pictures(sources, size, [row.where for row in rows])
