"""Pixels of mask files -> what sounds, class ids or probabilities. What they mean is decided by colors, or refused."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from transavs.media.pixels import DEEP, WHITE, raw_channels, rgb_pixels, upright

PALETTE_COLORS = 256
OPAQUE = 128  # alpha from which on a pixel can be seen


def mask_channels(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Channels and alpha of a mask, upright, see :func:`transavs.media.pixels.raw_channels`.

    Raises:
        ValueError: see there and :func:`transavs.media.pixels.upright`; or small numbers in it are lost.
    """
    if not image.mode.startswith(DEEP) and ";16" in str(getattr(image, "tile", "")):
        # PIL keeps the upper half of them.
        raise ValueError(f"it has 16 bits in each channel of {image.mode}: save it with 8, or gray")
    return raw_channels(upright(image))


def pack_colors(colors: np.ndarray) -> np.ndarray:
    """RGB of 8 bits (..., 3), or gray (..., 1), -> int64 (...), a number per color."""
    return colors.astype(np.int64) @ (1 << 16, 1 << 8, 1)[-colors.shape[-1] :]


def _is_gray(channels: np.ndarray) -> bool:
    return bool((channels == channels[..., :1]).all())


def binary_mask(image: Image.Image) -> np.ndarray:
    """Tell for each pixel whether it sounds, bool (H, W); see :func:`sounding_pixels`."""
    return sounding_pixels(*mask_channels(image))


def sounding_pixels(channels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Tell for each pixel of :func:`mask_channels` whether it sounds, bool (H, W).

    * Black and one other value, such as 1, 255 or a class's color: the other one sounds.
    * More gray levels, as soft edges have them: those from half white on sound.
    * A palette's colors: all but black sound.
    * A cut-out, part of which is transparent: the rest sounds.

    Raises:
        ValueError: it is none of these.
    """
    opaque = alpha >= OPAQUE
    if not opaque.all():
        return _cut_out(channels, opaque)
    return _bright(channels[..., 0]) if _is_gray(channels) else _colored(channels)


def _bright(levels: np.ndarray) -> np.ndarray:
    white = np.iinfo(levels.dtype).max
    values = np.flatnonzero(np.bincount(levels.ravel())).tolist()
    if values == [0, 1, white]:
        raise ValueError(f"it holds 0, 1 and {white}, and may be class ids: save black and white")
    if values[-1] > white // 2:
        return levels > white // 2
    if values[-1] > 1 and (values[0] or len(values) > 2):
        raise ValueError(f"it has gray levels from {values[0]} to {values[-1]} of {white}: save black and white")
    return levels > 0


def _colored(channels: np.ndarray) -> np.ndarray:
    values = np.unique(pack_colors(channels))
    if len(values) > PALETTE_COLORS:
        raise ValueError(f"it has {len(values)} colors, as a photograph: save black and white")
    if values[0] and len(values) > 1:
        raise ValueError("it has several colors and no black, which is the background: save black and white")
    return channels.max(-1) > 0


def _cut_out(channels: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    # Where nothing can be seen, colors that differ may be a mask that somebody's tool has hidden.
    values = np.unique(pack_colors(channels[opaque] if opaque.any() else channels.reshape(-1, channels.shape[-1])))
    if (not values[0] and len(values) == 2) or (len(values) > 1 and not opaque.any()):
        raise ValueError("its colors and its transparency are two different masks: save it without transparency")
    return opaque


def count_colors(channels: np.ndarray, alpha: np.ndarray) -> int:
    """Number of colors beside black in :func:`mask_channels`; a cut-out counts as one."""
    if (alpha < OPAQUE).any():
        return 1
    return int(np.count_nonzero(np.unique(pack_colors(channels))))


def class_ids(image: Image.Image) -> np.ndarray:
    """Gray values or palette indices as they are, (H, W).

    Raises:
        ValueError: the image has colors, white of one bit, or class ids that are transparent.
    """
    if image.mode in ("P", "I"):
        return np.asarray(upright(image))
    channels, alpha = mask_channels(image)
    if not _is_gray(channels):
        raise ValueError(f"a file of class ids has one channel, or equal ones, and this one has colors in {image.mode}")
    ids = channels[..., 0]
    if image.mode == "1" and ids.any():
        raise ValueError("a file of class ids has 8 bits or more, this one is black and white")
    if ids[alpha < OPAQUE].any():
        raise ValueError("class ids in it are transparent: save it without transparency")
    return ids


def palette_ids(image: Image.Image) -> np.ndarray:
    """Class ids of the colors of :func:`voc_palette`, (H, W); what is transparent is black.

    Raises:
        ValueError: it has a color that stands for no class.
    """
    colors = pack_colors(rgb_pixels(image))
    known = pack_colors(voc_palette(PALETTE_COLORS))
    order = np.argsort(known)
    ids = order[np.searchsorted(known, colors, sorter=order).clip(max=PALETTE_COLORS - 1)]
    if unknown := np.unique(colors[known[ids] != colors]).tolist():
        raise ValueError(f"it has {len(unknown)} colors that stand for no class, such as #{unknown[0]:06x}")
    return ids


def probabilities(image: Image.Image) -> np.ndarray:
    """float32 (H, W) in [0, 1]: gray levels from black 0 to white 1; all else is a binary mask.

    Raises:
        ValueError: see :func:`mask_channels` and :func:`sounding_pixels`.
    """
    channels, alpha = mask_channels(image)
    levels, white = channels[..., 0], np.iinfo(channels.dtype).max
    is_binary = levels.max() in (0, 1, WHITE) and np.isin(levels, (0, levels.max())).all()
    if is_binary or image.mode == "P" or alpha.min() < OPAQUE or not _is_gray(channels):
        return sounding_pixels(channels, alpha).astype(np.float32)
    return levels.astype(np.float32) / white


def voc_palette(colors: int) -> np.ndarray:
    """The first colors of PASCAL VOC's palette, uint8 (colors, 3) in RGB: the bits of the index, dealt to R, G, B."""
    bits = (np.arange(colors)[:, None, None] >> (3 * np.arange(8)[:, None] + np.arange(3))) & 1  # (colors, 8, 3)
    return (bits << np.arange(7, -1, -1)[:, None]).sum(1).astype(np.uint8)


MASK_ENCODINGS: dict[str, Callable[[Image.Image], np.ndarray]] = {
    "binary": binary_mask,
    "class_ids": class_ids,
    "palette": palette_ids,
}
