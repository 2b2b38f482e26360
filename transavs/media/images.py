"""Frames and masks from files, masks as COCO has them, and the objects in a mask."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask

from transavs.media.mask_encodings import MASK_ENCODINGS
from transavs.media.pixels import open_image, readable, rgb_pixels
from transavs.utils.errors import AVSInputError, choose


def read_frame(path: str, image_format: str) -> np.ndarray:
    """uint8 (H, W, 3) in ``image_format`` ("RGB" or "BGR"), see :func:`transavs.media.pixels.rgb_pixels`.

    Raises:
        AVSInputError: the file is missing, no such image, or one of too many pixels.
    """
    if not Path(path).is_file():
        raise AVSInputError(f"{path} does not exist: extract the frames of this clip, or remove the clip from the csv")
    with readable(path, "an image", "extract the frame again"), open_image(path) as image:
        pixels = rgb_pixels(image)
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[..., ::-1])


def read_mask(path: str, encoding: str) -> np.ndarray:
    """int64 (H, W), 0 = background.

    Args:
        path: of the mask.
        encoding: "binary" (1 where a pixel sounds), "class_ids" or "palette", PASCAL VOC's colors; see
            :mod:`transavs.media.mask_encodings`.

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
