"""Loudness of a video, and a strip that shows it."""

import cv2
import numpy as np

from transavs.inference.predictor import SILENCE_DB, loudness
from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.audio_stream import Sound

LEVELS_PER_SECOND = 20
QUIETEST_DRAWN = -60.0  # dB of full scale, the bottom of the strip
INAUDIBLE = -80.0
SECONDS_DRAWN = 10.0  # of a live video
PLAYED, AHEAD, GROUND, CURSOR = (255, 140, 60), (110, 110, 120), (24, 24, 28), (255, 255, 255)  # RGB


def loudness_levels(heard: Sound) -> np.ndarray:
    """Loudness of every twentieth of a second, float32 (n,) in dB of full scale; of a video from the first frame on."""
    length = SAMPLE_RATE // LEVELS_PER_SECOND
    levels: list[float] = []
    rest = np.zeros(0, dtype=np.float32)
    for block in heard.sound(SAMPLE_RATE):
        mono = np.concatenate([rest, block.mean(0)])
        whole = len(mono) // length * length
        levels += [loudness(piece) for piece in mono[:whole].reshape(-1, length)]
        rest = mono[whole:]
    return np.array(levels or [SILENCE_DB], dtype=np.float32)


def is_silent(levels: np.ndarray) -> bool:
    """Tell whether nothing can be heard in what :func:`loudness_levels` gives."""
    return bool(levels.max() <= INAUDIBLE)


def loudness_per_second(levels: np.ndarray) -> list[float]:
    """Loudness of each second, in dB of full scale, of what :func:`loudness_levels` gives."""
    power = 10 ** (levels.astype(float) / 10)
    starts = range(0, len(levels), LEVELS_PER_SECOND)
    return [round(float(10 * np.log10(power[start : start + LEVELS_PER_SECOND].mean())), 1) for start in starts]


class LoudnessStrip:
    """The loudness of a whole video as a band of pixels, with what has been played in color."""

    def __init__(self, levels: np.ndarray, duration: float, size: tuple[int, int]):
        """
        Args:
            levels: see :func:`loudness_levels`.
            duration: of the video, in seconds.
            size: (h, W) of the band in pixels.
        """
        self._duration = max(duration, len(levels) / LEVELS_PER_SECOND)
        height, width = size
        # The loudest level that falls on each column.
        columns = np.minimum(np.arange(len(levels)) / LEVELS_PER_SECOND / self._duration * width, width - 1).astype(int)
        heights = np.zeros(width)
        np.maximum.at(heights, columns, _share(levels))
        if len(levels) < width:  # fewer levels than columns: no gaps between them
            heights = np.interp(np.arange(width), columns, _share(levels))
        self._wave = _wave(heights, height)

    def at(self, time: float) -> np.ndarray:
        """uint8 (h, W, 3): the band when ``time`` seconds have been played."""
        height, width = self._wave.shape
        now = min(width - 1, round(time / self._duration * width))
        image = np.full((height, width, 3), GROUND, dtype=np.uint8)
        image[:, :now][self._wave[:, :now]] = PLAYED
        image[:, now:][self._wave[:, now:]] = AHEAD
        cv2.line(image, (now, 0), (now, height), CURSOR, max(1, width // 640))
        return image


class RunningStrip:
    """The loudness of the last seconds of a live video as a band of pixels, which moves to the left."""

    def __init__(self, size: tuple[int, int]):
        """
        Args:
            size: (h, W) of the band in pixels.
        """
        self._size = size
        self._heard: list[tuple[float, float]] = []

    def hear(self, time: float, level: float) -> None:
        """Take the loudness in dB of full scale at a time in seconds, later than the last one."""
        recent = [heard for heard in self._heard if heard[0] > time - 2 * SECONDS_DRAWN]
        self._heard = [*recent, (time, level)]  # a new list: another thread may be drawing the old one

    def at(self, time: float) -> np.ndarray:
        """uint8 (h, W, 3): the band at ``time`` seconds."""
        height, width = self._size
        times, levels = np.array(self._heard).T
        columns = time - SECONDS_DRAWN * np.linspace(1, 0, width)
        wave = _wave(np.interp(columns, times, _share(levels), left=0), height)
        return np.where(wave[..., None], PLAYED, GROUND).astype(np.uint8)


def _share(levels: np.ndarray) -> np.ndarray:
    """Heights to draw levels with, in [0, 1]."""
    return np.clip(1 - levels / QUIETEST_DRAWN, 0, 1)


def _wave(heights: np.ndarray, height: int) -> np.ndarray:
    """bool (height, W): bars of these heights (W,), in [0, 1], around the middle."""
    rows = np.abs(np.arange(height)[:, None] + 0.5 - height / 2)
    return rows <= np.maximum(0.45 * height * heights, 0.5)
