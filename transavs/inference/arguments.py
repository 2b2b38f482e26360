"""Checks of what callers give the predictor: videos, frames, sound and numbers."""

import reprlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from numbers import Real
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from transavs.media.frames import VideoSource
from transavs.media.sources import open_source
from transavs.media.video_reader import open_video
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.limits import MAX_CHANNELS


def check_number(value: object, name: str) -> None:
    """Raise an AVSInputError where a value is no real number."""
    if not isinstance(value, Real):
        raise AVSInputError(f"{name} is {value!r}: give a number")


def frame_arrays(frames: Iterable[np.ndarray | Tensor]) -> Iterator[np.ndarray]:
    """Frames as arrays; an AVSInputError where one is not uint8 (H, W, 3)."""
    if isinstance(frames, str | bytes) or not isinstance(frames, Iterable):
        raise AVSInputError(
            f"the frames are a {type(frames).__name__}: give NumPy arrays, uint8 (height, width, 3), or a file to "
            "predict_video"
        )
    for frame in frames:
        array = frame.numpy(force=True) if isinstance(frame, Tensor) else frame
        if not isinstance(array, np.ndarray):
            raise AVSInputError(f"a frame is a {type(frame).__name__}: give NumPy arrays, uint8 (height, width, 3)")
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise AVSInputError(f"a frame is {array.dtype} {array.shape}: give uint8 (height, width, 3)")
        yield array


def sound_blocks(sound: Iterable[np.ndarray] | np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of sound, float (channels, n); an AVSInputError where one is of another kind."""
    blocks = [np.atleast_2d(sound)] if isinstance(sound, np.ndarray) else sound
    if isinstance(blocks, str | bytes) or not isinstance(blocks, Iterable):
        raise AVSInputError(f"the sound is a {type(sound).__name__}: give arrays, float (channels, samples)")
    for block in blocks:
        if not isinstance(block, np.ndarray) or block.ndim != 2 or block.dtype.kind != "f":
            raise AVSInputError(
                f"a block of the sound is {reprlib.repr(block)}: give arrays, float (channels, samples)"
            )
        yield block.astype(np.float32, copy=False)


@contextmanager
def open_given(source: str | Path | BinaryIO, needs_sound: bool) -> Iterator[VideoSource]:
    """A video by a path or an address, or in a binary file object."""
    if isinstance(source, str | Path):
        with open_source(str(source), needs_sound=needs_sound) as video:
            yield video
        return
    if not hasattr(source, "read"):
        raise AVSInputError(f"a video is a {type(source).__name__}: give a path, a folder, or a file opened in binary")
    with ExitStack() as stack:
        try:
            video = stack.enter_context(open_video(source))
        except (TypeError, OSError, ValueError) as error:
            if isinstance(error, AVSInputError):
                raise
            raise AVSInputError(f"the file object cannot be read ({one_line(error)}): open a file in binary") from error
        yield video


def mono_sound(waveform: np.ndarray | Tensor) -> Tensor:
    """float32 (n,), the mean over channels of float (n,) or (channels, n).

    Raises:
        AVSInputError: it is of another kind or shape, or holds values that are no numbers.
    """
    try:
        wave = torch.as_tensor(waveform)
    except (TypeError, ValueError, RuntimeError) as error:  # of objects, ragged, of negative strides
        raise AVSInputError(f"the waveform is no array ({one_line(error)}): give float (n,)") from error
    channels = len(wave) if wave.ndim == 2 else wave.ndim
    if wave.ndim > 2 or not 1 <= channels <= MAX_CHANNELS or not wave.is_floating_point():
        raise AVSInputError(
            f"the waveform is {wave.dtype} {tuple(wave.shape)}: give float (n,) or (channels, n), in [-1, 1]"
        )
    if not wave.isfinite().all():
        raise AVSInputError("the waveform holds values that are no numbers: give float in [-1, 1]")
    return torch.atleast_2d(wave.detach().cpu()).float().mean(0)
