"""Public functions on bad values: an AVSInputError of one line that names the value and the mend."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.bad_inputs import (
    Good,
    assert_raises,
)
from helpers.videos import RedWhenLoud, beeps

from transavs import AVSPredictor
from transavs.checkpoint.load import load_model
from transavs.config.load import load_config
from transavs.data.audio import log_mel_examples
from transavs.data.audio_conditions import NegativeAudio, apply_audio_condition
from transavs.data.avsbench import load_avsbench
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.data.synthetic.dataset import write_synthetic
from transavs.data.synthetic.video import write_synthetic_video
from transavs.demo.session import Limits
from transavs.evaluation.mask_folders import score_mask_folders
from transavs.evaluation.prediction_writer import PredictionWriter
from transavs.inference.backends import ClipFormat, load_backend
from transavs.media.audio_file import load_audio
from transavs.media.video_reader import Video
from transavs.media.video_writer import VideoWriter

FRAME, SOUND = np.zeros((8, 8, 3), np.uint8), beeps(1, 16000)
CLASSES = ("background", "sounding")
# What is called; what the line must hold of the thing, "{bad}" for the path that is given; what of the mend.
Row = tuple[Callable[[Path, Good], object], str, str]


def predict(
    frames: object = (FRAME,), waveform: object = SOUND, sample_rate: object = 16000, **rate: float
) -> Callable:
    return lambda bad, good: AVSPredictor(RedWhenLoud()).predict(frames, waveform, sample_rate, **rate)


def map_clip(**changes: object) -> Callable[[Path, Good], object]:
    def call(bad: Path, good: Good) -> object:
        cfg = load_config(good.config)
        return AVSDatasetMapper(cfg, is_train=False)(good.record() | {k: v(bad) for k, v in changes.items()})

    return call


VALUES: dict[str, Row] = {
    "frames: a list": (predict([[1, 2]]), "a frame is a list", "give NumPy arrays"),
    "frames: floats": (predict([FRAME / 255]), "a frame is float64", "give uint8"),
    "frames: gray": (predict([FRAME[..., 0]]), "a frame is uint8 (8, 8)", "give uint8"),
    "frames: four channels": (predict([np.zeros((8, 8, 4), np.uint8)]), "(8, 8, 4)", "give uint8"),
    "frames: no pixel": (predict([FRAME[:0]]), "(0, 8, 3)", "give uint8"),
    "waveform: NaN": (predict(waveform=np.full(99, np.nan)), "the waveform holds values", "give float"),
    "waveform: integers": (predict(waveform=np.ones(99, np.int16)), "the waveform is torch.int16", "give float"),
    "waveform: samples first": (predict(waveform=np.zeros((16000, 2))), "(16000, 2)", "(channels, n)"),
    "waveform: three dimensions": (predict(waveform=np.zeros((1, 2, 9))), "(1, 2, 9)", "(channels, n)"),
    "waveform: words": (predict(waveform="words"), "the waveform is no array", "give float"),
    "sample rate: 0": (predict(sample_rate=0), "sound at 0 Hz", "give rates above 0"),
    "sample rate: NaN": (predict(sample_rate=float("nan")), "sound at nan Hz", "give rates above 0"),
    "sample rate: a half": (predict(sample_rate=0.5), "the sample rate is 0.5", "give a whole number"),
    "sample rate: 4 GHz": (predict(sample_rate=4_000_000_000), "the sample rate is 4000000000", "give a whole number"),
    "sample rate: a prime": (predict(sample_rate=44101), "44101 Hz takes too much memory", "give it at 16000 Hz"),
    "rate of frames: 0": (predict(rate=0), "0 frames per second", "give rates above 0"),
    "predictor: batch": (
        lambda b, g: AVSPredictor(RedWhenLoud(), batch_size=0),
        "batch_size 0",
        "give at least 0 and 1",
    ),
    "predictor: rate": (
        lambda b, g: list(AVSPredictor(RedWhenLoud()).predict_video(g.video, float("inf"))),
        "masks is inf",
        "give a number",
    ),
    "log-mel: rate": (lambda b, g: log_mel_examples(SOUND, -1), "the sample rate is -1", "give a whole number"),
    "device": (lambda b, g: load_backend(g.weights, "abacus"), "the device 'abacus' cannot be used", "name another"),
    "model: no frames": (lambda b, g: ClipFormat(0, 32, "RGB", CLASSES, False), "a model of (0, 32)", "name another"),
    "model: a class": (lambda b, g: ClipFormat(1, 32, "RGB", ("a",), False), "a model of the classes", "name another"),
    "subset": (lambda b, g: load_avsbench(g.tree, "s5", "test"), "no subset 's5'", "choose from s4, ms3, avss"),
    "condition": (lambda b, g: apply_audio_condition([g.record()], "loud"), "holds 'loud'", "choose from"),
    "one clip to shuffle": (lambda b, g: apply_audio_condition([g.record()], "shuffled"), "'shuffled'", "two clips"),
    "negative audio": (lambda b, g: NegativeAudio([], ["loud"], 0.5), "['loud']", "choose from silence"),
    "negative audio: none": (lambda b, g: NegativeAudio([], [], 0.5), "INPUT.NEGATIVE_AUDIO is []", "choose from"),
    "setting": (lambda b, g: score_mask_folders(g.masks, g.masks, "s5", CLASSES), "no setting 's5'", "choose from"),
    "predictions": (lambda b, g: PredictionWriter(b, ["gif"], 2), "holds ['gif']", "choose from"),
    "clip without frame": (map_clip(file_names=lambda b: [str(b)]), "{bad} does not exist", "extract the frames"),
    "clip without mask": (map_clip(mask_file_names=lambda b: [str(b)]), "{bad} does not exist", "restore the mask"),
    "clip without sound": (map_clip(audio_file=str), "{bad} does not exist", "extract the audio"),
    "synthetic: size": (lambda b, g: write_synthetic(b, ["s4"], {"test": 1}, -3), "frames of -3 pixels", "give 16 to"),
    "synthetic video": (
        lambda b, g: write_synthetic_video(b, seconds=1, frame_rate=0, size=(64, 64)),
        "1 s at 0 frames",
        "give a frame",
    ),
    "writer: kind": (lambda b, g: VideoWriter(b, (8, 8), 5, [], sample_rate=16000, channels=1), "{bad}", ".mp4"),
    "limits": (lambda b, g: Limits(-1, 1), "the limits are -1 s", "give numbers above 0"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_bad_value_is_told_in_one_line(name: str, good: Good, tmp_path: Path):
    call, names, mend = VALUES[name]
    bad = tmp_path / "bad"
    assert_raises(lambda: call(bad, good), bad, names, mend)


def test_what_the_table_begins_with_is_good(good: Good, tmp_path: Path):
    """Else every row would prove little."""
    shutil.copytree(good.tree, tmp_path / "tree")
    assert len(load_avsbench(tmp_path / "tree", "ms3", "test")) == 3
    assert map_clip()(tmp_path, good)["images"].shape[0] == 5
    assert len(predict()(tmp_path, good)) == 1
    assert load_audio(good.record()["audio_file"])[1] == 16000
    assert score_mask_folders(good.masks, good.masks, "s4", CLASSES)["J"] > 99
    assert Video(good.video).channels == 1
    load_model(good.weights, "cpu")
