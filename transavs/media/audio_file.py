"""Audio files read whole, and resampled to the rate of the project's front-ends."""

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from transavs.utils.errors import AVSInputError
from transavs.utils.limits import MAX_CHANNELS, MAX_RESAMPLING, MAX_SAMPLE_RATE, MAX_SAMPLES

SAMPLE_RATE = 16000
LITTLE_SHORT = 0.9  # share of what its header announces that a file which is a little short holds at least
UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # what streaming writers leave in a RIFF header
Repair = Callable[[str, str], None]  # kind of a repair, and what is wrong where


def load_audio(path: str | Path, repair: Repair | None = None) -> tuple[Tensor, int]:
    """Read an audio file.

    Args:
        path: of the file.
        repair: called for a file that ends a little before its header says, which is then read as far as it goes; None
            refuses it.

    Returns:
        float32 (channels, n) in [-1, 1] and the sample rate in Hz.

    Raises:
        AVSInputError: the file is missing, truncated, empty, no audio, has samples that are no numbers, or is by its
            header beyond transavs/utils/limits.py.
    """
    path = Path(path)
    if not path.is_file():
        raise AVSInputError(f"{path} does not exist: extract the audio of this clip, or remove the clip from the csv")
    _check_not_truncated(path, repair)
    try:
        with soundfile.SoundFile(path) as file:
            _check_announced(path, file.frames, file.channels, file.samplerate)
            samples, sample_rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise AVSInputError(f"{path} cannot be read as audio ({error.error_string}): extract it again") from error
    except TypeError as error:  # soundfile takes a .raw file to be without a header
        raise AVSInputError(f"{path} is of a kind without a header: extract the audio again, as .wav") from error
    if not len(samples):
        raise AVSInputError(f"{path} holds no sample: extract the audio again")
    if not np.isfinite(samples).all():
        raise AVSInputError(f"{path} holds samples that are no numbers: extract the audio again")
    return torch.from_numpy(np.ascontiguousarray(samples.T)), sample_rate


def _check_not_truncated(path: Path, repair: Repair | None) -> None:
    """Find a RIFF file that ends early, by its header: libsndfile reads it without a word."""
    with open(path, "rb") as file:
        head = file.read(8)
    if len(head) < 8:
        raise AVSInputError(f"{path} is no audio file (it holds {len(head)} bytes): extract the audio again")
    if head[:4] == b"RIFF":
        size = struct.unpack("<I", head[4:])[0]
        found = os.path.getsize(path)
        if size not in UNKNOWN_SIZES and found < size + 8:
            told = f"{path} is truncated ({found} of {size + 8} bytes)"
            if repair is None or found < LITTLE_SHORT * size:
                raise AVSInputError(f"{told}: extract the audio again")
            repair("audio-truncated", told)


def _check_announced(path: Path, samples: int, channels: int, sample_rate: int) -> None:
    """Raise an AVSInputError where the header of a file announces more than is to be decoded."""
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE or channels > MAX_CHANNELS:
        raise AVSInputError(
            f"{path} has {channels} channels at {sample_rate} Hz, and up to {MAX_CHANNELS} at {MAX_SAMPLE_RATE} Hz are "
            "read: extract the audio again"
        )
    if max(samples * channels, samples / sample_rate * SAMPLE_RATE) > MAX_SAMPLES:
        raise AVSInputError(
            f"{path} announces {samples / sample_rate:.0f} s of {channels} channels at {sample_rate} Hz, which is more "
            "than is read at once: cut out the piece that belongs to the clip"
        )


def resample(wave: Tensor, sample_rate: int, new_rate: int = SAMPLE_RATE) -> Tensor:
    """float (n,) at any sample rate in Hz -> the same sound at another, 16 kHz unless told.

    Raises:
        AVSInputError: the sample rate is none that can be worked with, or the sound too long.
    """
    if sample_rate == new_rate:
        return wave
    if sample_rate != int(sample_rate) or not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise AVSInputError(f"the sample rate is {sample_rate}: give a whole number of 1 to {MAX_SAMPLE_RATE} Hz")
    common = math.gcd(int(sample_rate), new_rate)
    if (sample_rate // common) * (new_rate // common) > MAX_RESAMPLING:
        raise AVSInputError(f"sound at {sample_rate} Hz takes too much memory to resample: give it at {new_rate} Hz")
    if len(wave) / sample_rate * new_rate > MAX_SAMPLES:
        raise AVSInputError(
            f"the sound lasts {len(wave) / sample_rate:.0f} s, and {MAX_SAMPLES / new_rate:.0f} s are read at most: "
            "cut it into pieces"
        )
    return torchaudio.functional.resample(wave, int(sample_rate), new_rate)
