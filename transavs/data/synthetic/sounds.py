"""The sounds of the synthetic data set: one timbre per class, every instance with its own pitch, pace and loudness.

A timbre takes a random generator, a number of samples and a sample rate and returns a float64 waveform (n,) of about
unit peak; ``pitch`` multiplies all of its frequencies. Shorthand: f0 = fundamental in Hz.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Timbre = Callable[[np.random.Generator, int, int], np.ndarray]


def _harmonics(phase: np.ndarray, f0: float, sample_rate: int, rolloff: float) -> np.ndarray:
    """Sum of the harmonics of a phase (radians) below the Nyquist frequency, the k-th with amplitude k ** -rolloff."""
    count = max(1, min(16, int(0.45 * sample_rate / f0)))
    return sum(np.sin(k * phase) * k**-rolloff for k in range(1, count + 1))


def _strike_times(rng: np.random.Generator, n: int, sample_rate: int, rate: float) -> np.ndarray:
    """Sample indices of events at about ``rate`` per second, slightly off the beat."""
    period = sample_rate / rate
    beats = np.arange(rng.uniform(0, period), n, period)
    return np.clip(beats + rng.normal(0, 0.08 * period, beats.shape), 0, n - 1).astype(int)


def _repeat(event: np.ndarray, starts: np.ndarray, gains: np.ndarray, n: int) -> np.ndarray:
    """Add ``event`` at every start, scaled by its gain, and cut to n samples."""
    wave = np.zeros(n + len(event))
    for start, gain in zip(starts, gains, strict=True):
        wave[start : start + len(event)] += gain * event
    return wave[:n]


def _shaped_noise(rng: np.random.Generator, n: int, sample_rate: int, low: float, high: float) -> np.ndarray:
    """Gaussian noise between ``low`` and ``high`` Hz, with unit standard deviation."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / sample_rate)
    spectrum[(frequency < low) | (frequency > high)] = 0
    noise = np.fft.irfft(spectrum, n)
    return noise / (noise.std() + 1e-12)


def violin(rng: np.random.Generator, n: int, sample_rate: int, pitch: float = 1.0) -> np.ndarray:
    """Bowed notes: many harmonics, vibrato, slow attack."""
    seconds = np.arange(n) / sample_rate
    f0 = pitch * rng.uniform(220, 440)
    vibrato = 0.012 * np.sin(2 * np.pi * rng.uniform(5, 7) * seconds + rng.uniform(0, 2 * np.pi))
    wave = _harmonics(2 * np.pi * np.cumsum(f0 * (1 + vibrato)) / sample_rate, f0, sample_rate, 1.0)
    bow = (seconds * rng.uniform(1.2, 2.0) + rng.uniform()) % 1.0
    return 0.6 * wave * np.minimum(1, bow / 0.15) * np.minimum(1, (1 - bow) / 0.05)


def bell(rng: np.random.Generator, n: int, sample_rate: int, pitch: float = 1.0) -> np.ndarray:
    """Struck metal: inharmonic partials with a sharp attack and an exponential decay."""
    seconds = np.arange(sample_rate) / sample_rate
    f0 = pitch * rng.uniform(500, 900)
    strike = np.zeros(len(seconds))
    for ratio, gain, decay in ((1.0, 0.5, 4), (2.76, 0.35, 7), (5.40, 0.2, 11)):
        strike += gain * np.sin(2 * np.pi * f0 * ratio * seconds) * np.exp(-seconds * decay)
    starts = _strike_times(rng, n, sample_rate, rng.uniform(3, 4.5))
    return _repeat(strike, starts, rng.uniform(0.6, 1.0, len(starts)), n)


def siren(rng: np.random.Generator, n: int, sample_rate: int, pitch: float = 1.0) -> np.ndarray:
    """One strong tone that glides up and down."""
    seconds = np.arange(n) / sample_rate
    sweep = np.abs(2 * ((seconds * rng.uniform(1.2, 2.2) + rng.uniform()) % 1.0) - 1)
    frequency = pitch * rng.uniform(650, 800) * (1 + 0.9 * sweep)
    return 0.7 * _harmonics(2 * np.pi * np.cumsum(frequency) / sample_rate, 1500.0 * pitch, sample_rate, 2.0)


def motor(rng: np.random.Generator, n: int, sample_rate: int, pitch: float = 1.0) -> np.ndarray:
    """A low, rough pulse train whose speed drifts."""
    seconds = np.arange(n) / sample_rate
    f0 = pitch * rng.uniform(45, 80)
    drift = 1 + 0.08 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * seconds + rng.uniform(0, 2 * np.pi))
    pulses = _harmonics(2 * np.pi * np.cumsum(f0 * drift) / sample_rate, f0, sample_rate, 0.7)
    return 0.35 * pulses + 0.05 * _shaped_noise(rng, n, sample_rate, 50 * pitch, 600 * pitch)


def surf(rng: np.random.Generator, n: int, sample_rate: int, pitch: float = 1.0) -> np.ndarray:
    """Broad noise that swells and falls several times a second."""
    seconds = np.arange(n) / sample_rate
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(4, 8) * seconds + rng.uniform(0, 2 * np.pi))
    low, width = rng.uniform(300, 600), rng.uniform(5000, 6500)
    return 0.35 * swell * _shaped_noise(rng, n, sample_rate, pitch * low, pitch * (low + width))


def bird(rng: np.random.Generator, n: int, sample_rate: int, pitch: float = 1.0) -> np.ndarray:
    """Short rising chirps, high up."""
    length = int(rng.uniform(0.07, 0.13) * sample_rate)
    glide = np.linspace(0, 1, length)
    frequency = pitch * rng.uniform(2600, 3400) * (1 + rng.uniform(0.25, 0.45) * glide)
    chirp = np.sin(2 * np.pi * np.cumsum(frequency) / sample_rate) * np.hanning(length)
    starts = _strike_times(rng, n, sample_rate, rng.uniform(5, 8))
    return _repeat(chirp, starts, rng.uniform(0.6, 1.0, len(starts)), n)


@dataclass(frozen=True)
class Soundscape:
    """Disturbances of the sources of a clip.

    Attributes:
        gaps: largest share of a sounding second in which its source pauses.
        noise: least and largest deviation of the noise over all; drawn evenly in its logarithm.
    """

    gaps: float
    noise: tuple[float, float]


SLOTS = 10  # parts of a second in which a source sounds or pauses


def gate(sounding: np.ndarray, n: int, ramp: int) -> np.ndarray:
    """Envelope (n,) that is 1 in the equal parts of it marked in ``sounding`` and 0 elsewhere, with short ramps.

    Args:
        sounding: bool, of any length that divides n.
        n: samples.
        ramp: samples from 0 to 1.
    """
    steps = np.repeat(sounding.astype(float), n // len(sounding))
    kernel = np.hanning(ramp) / np.hanning(ramp).sum()
    smoothed = np.convolve(np.pad(steps, ramp, mode="edge"), kernel, mode="same")
    return smoothed[ramp : ramp + n]


def with_gaps(sounding: np.ndarray, gaps: float, rng: np.random.Generator) -> np.ndarray:
    """Bool (T,) seconds -> bool (T * SLOTS,) slots, each sounding second with pauses of up to ``gaps`` of it."""
    slots = np.repeat(sounding[:, None], SLOTS, axis=1)
    for second in slots:
        second[rng.permutation(SLOTS)[: rng.integers(round(gaps * SLOTS) + 1)]] = False
    return slots.ravel()


def mix(
    timbres: Sequence[Timbre], sounding: np.ndarray, soundscape: Soundscape, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Sum of the sources of one clip over noise.

    Args:
        timbres: one per source.
        sounding: bool (sources, T), which source sounds in which second.
        soundscape: pauses and noise.
        sample_rate: in Hz.
        rng: source of every random choice.

    Returns:
        float64 (T * sample_rate,) in [-1, 1].
    """
    n = sounding.shape[1] * sample_rate
    wave = np.exp(rng.uniform(*np.log(soundscape.noise))) * rng.standard_normal(n)
    for timbre, seconds in zip(timbres, sounding, strict=True):
        loudness = np.repeat(rng.uniform(0.6, 1.0, len(seconds)), sample_rate)
        envelope = gate(with_gaps(seconds, soundscape.gaps, rng), n, ramp=sample_rate // 50)
        wave += loudness * envelope * timbre(rng, n, sample_rate)
    return wave / max(1.0, np.abs(wave).max() / 0.95)
