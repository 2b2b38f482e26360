"""The audio front-end against VGGish's definition, written out slowly, and against its published values."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from transavs import AVSInputError
from transavs.data.audio import (
    VGGishLogMel,
    load_log_mel_pickle,
    log_mel_examples,
    log_mel_spectrogram,
    mel_matrix,
)
from transavs.media.audio_file import load_audio

SECONDS = np.arange(80000) / 16000


def slow_log_mel(wave: np.ndarray) -> np.ndarray:
    """Frame by frame and band by band, (frames, 64)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    rows = []
    for start in range(0, len(wave) - 399, 160):
        magnitude = np.abs(np.fft.rfft(wave[start : start + 400] * window, 512))
        bands = np.zeros(64)
        for k in range(1, 257):
            mel = 1127 * np.log(1 + k * 16000 / 512 / 700)
            for band in range(64):
                low, center, high = edges[band : band + 3]
                weight = min((mel - low) / (center - low), (high - mel) / (high - center))
                bands[band] += max(0.0, weight) * magnitude[k]
        rows.append(np.log(bands + 0.01))
    return np.array(rows)


def test_equals_the_slow_definition():
    wave = np.random.default_rng(1).uniform(-1, 1, 2000)
    np.testing.assert_allclose(log_mel_spectrogram(torch.from_numpy(wave)).numpy(), slow_log_mel(wave), atol=1e-9)


def test_golden_values():
    assert mel_matrix().sum().item() == pytest.approx(230.913599, abs=1e-5)
    silence = log_mel_examples(np.zeros(80000), 16000)
    assert silence.shape == (5, 1, 96, 64)
    assert torch.allclose(silence, torch.tensor(-4.605170))

    tone = log_mel_examples(0.5 * np.sin(2 * np.pi * 440 * SECONDS), 16000)
    assert tone.min().item() == pytest.approx(-4.604327, abs=1e-5)
    assert tone.max().item() == pytest.approx(4.089175, abs=1e-5)
    assert tone.mean((0, 1, 2)).argmax() == 8
    assert tone[0, 0, 0, :4].tolist() == pytest.approx([-3.736307, -2.743742, -2.204709, -2.052619], abs=1e-5)

    # These means run over all 498 frames, the tail that fills no example included.
    frames = log_mel_spectrogram(torch.from_numpy(0.5 * np.sin(2 * np.pi * 440 * SECONDS)))
    assert frames.shape == (498, 64)
    assert frames.mean().item() == pytest.approx(-3.501801, abs=1e-5)
    noise = log_mel_spectrogram(torch.from_numpy(np.random.RandomState(0).uniform(-1, 1, 80000)))
    assert noise.mean().item() == pytest.approx(2.839599, abs=1e-5)
    assert noise.std(correction=0).item() == pytest.approx(0.798434, abs=1e-5)
    higher = log_mel_examples(0.5 * np.sin(2 * np.pi * 1000 * SECONDS), 16000)
    assert higher.mean().item() == pytest.approx(-3.657225, abs=1e-5)
    assert higher.mean((0, 1, 2)).argmax() == 19


def test_channels_are_averaged_and_rates_resampled():
    tone = 0.5 * np.sin(2 * np.pi * 440 * SECONDS)
    mono = log_mel_examples(tone, 16000)
    assert torch.equal(log_mel_examples(np.stack([2 * tone, 0 * tone]), 16000), mono)
    faster = 0.5 * np.sin(2 * np.pi * 440 * np.arange(5 * 44100) / 44100)
    assert (log_mel_examples(faster, 44100) - mono)[:, :, 1:-1].abs().max() < 0.05


@pytest.mark.parametrize(("samples", "examples"), [(0, 0), (399, 0), (15600, 1), (77039, 4), (77040, 5), (160000, 10)])
def test_whole_examples_only(samples: int, examples: int):
    assert log_mel_examples(np.zeros(samples), 16000).shape == (examples, 1, 96, 64)


def test_short_audio_repeats_its_last_example():
    examples = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 96, 64)
    assert VGGishLogMel().fit(examples, 5)[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 2]
    assert VGGishLogMel().fit(examples, 2)[:, 0, 0, 0].tolist() == [0, 1]
    assert torch.allclose(VGGishLogMel().fit(examples[:0], 2), torch.tensor(-4.605170))


def write_wav(path: Path, samples: int = 16000) -> Path:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, samples), 16000, subtype="PCM_16")
    return path


def test_broken_audio_names_the_file_and_the_mend(tmp_path: Path):
    wav = write_wav(tmp_path / "cut.wav")
    wav.write_bytes(wav.read_bytes()[:20000])
    with pytest.raises(AVSInputError, match=r"cut\.wav is truncated \(20000 of 32044 bytes\): extract"):
        load_audio(wav)
    with pytest.raises(AVSInputError, match=r"gone\.wav does not exist: extract"):
        load_audio(tmp_path / "gone.wav")
    (tmp_path / "text.wav").write_text("this is no sound at all")
    with pytest.raises(AVSInputError, match=r"text\.wav cannot be read as audio .*: extract"):
        load_audio(tmp_path / "text.wav")
    (tmp_path / "tiny.wav").write_bytes(b"RIFF")
    with pytest.raises(AVSInputError, match=r"tiny\.wav is no audio file"):
        load_audio(tmp_path / "tiny.wav")
    with pytest.raises(AVSInputError, match=r"none\.wav holds no sample"):
        load_audio(write_wav(tmp_path / "none.wav", samples=0))


def test_a_streamed_header_is_not_taken_for_truncation(tmp_path: Path):
    wav = write_wav(tmp_path / "stream.wav")
    data = bytearray(wav.read_bytes())
    data[4:8] = struct.pack("<I", 0xFFFFFFFF)
    wav.write_bytes(bytes(data))
    assert load_audio(wav)[0].shape == (1, 16000)


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_give_tensors_and_run_nothing(tmp_path: Path):
    examples = torch.randn(5, 1, 96, 64, requires_grad=True)
    path = tmp_path / "clip.pkl"
    path.write_bytes(pickle.dumps(examples))
    loaded = load_log_mel_pickle(path)
    assert torch.equal(loaded, examples)
    assert not loaded.requires_grad

    touched = tmp_path / "touched"
    path.write_bytes(pickle.dumps(Hostile(touched)))
    with pytest.raises(AVSInputError, match=r"clip\.pkl is no pickled tensor"):
        load_log_mel_pickle(path)
    assert not touched.exists()
    path.write_bytes(pickle.dumps(torch.zeros(5, 96, 64)))
    with pytest.raises(AVSInputError, match=r"clip\.pkl holds \(5, 96, 64\)"):
        load_log_mel_pickle(path)


def test_the_pickle_stands_in_for_a_missing_wav_only(tmp_path: Path):
    wav, pkl = tmp_path / "clip.wav", tmp_path / "clip.pkl"
    examples = torch.randn(5, 1, 96, 64)
    pkl.write_bytes(pickle.dumps(examples))
    assert torch.equal(VGGishLogMel().load(str(wav), str(pkl), 5), examples)
    write_wav(wav, 80000)
    assert torch.equal(VGGishLogMel().load(str(wav), str(pkl), 5), log_mel_examples(*load_audio(wav)))
    assert torch.allclose(VGGishLogMel().load(None, None, 5), torch.tensor(-4.605170))
