"""Sounds to hear in place of a video's own."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.container import SteadyStamps, best_streams, check_sound, open_media, steady_sound
from transavs.utils.errors import AVSInputError, one_line

MUTE, NOISE = "mute", "noise"
NOISE_SEED = 0
NOISE_LEVEL = 0.1  # root mean square, -20 dB of full scale: about as loud as speech


class Sound(Protocol):
    """Anything that is heard; a :class:`transavs.media.frames.VideoSource` is.

    Attributes:
        sample_rate: in Hz.
        channels: their number.
    """

    sample_rate: int
    channels: int

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        """Blocks of float32 (channels, n) in [-1, 1], see :meth:`transavs.media.video_reader.Video.sound`."""


class Silence:
    """Nothing to be heard for a while, in one channel unless a layout is asked for."""

    sample_rate, channels = SAMPLE_RATE, 1

    def __init__(self, seconds: float):
        self._seconds = seconds

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        channels = av.AudioLayout(layout).nb_channels if layout else self.channels
        samples = round(min(self._seconds * sample_rate, sys.maxsize))
        for start in range(0, samples, sample_rate):
            length = min(sample_rate, samples - start)
            yield np.zeros((channels, length), dtype=np.float32)


class Noise(Silence):
    """White noise for a while, the same each time it is heard, in one channel or the same in all that are asked for."""

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(NOISE_SEED)
        for block in super().sound(sample_rate, layout):
            mono = NOISE_LEVEL * rng.standard_normal((block.shape[1],), dtype=np.float32)
            yield np.tile(mono.clip(-1, 1), (len(block), 1))


class SoundFile:
    """The sound of an audio file, or of a video without its picture, of any format that FFmpeg reads."""

    def __init__(self, path: str | Path, seconds: float, name: str | None = None):
        """
        Args:
            path: of the file.
            seconds: to listen to, from its start; a shorter file ends earlier.
            name: for messages.

        Raises:
            AVSInputError: the file is missing, damaged, without sound, or beyond transavs/utils/limits.py.
        """
        self._path, self._seconds, self._name = Path(path), seconds, name or str(path)
        if not self._path.is_file():
            raise AVSInputError(f"{self._name} does not exist: name an audio or a video file")
        first = next(self._decoded(), None)
        if first is None:
            raise AVSInputError(f"{self._name} holds no sound that can be decoded: name another audio or video file")
        self.sample_rate: int = first.sample_rate
        self.channels: int = first.layout.nb_channels
        self._layout: str = first.layout.name
        self._start: float = first.time

    def _decoded(self) -> Iterator[Any]:
        steady = SteadyStamps()
        try:
            with open_media(self._path) as container:
                _, track = best_streams(container)
                if track is None and container.streams.audio:
                    raise AVSInputError(f"{self._name} has sound that FFmpeg cannot decode: name another file")
                if track is None:
                    return
                check_sound(self._name, track.codec_context)
                for packet in container.demux(track):
                    with suppress(av.FFmpegError):  # a damaged packet is left out
                        yield from map(steady, packet.decode())
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, AVSInputError):
                raise
            raise AVSInputError(
                f"{self._name} cannot be read as sound ({one_line(error)}): name an audio or a video file"
            ) from error

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        """The sound from its first sample on, with silence in place of gaps; see :class:`Sound`."""
        left = round(min(self._seconds * sample_rate, sys.maxsize))
        for block in steady_sound(self._decoded(), self._start, sample_rate, layout or self._layout):
            yield block[:, :left]
            left -= min(left, block.shape[1])
            if not left:
                return


class SoundAround:
    """Looks at a stream of sound through a window that moves on."""

    def __init__(self, blocks: Iterable[np.ndarray], sample_rate: int, samples: int | None = None):
        """
        Args:
            blocks: float32 (channels, n).
            sample_rate: of them, in Hz.
            samples: seen through the window; None for those of a second.
        """
        self._blocks, self._sample_rate, self._samples = iter(blocks), sample_rate, samples or sample_rate
        self._held = np.zeros(self._samples, dtype=np.float32)  # silence comes before the sound
        self._offset = -self._samples  # sample number of the first one held

    def __call__(self, time: float) -> np.ndarray:
        """Give the sound around ``time``, mono, float32 (samples,); silence where there is no sound.

        Args:
            time: in seconds, at least that of the last call.
        """
        start = round((time - self._samples / self._sample_rate / 2) * self._sample_rate)
        end = start + self._samples
        while self._offset + len(self._held) < end:
            block = next(self._blocks, None)
            fresh = np.zeros(self._sample_rate, dtype=np.float32) if block is None else block.mean(0)
            held = np.concatenate([self._held, fresh])
            passed = min(max(0, start - self._offset), len(held))
            self._held, self._offset = held[passed:], self._offset + passed
        return self._held[start - self._offset : end - self._offset]


def sound_named(name: str, seconds: float) -> Sound:
    """ "mute", "noise" or the path of an audio or video file -> that sound, for up to so many seconds.

    Raises:
        AVSInputError: see :class:`SoundFile`.
    """
    if name == MUTE:
        return Silence(seconds)
    return Noise(seconds) if name == NOISE else SoundFile(name, seconds)
