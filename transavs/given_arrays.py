"""Frames and sounds that callers hand over as arrays, looked at before they are used."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from transavs.errors import AVSInputError, one_line
from transavs.limits import MAX_CHANNELS


def check_frames(frames: Sequence[np.ndarray]) -> None:
    """Raise an AVSInputError where one is not uint8 (H, W, 3)."""
    for frame in frames:
        if not isinstance(frame, np.ndarray):
            raise AVSInputError(f"a frame is a {type(frame).__name__}: give NumPy arrays, uint8 (height, width, 3)")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise AVSInputError(f"a frame is {frame.dtype} {frame.shape}: give uint8 (height, width, 3)")


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
    return torch.atleast_2d(wave).float().mean(0)
