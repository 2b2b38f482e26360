"""Frames with their times, what gives them together with their sound, and which of them get a mask."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
from av.sidedata.sidedata import Type

from transavs.media.audio_stream import Sound


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video.

    Attributes:
        index: from 0.
        time: in seconds since the first frame.
    """

    index: int
    time: float
    _decoded: av.VideoFrame

    @property
    def num_bytes(self) -> int:
        """Memory that it takes as it was decoded."""
        return sum(plane.buffer_size for plane in self._decoded.planes)

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) in RGB, turned and mirrored as the file asks for; converted when called."""
        # Threads of FFmpeg do not survive the fork of a worker, which would wait for them.
        image = self._decoded.to_ndarray(format="rgb24", threads=1)
        is_swapped, flipped_axes = _orientation(self._decoded)
        return np.ascontiguousarray(np.flip(image.swapaxes(0, 1) if is_swapped else image, flipped_axes))


@runtime_checkable
class VideoSource(Sound, Protocol):
    """Frames and their sound; a :class:`transavs.media.video_reader.Video` is one.

    Attributes:
        name: for messages.
        height, width: of the upright frames in pixels.
        pixel_aspect: width over height of a pixel when it is shown.
        frame_rate: frames per second on average.
        duration: in seconds as far as it is known, else 0.
    """

    name: str
    height: int
    width: int
    pixel_aspect: Fraction
    frame_rate: float
    duration: float

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in the order and at the times at which they are shown."""


def _orientation(decoded: av.VideoFrame) -> tuple[bool, tuple[int, ...]]:
    """Tell whether a player swaps a frame's rows and columns, and which axes it flips afterwards."""
    try:
        found: Mapping[Any, Any] = decoded.side_data
        matrix = found.get(Type.DISPLAYMATRIX)
    except ValueError:  # there is other data beside it, of a kind that PyAV does not know: mirrored frames are missed
        turn = np.deg2rad(decoded.rotation)
        a, b, c, d = np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)
    else:
        if matrix is None:
            return False, ()
        # A pixel in column x and row y is shown in column a x + c y and row b x + d y.
        a, b, _, c, d = (float(factor) for factor in np.frombuffer(matrix, dtype=np.int32, count=5))
    is_swapped = bool(abs(b) + abs(c) > abs(a) + abs(d))
    down, right = (b, c) if is_swapped else (d, a)
    return is_swapped, tuple(axis for axis, factor in enumerate((down, right)) if factor < 0)


def upright_shape(decoded: av.VideoFrame, pixel_aspect: Fraction) -> tuple[int, int, Fraction]:
    """Height, width and aspect of the pixels of a frame when it has been turned as it asks for.

    Args:
        decoded: the frame.
        pixel_aspect: width over height of a pixel before.
    """
    is_swapped, _ = _orientation(decoded)
    if is_swapped:
        return decoded.width, decoded.height, 1 / pixel_aspect
    return decoded.height, decoded.width, pixel_aspect


def sample_frames(
    video: VideoSource, rate: float, seen: Callable[[VideoFrame], None] | None = None
) -> Iterator[VideoFrame]:
    """The frames shown in the middle of each interval of 1 / ``rate`` seconds, each once; all frames for rate 0.

    At one frame a second these are the frames at 0.5 s, 1.5 s, ...; a video shorter than that gives its last frame.

    Args:
        video: to read.
        rate: frames per second.
        seen: called with every frame of the video, in order, before it is sampled.
    """
    frames = video.frames() if seen is None else _shown_to(seen, video.frames())
    if not rate:
        yield from frames
        return
    held, given, number = None, -1, 0
    for frame in frames:
        while held is not None and frame.time > (number + 0.5) / rate:
            if held.index > given:
                yield held
                given = held.index
            number += 1
        held = frame
    is_shown = held is not None and (number + 0.5) / rate < held.time + 1 / video.frame_rate
    if held is not None and held.index > given and (is_shown or given < 0):
        yield held


def _shown_to(seen: Callable[[VideoFrame], None], frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    for frame in frames:
        seen(frame)
        yield frame
