"""Reads still images: OpenCV decodes and resizes."""

import io
import os

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image

from jaxvid.errors import InputError
from jaxvid.files import local, to_path

_MOST_PIXELS = 2**26  # 200 MB as RGB
# A JPEG can be decoded at a half, a quarter or an eighth of its sides, in less time and memory.
_SHRUNK = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


def read_image(path: str | os.PathLike, *, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an image file, turned upright and fitted to `size`, see `fit`: RGB in [0, 255].

    Transparency is left out. Of an animation, it is the first image. Large JPEGs are decoded at a
    part of their size that is at least twice `size`.

    Raises:
      InputError: the file is not an image, is truncated or damaged, or has more than 67 million
        pixels, which are not decoded.
    """
    try:
        data = to_path(path, "file").read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    with _open(path, io.BytesIO(data)) as header:
        (width, height), form = header.size, header.format
    if width * height > _MOST_PIXELS:
        raise InputError(f"{path}: {width}x{height} pixels, more than {_MOST_PIXELS}; shrink it")
    part = min(width, height) // (2 * max(size)) if form in ("JPEG", "MPO") else 1
    flags = next((flag for shrink, flag in _SHRUNK.items() if shrink <= part), cv2.IMREAD_COLOR)
    return fit(decode(data, str(path), flags), size)


def aspect(path: str | os.PathLike) -> float:
    """The width of an upright image divided by its height, by its header.

    Raises InputError if the file is not an image.
    """
    with local(to_path(path, "file")) as file, _open(path, file) as header:
        # `getexif` of a PNG decodes the whole picture, to look behind it.
        turned = Image.Image.getexif(header).get(ExifTags.Base.Orientation, 1) > 4
        width, height = header.size
    return height / width if turned else width / height


def cropped(
    aspect: float | Float[np.ndarray, "..."], target: float | Float[np.ndarray, "..."]
) -> float | Float[np.ndarray, "..."]:
    """The share of a picture that `fit` cuts off; both arguments are width divided by height."""
    return 1 - np.minimum(aspect / target, target / aspect)


def decode(data: bytes, name: str, flags: int = cv2.IMREAD_COLOR) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image in any format and depth that OpenCV reads: RGB in [0, 255].

    Raises InputError, with the `name` of the image, if it cannot be decoded.
    """
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise InputError(f"{name}: truncated or damaged; copy it again")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def fit(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int] | None, pixel_aspect: float = 1.0
) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes the largest centred part of a picture with a shape, by area.

    Args:
      image: the picture.
      size: (H, W); None takes the largest centred square as it is.
      pixel_aspect: the width of a pixel of the picture divided by its height.
    """
    H, W = size or (1, 1)
    # One unit of `scale` is a pixel of the result, in rows of the picture.
    rows, columns = image.shape[0], image.shape[1] * pixel_aspect
    scale = min(rows / H, columns / W)
    height = min(image.shape[0], max(1, round(H * scale)))
    width = min(image.shape[1], max(1, round(W * scale / pixel_aspect)))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    part = image[top : top + height, left : left + width]
    if size is None:
        H = W = min(height, width)
    # Halves first what is far too large: OpenCV does that many times as fast as other scales.
    while min(height // H, width // W) >= 8 and height % 2 == width % 2 == 0:
        height, width = height // 2, width // 2
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(part, (W, H), interpolation=cv2.INTER_AREA)


def _open(path: str | os.PathLike, file: str | os.PathLike | io.BytesIO) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not an image ({error}); remove it or copy it again") from error
