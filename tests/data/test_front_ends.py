"""Audio front-ends against the libraries whose models they are for, and what all of them have in common."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from detectron2.data import build_detection_test_loader

from transavs import AVSInputError
from transavs.data import AVSDatasetMapper
from transavs.data.audio import VGGishLogMel
from transavs.data.filter_banks import ClapLogMel, KaldiFilterBank
from transavs.data.front_ends import AudioFrontEnd, front_end_from_dict
from transavs.inference.backends import ClipFormat
from transavs.media.audio_stream import SoundAround

FRONT_ENDS = [VGGishLogMel(), KaldiFilterBank(), KaldiFilterBank(0.5, multiple=16), ClapLogMel(), ClapLogMel(4.5)]
OTHERS = FRONT_ENDS[1:]


def noise(front_end: AudioFrontEnd, seconds: float) -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.7, 0.7, round(seconds * front_end.sample_rate))


@pytest.mark.parametrize(("context", "multiple", "length"), [(0.0, 1, 98), (0.0, 16, 112), (4.62, 16, 1024)])
def test_asts_own_feature_extractor_gives_the_same(context: float, multiple: int, length: int):
    front_end = KaldiFilterBank(context, multiple)
    assert front_end.shape == (1, length, 128)
    sound = noise(front_end, 1 + 2 * context)
    extractor = transformers.ASTFeatureExtractor(max_length=length)
    expected = extractor(sound.astype(np.float32), sampling_rate=16000, return_tensors="pt")["input_values"]
    torch.testing.assert_close(front_end.example(torch.from_numpy(sound)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("context", [0.0, 1.25, 4.5])
def test_claps_own_feature_extractor_gives_the_same(context: float):
    front_end = ClapLogMel(context)
    sound = noise(front_end, 1 + 2 * context)
    extractor = transformers.ClapFeatureExtractor(truncation="rand_trunc", padding="pad")
    expected = extractor(sound, sampling_rate=48000, return_tensors="pt")["input_features"][0]
    example = front_end.example(torch.from_numpy(sound))
    assert example.shape == front_end.shape == expected.shape
    torch.testing.assert_close(example, expected.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("front_end", OTHERS, ids=repr)
def test_examples_are_of_whole_seconds_with_silence_around(front_end: AudioFrontEnd):
    rate, before = front_end.sample_rate, round(front_end.context * front_end.sample_rate)
    wave = noise(front_end, 2.6)
    quiet = np.zeros(before)
    padded = np.concatenate([quiet, wave, np.zeros(rate), quiet])
    examples = front_end.examples(np.stack([wave, wave]), rate)
    assert examples.shape == (3, *front_end.shape)
    assert examples.dtype == torch.float32
    for second, example in enumerate(examples):
        piece = padded[second * rate : (second + 1) * rate + 2 * before]
        torch.testing.assert_close(example, front_end.example(torch.from_numpy(piece)))
    assert len(front_end.examples(wave[: round(2.4 * rate)], rate)) == 2
    assert front_end.examples(wave[:10], rate).shape == (0, *front_end.shape)


@pytest.mark.parametrize("front_end", OTHERS, ids=repr)
def test_the_window_of_the_demo_sees_what_the_examples_of_a_clip_are_made_of(front_end: AudioFrontEnd):
    wave = noise(front_end, 3).astype(np.float32)
    around = SoundAround(np.array_split(wave[None], 7, axis=1), front_end.sample_rate, front_end.samples)
    expected = front_end.examples(wave, front_end.sample_rate)
    for second in range(3):
        found = front_end.example(torch.from_numpy(around(second + 0.5)))
        torch.testing.assert_close(found, expected[second])


@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=repr)
def test_silence_noise_and_short_audio(front_end: AudioFrontEnd, tmp_path: Path):
    silence = front_end.load(None, None, 3)
    assert silence.shape == (3, *front_end.shape)
    assert front_end.is_silent(silence)
    faint = front_end.examples(1e-3 * noise(front_end, 3), front_end.sample_rate)
    assert not front_end.is_silent(faint)
    loud = front_end.load(None, None, 3, noise_seed=4)
    assert torch.equal(loud, front_end.load(None, None, 3, noise_seed=4))
    assert not torch.equal(loud, front_end.load(None, None, 3, noise_seed=5))
    assert loud.shape == silence.shape
    soundfile.write(tmp_path / "a.wav", noise(front_end, 2.01), front_end.sample_rate)
    told: list[tuple[str, str]] = []
    short = front_end.load(str(tmp_path / "a.wav"), None, 4, repair=lambda *words: told.append(words))
    assert told == [("audio-short", f"{tmp_path / 'a.wav'} gives 2 examples for 4 seconds")]
    assert all(torch.equal(example, short[1]) for example in short[2:])


@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=repr)
def test_exported_files_tell_their_front_end(front_end: AudioFrontEnd):
    clip_format = ClipFormat(5, 32, "RGB", ("background", "dog"), False, front_end)
    assert ClipFormat.from_json(clip_format.to_json()) == clip_format


def test_files_of_before_there_were_front_ends_are_vggishs_and_strange_ones_are_refused():
    values = json.loads(ClipFormat(5, 32, "RGB", ("background", "dog"), False).to_json())
    del values["front_end"]
    assert ClipFormat.from_json(json.dumps(values)).front_end == VGGishLogMel()
    with pytest.raises(AVSInputError, match="front-end 'Ears' is not registered: import"):
        front_end_from_dict({"name": "Ears"})
    with pytest.raises(AVSInputError, match=r"CONTEXT is 1000: KaldiFilterBank takes 0 to 10\.0"):
        front_end_from_dict({"name": "KaldiFilterBank", "context": 1000})
    with pytest.raises(AVSInputError, match="multiples of 1000000000 frames"):
        front_end_from_dict({"name": "KaldiFilterBank", "multiple": 10**9})


def test_other_front_ends_do_not_take_vggishs_pickles(tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(b"no matter what")
    for front_end in OTHERS:
        with pytest.raises(AVSInputError, match=r"a\.wav does not exist: extract the audio"):
            front_end.load(str(tmp_path / "a.wav"), str(tmp_path / "a.pkl"), 2)


def test_front_ends_share_no_entry_of_the_clip_cache(tiny_cfg, ms3_records: list[dict], tmp_path: Path):
    tiny_cfg.DATALOADER.CLIP_CACHE = str(tmp_path)
    settings = [("SmallAudioNet", 0.0), ("AST", 0.0), ("AST", 0.5), ("AudioMAE", 0.0), ("CLAP", 0.0), ("VGGish", 0.0)]
    for entries, (name, context) in enumerate([*settings, *settings], start=1):
        tiny_cfg.MODEL.AUDIO_BACKBONE.NAME, tiny_cfg.MODEL.AUDIO_BACKBONE.CONTEXT = name, context
        mapper = AVSDatasetMapper(tiny_cfg, is_train=False)
        (clip,) = (c for batch in build_detection_test_loader(ms3_records[:1], mapper=mapper) for c in batch)
        expected = mapper.front_end.load(ms3_records[0]["audio_file"], None, 5)
        assert torch.equal(clip["log_mel"], expected)
        assert len(list(tmp_path.iterdir())) == min(entries, 5)  # VGGish and SmallAudioNet have the same
