"""Frames with their times, what gives them together with their sound, and which of them get a mask."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import av
import numpy as np

from transavs.media.audio_stream import Sound

QUARTER = 90


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
        """uint8 (H, W, 3) in RGB, turned as the file asks for; converted when called."""
        image = self._decoded.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(image, round(self._decoded.rotation / QUARTER)))


@runtime_checkable
class VideoSource(Sound, Protocol):
    """Frames and their sound; a :class:`transavs.media.video_reader.Video` is one.

    Attributes:
        name: for messages.
        height, width: of the upright frames in pixels.
        frame_rate: frames per second on average.
        duration: in seconds as far as it is known, else 0.
    """

    name: str
    height: int
    width: int
    frame_rate: float
    duration: float

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in the order and at the times at which they are shown."""


def upright_size(decoded: av.VideoFrame) -> tuple[int, int]:
    """(H, W) of a frame when it has been turned as it asks for."""
    is_turned = round(decoded.rotation / QUARTER) % 2
    return (decoded.width, decoded.height) if is_turned else (decoded.height, decoded.width)


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
