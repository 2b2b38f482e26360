"""Frames and masks from files, the colors of masks, and the objects in a mask."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask
from detectron2.data import detection_utils
from PIL import Image, ImageOps

from transavs.utils.errors import AVSInputError, choose, one_line
from transavs.utils.limits import MAX_PIXELS

PALETTE_COLORS = 256
HALF_WHITE = 128  # of gray levels up to 255
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # PIL knows more; for some of them it starts other programs


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


def read_frame(path: str, image_format: str) -> np.ndarray:
    """uint8 (H, W, 3) in ``image_format`` ("RGB" or "BGR").

    Raises:
        AVSInputError: the file is missing, no image, or one of too many pixels.
    """
    if not Path(path).is_file():
        raise AVSInputError(f"{path} does not exist: extract the frames of this clip, or remove the clip from the csv")
    with readable(path, "an image", "extract the frame again"), open_image(path) as image:
        return detection_utils.convert_PIL_to_numpy(ImageOps.exif_transpose(image), image_format)


def _binary(image: Image.Image) -> np.ndarray:
    """True where a mask sounds: gray and color from HALF_WHITE on, of a palette and of 0 and 1 all that is not 0."""
    if image.mode not in ("1", "L", "P"):
        return np.any(np.asarray(image.convert("RGB")) >= HALF_WHITE, axis=-1)
    values = np.asarray(image)
    return values > 0 if image.mode != "L" or values.max() <= 1 else values >= HALF_WHITE


def _class_ids(image: Image.Image) -> np.ndarray:
    """The gray values or palette indices as they are."""
    if image.mode not in ("L", "P", "I;16", "I"):
        raise SyntaxError(f"a file of class ids has one channel, this one is {image.mode}")
    return np.asarray(image)


def _palette_ids(image: Image.Image) -> np.ndarray:
    """Class ids of the colors of :func:`voc_palette`; a color that it has not is an error."""
    colors = _packed(np.asarray(image.convert("RGB")))
    known = _packed(voc_palette(PALETTE_COLORS))
    order = np.argsort(known)
    ids = order[np.searchsorted(known, colors, sorter=order).clip(max=PALETTE_COLORS - 1)]
    if unknown := np.unique(colors[known[ids] != colors]).tolist():
        raise SyntaxError(f"it has {len(unknown)} colors that stand for no class, such as #{unknown[0]:06x}")
    return ids


def _packed(colors: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) -> int64 (...), a number per color."""
    return colors.astype(np.int64) @ (1 << 16, 1 << 8, 1)


MASK_ENCODINGS: dict[str, Callable[[Image.Image], np.ndarray]] = {
    "binary": _binary,
    "class_ids": _class_ids,
    "palette": _palette_ids,
}


def read_mask(path: str, encoding: str) -> np.ndarray:
    """int64 (H, W), 0 = background.

    Args:
        path: of the mask.
        encoding: "binary", where what is white is 1, "class_ids", or "palette", PASCAL VOC's colors.

    Raises:
        AVSInputError: the file is missing, no such image, or one of too many pixels; or there is no such encoding.
    """
    if not Path(path).is_file():
        raise AVSInputError(f"{path} does not exist: restore the mask, or remove the clip from the csv")
    decode = choose(MASK_ENCODINGS, encoding, "encoding of masks")
    with readable(path, "a mask", "restore the mask"), open_image(path) as image:
        return decode(image).astype(np.int64)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """COCO's ``segmentation`` (compressed run-length code), ``area`` in pixels and ``bbox`` (x, y, width, height)."""
    code = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    area, box = int(pycocotools.mask.area(code)), pycocotools.mask.toBbox(code).tolist()
    return {"segmentation": code | {"counts": code["counts"].decode("ascii")}, "area": area, "bbox": box}


def coco_annotation(number: int, image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    """An entry of ``annotations`` in a COCO data set, with its own number and those of its image and category."""
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": 0} | encode_mask(mask)


def coco_categories(class_names: Sequence[str]) -> list[dict[str, Any]]:
    """``categories`` of a COCO data set, numbered as the class ids, which begin with the background."""
    return [{"id": number, "name": name} for number, name in enumerate(class_names) if number]


def voc_palette(colors: int) -> np.ndarray:
    """The first colors of PASCAL VOC's palette, uint8 (colors, 3) in RGB: the bits of the index, dealt to R, G, B."""
    bits = (np.arange(colors)[:, None, None] >> (3 * np.arange(8)[:, None] + np.arange(3))) & 1  # (colors, 8, 3)
    return (bits << np.arange(7, -1, -1)[:, None]).sum(1).astype(np.uint8)


def connected_objects(mask: np.ndarray, max_objects: int) -> np.ndarray:
    """Number the connected parts of each class, the largest first.

    Args:
        mask: int (H, W) class ids, 0 = background.
        max_objects: smaller parts than the first so many are 0 in the result, as the background is.

    Returns:
        int64 (H, W), 0 ... ``max_objects``.
    """
    parts, count = np.zeros(mask.shape, dtype=np.int64), 0
    for class_id in np.unique(mask[mask > 0]):
        found, labels = cv2.connectedComponents((mask == class_id).astype(np.uint8))
        parts = np.where(labels > 0, labels + count, parts)
        count += found - 1
    areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    numbers = np.zeros(count + 1, dtype=np.int64)
    order = np.argsort(-areas, kind="stable")[:max_objects]
    numbers[order + 1] = np.arange(1, len(order) + 1)
    return numbers[parts]
