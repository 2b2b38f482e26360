"""The front-end of VGGish: audio -> mono 16 kHz -> log-mel examples, and AVSBench's files of them.

Every example covers 0.96 s: 96 frames of 25 ms, 10 ms apart, in 64 mel bands. The constants are VGGish's own
(Hershey et al. 2017) and fix what its published weights expect; they are no settings.
"""

import math
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchaudio
from torch import Tensor

from transavs.data.front_ends import AUDIO_FRONT_END_REGISTRY, NOISE_LEVELS, SILENCE_MARGIN, AudioFrontEnd
from transavs.media.audio_file import SAMPLE_RATE, resample
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.limits import MAX_LOG_MEL_BYTES
from transavs.utils.safe_pickle import load_tensor

WINDOW, HOP, FFT = 400, 160, 512
MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96


def _mel_scale(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


@lru_cache(maxsize=1)
def mel_matrix() -> Tensor:
    """float64 (FFT // 2 + 1, MEL_BANDS): triangles linear in mel, without area normalization, no weight at 0 Hz.

    torchaudio's filter banks are linear in Hz, which VGGish's are not.
    """
    bins = _mel_scale(np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel_scale(np.array(MEL_LOW_HZ)), _mel_scale(np.array(MEL_HIGH_HZ)), MEL_BANDS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)))
    weights[0] = 0.0
    return torch.from_numpy(weights)


def log_mel_spectrogram(wave: Tensor) -> Tensor:
    """float64 mono 16 kHz (n,), n >= 400 -> float64 (frames, 64): natural logarithm of mel magnitude plus 0.01."""
    # torch centers the window of 400 in the FFT's 512 samples, so this padding puts frame k at samples 160 k ... 160 k
    # + 400 exactly; the shift inside the FFT turns phases only.
    spectrum = torchaudio.functional.spectrogram(
        wave,
        pad=(FFT - WINDOW) // 2,
        window=torch.hann_window(WINDOW, dtype=torch.float64),
        n_fft=FFT,
        hop_length=HOP,
        win_length=WINDOW,
        power=None,
        normalized=False,
        center=False,
    )
    magnitude = (spectrum.real.square() + spectrum.imag.square()).sqrt()  # many times faster than complex abs()
    return torch.log(magnitude.T @ mel_matrix() + LOG_OFFSET)


def log_mel_examples(waveform: Tensor | np.ndarray, sample_rate: int) -> Tensor:
    """Log-mel examples of a waveform, as VGGish and AVSBench compute them.

    Args:
        waveform: float in [-1, 1], mono (n,) or (channels, n).
        sample_rate: in Hz; resampled to 16 kHz where it differs.

    Returns:
        float32 (seconds, 1, 96, 64); whole examples only, the rest of the waveform is dropped.

    Raises:
        AVSInputError: see :func:`resample`.
    """
    wave = torch.as_tensor(waveform, dtype=torch.float64)
    wave = resample(wave.mean(0) if wave.ndim == 2 else wave, sample_rate)
    frames = log_mel_spectrogram(wave).float() if len(wave) >= WINDOW else torch.zeros(0, MEL_BANDS)
    seconds = len(frames) // EXAMPLE_FRAMES
    return frames[: seconds * EXAMPLE_FRAMES].reshape(seconds, 1, EXAMPLE_FRAMES, MEL_BANDS)


def seconds_of_examples(number: int) -> float:
    """Tell how long a sound must last to give so many examples: a little less than a second each."""
    return ((EXAMPLE_FRAMES * number - 1) * HOP + WINDOW) / SAMPLE_RATE


def load_log_mel_pickle(path: str | Path) -> Tensor:
    """Read one of AVSBench's own ``audio_log_mel`` pickles without running code from it.

    Returns:
        float32 (seconds, 1, 96, 64), detached.

    Raises:
        AVSInputError: the file is no pickled log-mel tensor, or larger than MAX_LOG_MEL_BYTES.
    """
    hint = "fetch it again or provide the wav"
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_LOG_MEL_BYTES + 1)
        if len(content) > MAX_LOG_MEL_BYTES:
            raise ValueError(f"it has more than {MAX_LOG_MEL_BYTES} bytes")
        examples = load_tensor(content).detach()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise AVSInputError(f"{path} is no pickled tensor ({one_line(error)}): {hint}") from error
    if examples.shape[1:] != (1, EXAMPLE_FRAMES, MEL_BANDS) or not examples.is_floating_point():
        found = f"{tuple(examples.shape)} of {examples.dtype}"
        wanted = f"(seconds, 1, {EXAMPLE_FRAMES}, {MEL_BANDS}) of floats"
        raise AVSInputError(f"{path} holds {found}, not {wanted}: {hint}")
    examples = examples.float()
    if not np.isfinite(examples.numpy()).all():  # the doctor's workers are forked, which torch's threads do not survive
        raise AVSInputError(f"{path} holds values that are no numbers: {hint}")
    return examples


def log_mel_pickle(audio_file: str | Path, seconds: int) -> bytes:
    """The content of one of AVSBench's ``audio_log_mel`` files: a pickled tensor, float32 (``seconds``, 1, 96, 64).

    Raises:
        AVSInputError: see :func:`transavs.media.audio_file.load_audio`.
    """
    return pickle.dumps(VGGishLogMel().load(str(audio_file), None, seconds))


@AUDIO_FRONT_END_REGISTRY.register()
@dataclass(frozen=True)
class VGGishLogMel(AudioFrontEnd):
    """VGGish's front-end, of examples of 0.96 s one after the other, as AVSBench numbers its seconds."""

    sample_rate: ClassVar[int] = SAMPLE_RATE
    max_context: ClassVar[float] = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, EXAMPLE_FRAMES, MEL_BANDS)

    def example(self, sound: Tensor) -> Tensor:
        return log_mel_examples(sound, SAMPLE_RATE)[0]

    def examples(self, waveform: Tensor | np.ndarray, sample_rate: int) -> Tensor:
        """See :func:`log_mel_examples`."""
        return log_mel_examples(waveform, sample_rate)

    def is_silent(self, examples: Tensor) -> bool:
        """Tell whether log-mel examples of any shape hold no sound: each value is that of a magnitude of 0."""
        return bool((examples <= math.log(LOG_OFFSET) + SILENCE_MARGIN).all())

    def read_stored(self, path: str) -> Tensor:
        return load_log_mel_pickle(path)

    def cache_key(self) -> list[Any]:
        return [
            *(SAMPLE_RATE, WINDOW, HOP, FFT, MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ),
            *(LOG_OFFSET, EXAMPLE_FRAMES, *NOISE_LEVELS),
        ]
