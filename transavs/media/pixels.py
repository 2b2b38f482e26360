"""Image files -> their pixels, whatever their bits, orientation and transparency."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.limits import MAX_PIXELS

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # PIL knows more; for some of them it starts other programs
DEEP = "I;16"  # how PIL's modes of 16 bits begin
WHITE, DEEP_WHITE = 255, 65535


def open_image(path: str | Path) -> Image.Image:
    """The image in a file, whose pixels are not decoded yet.

    Raises:
        AVSInputError: it has more than MAX_PIXELS; beside it what PIL raises, which is nearly anything.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it comes after our own limit
            image = Image.open(path, formats=FORMATS)
        pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = Image.MAX_IMAGE_PIXELS or MAX_PIXELS + 1
    if pixels > MAX_PIXELS:
        raise AVSInputError(f"{path} has more pixels than the {MAX_PIXELS} that are read: make the image smaller")
    return image


@contextmanager
def readable(path: str | Path, what: str, hint: str) -> Iterator[None]:
    """Turn whatever reading an image raises within the context into an AVSInputError that says what it should be."""
    try:
        yield
    except AVSInputError:
        raise
    except Exception as error:  # a broken image can raise nearly anything
        raise AVSInputError(f"{path} cannot be read as {what} ({one_line(error)}): {hint}") from error


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF tag says.

    Raises:
        ValueError: the file holds several pictures; a JPEG's others are previews and do not count.
    """
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1 and image.format != "MPO":
        raise ValueError(f"it holds {pictures} pictures: save one of them")
    return ImageOps.exif_transpose(image)


def raw_channels(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The channels as they are stored, and which of the pixels can be seen.

    Args:
        image: see :func:`upright`.

    Returns:
        * uint8 (H, W, 1 or 3), gray or RGB, or uint16 (H, W, 1);
        * alpha, uint8 (H, W), 0 = transparent.

    Raises:
        ValueError: a pixel has more than 16 bits, of which nothing says what is white.
    """
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel: save it with 8 or 16")
    if image.mode.startswith(DEEP):
        values = np.asarray(image).astype(np.uint16)[..., None]
        transparent = values[..., 0] == image.info.get("transparency", -1)
        return values, np.where(transparent, 0, WHITE).astype(np.uint8)
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return pixels[..., :3], pixels[..., 3]
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return np.atleast_3d(pixels), np.full(pixels.shape[:2], WHITE, dtype=np.uint8)


def _channels_of_8_bits(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3) in RGB and alpha (H, W), upright."""
    channels, alpha = raw_channels(upright(image))
    if channels.dtype == np.uint16:
        channels = ((channels.astype(np.uint32) * WHITE + DEEP_WHITE // 2) // DEEP_WHITE).astype(np.uint8)
    return np.broadcast_to(channels, (*alpha.shape, 3)), alpha


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3), upright: 16 bits are scaled to 8, and what is transparent is black.

    Raises:
        ValueError: see :func:`upright` and :func:`raw_channels`.
    """
    colors, alpha = _channels_of_8_bits(image)
    if alpha.min() == WHITE:
        return np.ascontiguousarray(colors)
    return ((colors.astype(np.uint16) * alpha[..., None] + WHITE // 2) // WHITE).astype(np.uint8)


def rgba_pixels(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 4): as :func:`rgb_pixels`, with the transparency beside the colors."""
    return np.dstack(_channels_of_8_bits(image))
