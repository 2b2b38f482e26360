"""The data doctor's look at the files of one clip: each image is decoded once, and nothing broken raises."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image

from transavs.data.audio import load_log_mel_pickle, seconds_of_examples
from transavs.data.avsbench import IGNORED_ID, LAYOUTS
from transavs.data.integrity.report import Finding
from transavs.media.audio_file import load_audio
from transavs.media.mask_encodings import (
    class_ids,
    count_colors,
    mask_channels,
    pack_colors,
    sounding_pixels,
    voc_palette,
)
from transavs.media.pixels import open_image, rgb_pixels
from transavs.utils.errors import AVSInputError

SILENCE = 1e-4  # peak, of full scale 1: what the dither of 16 bits stays below
LAST_UNTURNED = 4  # of EXIF's orientations; the others swap rows and columns
Size = tuple[int, int]  # (W, H) in pixels
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Clip:
    """A clip to look at."""

    root: Path  # of the subset
    subset: str  # key of LAYOUTS
    names: dict[str, str]  # video, category, split, part
    num_classes: int  # of the subset, background among them


def check_clip(clip: Clip) -> list[Finding]:
    """Look at frames, masks and audio of one clip."""
    layout, findings = LAYOUTS[clip.subset], list[Finding]()
    record = layout.record(clip.root, **clip.names)
    size = _check_frames(record["file_names"], findings)
    labeled = record["labeled_frames"]
    if record["mask_encoding"] == "binary":
        for path in record["mask_file_names"]:
            _check_binary_mask(path, size, findings)
    else:
        color_masks = layout.frame_paths(clip.root, layout.color_masks, labeled, **clip.names)
        in_colors_alone = os.path.isfile(color_masks[0]) and not os.path.isfile(record["mask_file_names"][0])
        for path, color_path in zip(record["mask_file_names"], color_masks, strict=True):
            ids = None if in_colors_alone else _check_class_ids(path, size, clip.num_classes, findings)
            if in_colors_alone or os.path.isfile(color_path):
                _check_colors(color_path, ids, size, clip.num_classes, findings)
    _check_audio(record, findings)
    return findings


def _decode(path: str, what: str, read: Callable[[Image.Image], Decoded], findings: list[Finding]) -> Decoded | None:
    """Decode an image file with ``read``; None where it cannot, which the findings then tell."""
    # os.path where pathlib would raise on a folder that may not be read.
    if not os.path.isfile(path):
        findings.append(Finding(f"{what}-missing", path, "does not exist"))
        return None
    if not os.path.getsize(path):
        findings.append(Finding(f"{what}-empty", path, "is an empty file"))
        return None
    try:
        with open_image(path) as image:
            return read(image)
    except Exception as error:  # a broken image can raise nearly anything
        findings.append(Finding(f"{what}-broken", path, f"cannot be read ({_cause(error, path)})"))
        return None


def _loaded_size(image: Image.Image) -> Size:
    """The upright size of a frame, which is read to its end: the header alone does not tell that a file ends early."""
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) > LAST_UNTURNED
    size = image.size[::-1] if is_turned else image.size
    image.draft("L", (1, 1))  # of a JPEG few pixels suffice
    rgb_pixels(image)
    return size


def _mask_and_colors(image: Image.Image) -> tuple[np.ndarray, int]:
    channels, alpha = mask_channels(image)
    return sounding_pixels(channels, alpha), count_colors(channels, alpha)


def _check_size(path: str, what: str, found: Size, size: Size | None, findings: list[Finding]) -> None:
    if size and found != size:
        message = f"is {found[0]} x {found[1]} pixels, the frames are {size[0]} x {size[1]}"
        findings.append(Finding(f"{what}-size", path, message))


def _check_frames(paths: list[str], findings: list[Finding]) -> Size | None:
    """The size of the clip, which is that of most of its frames; None if no frame can be read."""
    decoded = {path: _decode(path, "frame", _loaded_size, findings) for path in paths}
    sizes = {path: size for path, size in decoded.items() if size}
    if not sizes:
        return None
    most = Counter(sizes.values()).most_common(1)[0][0]
    for path, found in sizes.items():
        _check_size(path, "frame", found, most, findings)
    return most


def _check_binary_mask(path: str, size: Size | None, findings: list[Finding]) -> None:
    decoded = _decode(path, "mask", _mask_and_colors, findings)
    if decoded is None:
        return
    mask, colors = decoded
    _check_size(path, "mask", mask.shape[::-1], size, findings)
    if colors > 1:
        findings.append(Finding("mask-values", path, f"is not binary: it has {colors} values that are not black"))


def _check_class_ids(path: str, size: Size | None, num_classes: int, findings: list[Finding]) -> np.ndarray | None:
    """(H, W) class ids; None if they cannot be read or are no classes."""
    ids = _decode(path, "mask", class_ids, findings)
    if ids is None:
        return None
    _check_size(path, "mask", ids.shape[::-1], size, findings)
    classes = ids[ids != IGNORED_ID]
    if classes.size and classes.max() >= num_classes:
        message = f"has the class id {classes.max()}, there are {num_classes} classes"
        findings.append(Finding("mask-class-id", path, message))
        return None
    return ids


def _check_colors(
    path: str, ids: np.ndarray | None, size: Size | None, num_classes: int, findings: list[Finding]
) -> None:
    """Compare a mask in colors with the palette and with the class ids of the same frame."""
    colors = _decode(path, "color", rgb_pixels, findings)
    if colors is None:
        return
    _check_size(path, "color", colors.shape[1::-1], size, findings)
    numbers, palette = pack_colors(colors), pack_colors(voc_palette(num_classes))
    unknown = np.setdiff1d(numbers, palette)
    if unknown.size:
        message = f"has {unknown.size} colors that stand for no class, such as #{unknown[0]:06x}"
        findings.append(Finding("color-unknown", path, message))
    elif ids is not None and ids.shape == numbers.shape:
        known = ids != IGNORED_ID
        differ = np.count_nonzero((palette[np.where(known, ids, 0)] != numbers) & known)
        if differ:
            message = f"and the class ids of the frame disagree in {differ} pixels"
            findings.append(Finding("color-disagrees", path, message))


def _check_audio(record: dict[str, Any], findings: list[Finding]) -> None:
    path, log_mel_file = record["audio_file"], record["log_mel_file"]
    seconds = len(record["file_names"])
    has_log_mel = log_mel_file is not None and os.path.isfile(log_mel_file)
    if has_log_mel:
        _check_log_mel(log_mel_file, seconds, findings)
    if os.path.isfile(path):
        _check_wave(path, seconds, findings)
    elif has_log_mel:
        findings.append(Finding("audio-log-mel-only", path, "does not exist, the log-mel pickle does"))
    else:
        findings.append(Finding("audio-missing", path, "does not exist"))


def _check_wave(path: str, seconds: int, findings: list[Finding]) -> None:
    if not os.path.getsize(path):
        findings.append(Finding("audio-empty", path, "is an empty file"))
        return
    try:
        waveform, sample_rate = load_audio(path)
    except Exception as error:  # a broken file can raise nearly anything
        findings.append(Finding("audio-broken", path, f"cannot be read ({_cause(error, path)})"))
        return
    samples = waveform.shape[1]
    if np.abs(waveform.numpy()).max() < SILENCE:  # torch's threads do not survive the fork of a worker
        findings.append(Finding("audio-silent", path, "is silent from beginning to end"))
    if samples / sample_rate < seconds_of_examples(seconds):
        findings.append(Finding("audio-short", path, f"lasts {samples / sample_rate:.2f} s, the clip {seconds} s"))


def _check_log_mel(path: str, seconds: int, findings: list[Finding]) -> None:
    try:
        examples = load_log_mel_pickle(path).numpy()
    except Exception as error:  # a broken pickle can raise nearly anything
        findings.append(Finding("log-mel-broken", path, f"cannot be read ({_cause(error, path)})"))
        return
    if len(examples) < seconds:
        findings.append(Finding("log-mel-short", path, f"holds {len(examples)} s, the clip {seconds} s"))


def _cause(error: Exception, path: str) -> str:
    """Take the cause out of an error's message: a finding has a path and a hint of its own."""
    text = " ".join(str(error).split()).removeprefix(f"{path} ")
    return (text.rpartition(": ")[0] if isinstance(error, AVSInputError) else text)[:200]
