"""What the tests of the web demo give it."""

from pathlib import Path

import numpy as np
import soundfile

from transavs.data.synthetic.video import write_synthetic_video
from transavs.demo.loudness import loudness_levels
from transavs.demo.session import Limits
from transavs.media.audio_stream import SoundFile

SIDE = 96
SECONDS = 3
LIMITS = Limits(seconds=5, megabytes=2)


def write_video(path: Path, seconds: float = SECONDS) -> Path:
    write_synthetic_video(path, seconds=seconds, frame_rate=6, size=(SIDE, SIDE), seed=4)
    return path


def write_noise(path: Path) -> Path:
    """Ten seconds in stereo."""
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (441000, 2)), 44100)
    return path


def level(path: Path) -> float:
    """Loudness of the loudest twentieth of a second, in dB."""
    return float(loudness_levels(SoundFile(path, SECONDS)).max())
