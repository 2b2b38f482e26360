"""Sounds in place of a video's own."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from transavs.inference.predictor import SILENCE_DB, loudness
from transavs.media.audio_stream import Noise, Silence, Sound, SoundFile
from transavs.media.container import steady_sound


def whole(heard: Sound, sample_rate: int, layout: str | None = None) -> np.ndarray:
    return np.concatenate(list(heard.sound(sample_rate, layout)), 1)


def test_noise_is_white_of_its_level_and_the_same_each_time():
    sound = whole(Noise(3.5), 16000)
    assert sound.shape == (1, 56000)
    assert sound.dtype == np.float32
    assert np.abs(sound).max() <= 1
    assert loudness(sound) == pytest.approx(-20, abs=0.1)
    power = np.abs(np.fft.rfft(sound[0])) ** 2
    quarters = [piece.mean() / power.mean() for piece in np.array_split(power, 4)]
    assert quarters == pytest.approx([1] * 4, abs=0.05)
    np.testing.assert_array_equal(whole(Noise(3.5), 16000), sound)
    stereo = whole(Noise(1), 16000, "stereo")
    np.testing.assert_array_equal(stereo, np.tile(sound[:, :16000], (2, 1)))


def test_silence_lasts_as_long_as_told():
    assert whole(Silence(2.25), 8000, "stereo").shape == (2, 18000)
    assert loudness(whole(Silence(1), 8000)) == SILENCE_DB


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 9, 16, 32])
def test_every_channel_is_read_and_no_other(channels: int, tmp_path: Path):
    """PyAV finds more planes than there are in planar frames of eight channels or more."""
    levels = np.linspace(-0.9, 0.9, channels)[:, None]
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile(levels.T, (4000, 1)), 16000)
    with av.open(str(path)) as container:
        decoded = list(container.decode(audio=0))
    for blocks in (SoundFile(path, 1.0).sound(16000), steady_sound(decoded, 0.0, 16000)):
        read = np.concatenate(list(blocks), 1)
        assert read.shape == (channels, 4000)
        np.testing.assert_allclose(read, np.tile(levels, (1, 4000)), atol=1e-3)
