"""Audio files -> mono 16 kHz -> VGGish log-mel examples, the one audio front-end of the project.

Every example covers 0.96 s: 96 frames of 25 ms, 10 ms apart, in 64 mel bands. The constants are VGGish's own
(Hershey et al. 2017) and fix what its published weights expect; they are no settings.
"""

import math
import os
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from transavs.data.tensor_pickle import load_tensor
from transavs.errors import AVSInputError, one_line
from transavs.limits import MAX_CHANNELS, MAX_LOG_MEL_BYTES, MAX_RESAMPLING, MAX_SAMPLE_RATE, MAX_SAMPLES

SAMPLE_RATE = 16000
WINDOW, HOP, FFT = 400, 160, 512
MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
SILENCE_MARGIN = 1e-3  # above its logarithm, for the rounding of magnitudes
EXAMPLE_FRAMES = 96

NOISE_LEVELS = (-2.0, 0.0)  # exponents of ten between which the amplitude of noise is drawn
UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # what streaming writers leave in a RIFF header


def _mel_scale(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


@lru_cache(maxsize=1)
def mel_matrix() -> Tensor:
    """float64 (FFT // 2 + 1, MEL_BANDS): triangles linear in mel, without area normalisation, no weight at 0 Hz.

    torchaudio's filter banks are linear in Hz, which VGGish's are not.
    """
    bins = _mel_scale(np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel_scale(np.array(MEL_LOW_HZ)), _mel_scale(np.array(MEL_HIGH_HZ)), MEL_BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    weights[0] = 0.0
    return torch.from_numpy(weights)


def log_mel_spectrogram(wave: Tensor) -> Tensor:
    """float64 mono 16 kHz (n,), n >= 400 -> float64 (frames, 64): natural logarithm of mel magnitude plus 0.01."""
    # torch centres the window of 400 in the FFT's 512 samples, so this padding puts frame k at samples 160 k ... 160 k
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


def is_silent(examples: Tensor) -> bool:
    """Whether log-mel examples of any shape hold no sound at all: each value is that of a magnitude of 0."""
    return bool((examples <= math.log(LOG_OFFSET) + SILENCE_MARGIN).all())


def resample(wave: Tensor, sample_rate: int) -> Tensor:
    """float (n,) at any sample rate in Hz -> the same sound at 16 kHz.

    Raises:
        AVSInputError: the sample rate is none that can be worked with, or the sound too long.
    """
    if sample_rate == SAMPLE_RATE:
        return wave
    if sample_rate != int(sample_rate) or not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise AVSInputError(f"the sample rate is {sample_rate}: give a whole number of 1 to {MAX_SAMPLE_RATE} Hz")
    common = math.gcd(int(sample_rate), SAMPLE_RATE)
    if (sample_rate // common) * (SAMPLE_RATE // common) > MAX_RESAMPLING:
        raise AVSInputError(f"sound at {sample_rate} Hz takes too much memory to resample: give it at {SAMPLE_RATE} Hz")
    if len(wave) / sample_rate * SAMPLE_RATE > MAX_SAMPLES:
        raise AVSInputError(
            f"the sound lasts {len(wave) / sample_rate:.0f} s, and {MAX_SAMPLES / SAMPLE_RATE:.0f} s are read at most: "
            "cut it into pieces"
        )
    return torchaudio.functional.resample(wave, int(sample_rate), SAMPLE_RATE)


def fit_seconds(examples: Tensor, seconds: int) -> Tensor:
    """Cut to ``seconds`` examples or repeat the last one (silence where there is none), as AVSBench does."""
    if not len(examples):
        examples = log_mel_examples(torch.zeros(SAMPLE_RATE), SAMPLE_RATE)
    missing = max(0, seconds - len(examples))
    return torch.cat([examples[:seconds], examples[-1:].expand(missing, -1, -1, -1)])


def _check_not_truncated(path: Path) -> None:
    """libsndfile reads a RIFF file that ends early without a word; its header tells what should be there."""
    with open(path, "rb") as file:
        head = file.read(8)
    if len(head) < 8:
        raise AVSInputError(f"{path} is no audio file (it holds {len(head)} bytes): extract the audio again")
    if head[:4] == b"RIFF":
        size = struct.unpack("<I", head[4:])[0]
        found = os.path.getsize(path)
        if size not in UNKNOWN_SIZES and found < size + 8:
            raise AVSInputError(f"{path} is truncated ({found} of {size + 8} bytes): extract the audio again")


def load_audio(path: str | Path) -> tuple[Tensor, int]:
    """Read an audio file.

    Returns:
        float32 (channels, n) in [-1, 1] and the sample rate in Hz.

    Raises:
        AVSInputError: the file is missing, truncated, empty, no audio, beyond the limits of transavs/limits.py by what
            its header says, or has samples that are no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise AVSInputError(f"{path} does not exist: extract the audio of this clip, or remove the clip from the csv")
    _check_not_truncated(path)
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


def load_log_mel_pickle(path: str | Path) -> Tensor:
    """Read one of AVSBench's own ``audio_log_mel`` pickles without running code from it.

    Returns:
        float32 (seconds, 1, 96, 64), detached.

    Raises:
        AVSInputError: the file is no pickled log-mel tensor, or larger than MAX_LOG_MEL_BYTES.
    """
    mend = "fetch it again or provide the wav"
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_LOG_MEL_BYTES + 1)
        if len(content) > MAX_LOG_MEL_BYTES:
            raise ValueError(f"it has more than {MAX_LOG_MEL_BYTES} bytes")
        examples = load_tensor(content).detach()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise AVSInputError(f"{path} is no pickled tensor ({one_line(error)}): {mend}") from error
    if examples.shape[1:] != (1, EXAMPLE_FRAMES, MEL_BANDS) or not examples.is_floating_point():
        found = f"{tuple(examples.shape)} of {examples.dtype}"
        wanted = f"(seconds, 1, {EXAMPLE_FRAMES}, {MEL_BANDS}) of floats"
        raise AVSInputError(f"{path} holds {found}, not {wanted}: {mend}")
    examples = examples.float()
    if not np.isfinite(examples.numpy()).all():  # the doctor's workers are forked, which torch's threads do not survive
        raise AVSInputError(f"{path} holds values that are no numbers: {mend}")
    return examples


def noise_examples(seed: int, seconds: int) -> Tensor:
    """Log-mel examples of white noise at a random level, float32 (T, 1, 96, 64); the same for the same seed."""
    rng = np.random.default_rng(seed)
    level = 10 ** rng.uniform(*NOISE_LEVELS)
    return fit_seconds(log_mel_examples(level * rng.uniform(-1, 1, seconds * SAMPLE_RATE), SAMPLE_RATE), seconds)


def load_log_mel(
    audio_file: str | None, log_mel_file: str | None, seconds: int, noise_seed: int | None = None
) -> Tensor:
    """Log-mel examples of one clip: from the audio, else from AVSBench's pickle; noise or silence if none is named.

    Args:
        audio_file: path of the audio, or None.
        log_mel_file: path of the pickle to fall back on where ``audio_file`` does not exist, or None.
        seconds: T.
        noise_seed: of the noise to make where no audio is named; None for silence.

    Returns:
        float32 (T, 1, 96, 64).
    """
    if audio_file is None:
        if noise_seed is not None:
            return noise_examples(noise_seed, seconds)
        return fit_seconds(torch.zeros(0, 1, EXAMPLE_FRAMES, MEL_BANDS), seconds)
    if log_mel_file is not None and not Path(audio_file).exists() and Path(log_mel_file).exists():
        return fit_seconds(load_log_mel_pickle(log_mel_file), seconds)
    return fit_seconds(log_mel_examples(*load_audio(audio_file)), seconds)
