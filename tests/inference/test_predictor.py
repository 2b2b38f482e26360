"""AVSPredictor: windows, blending, smoothing, and the same answers as the model and the evaluator give."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from helpers.videos import RedWhenLoud, beeps, make_video, red_corner
from torch import Tensor

import transavs
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.load import load_model
from transavs.config.load import load_config
from transavs.data.audio import log_mel_examples
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.inference.backends import ClipFormat, InferenceBackend
from transavs.inference.prediction import FramePrediction
from transavs.inference.predictor import AVSPredictor, loudness
from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.images import read_frame
from transavs.utils.errors import AVSInputError


class PlaceInWindow(InferenceBackend):
    """Scores that tell which place of its window a frame had, and of which second it was (its red value)."""

    def __init__(self, num_frames: int):
        self.format = ClipFormat(num_frames, 4, "RGB", ("background", "sounding"), uses_temporal_context=True)
        self.windows: list[list[int]] = []

    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        self.windows += images[:, :, 0, 0, 0].int().tolist()
        place = torch.arange(self.format.num_frames) / 10
        sounding = place.view(1, -1, 1, 1).expand(len(images), -1, 4, 4)
        return torch.stack([1 - sounding, sounding], 2)


def numbered_frames(count: int) -> list[np.ndarray]:
    return [np.full((6, 8, 3), number, dtype=np.uint8) for number in range(count)]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLE_RATE), dtype=np.float32)


@pytest.fixture
def checkpoint(tiny_cfg, tmp_path: Path) -> Path:
    model = build_model(tiny_cfg)
    AVSCheckpointer(model, str(tmp_path), tiny_cfg).save("tiny")
    return tmp_path / "tiny.pth"


def test_windows_overlap_and_the_last_one_reaches_back():
    backend = PlaceInWindow(4)
    AVSPredictor(backend, overlap=1).predict(numbered_frames(9), silence(9), SAMPLE_RATE)
    assert backend.windows == [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]


def test_a_short_video_repeats_its_last_second():
    backend = PlaceInWindow(4)
    AVSPredictor(backend).predict(numbered_frames(2), silence(2), SAMPLE_RATE)
    assert backend.windows == [[0, 1, 1, 1]]


def test_overlapping_windows_are_blended_by_their_distance_to_the_border():
    found = AVSPredictor(PlaceInWindow(4), overlap=2).predict(numbered_frames(6), silence(6), SAMPLE_RATE)
    # Frame 2 is third in [0 1 2 3], with weight 2, and first in [2 3 4 5], with weight 1; frame 3 the other way round.
    expected = [0.0, 0.1, (2 * 0.2 + 1 * 0.0) / 3, (1 * 0.3 + 2 * 0.1) / 3, 0.2, 0.3]
    assert [float(frame.probabilities[1, 0, 0]) for frame in found] == pytest.approx(expected)


def test_several_frames_a_second_are_seen_by_clips_of_one_frame_a_second():
    backend = PlaceInWindow(3)
    found = AVSPredictor(backend, overlap=0).predict(numbered_frames(7), silence(4), SAMPLE_RATE, rate=2)
    # The second 3 holds one frame only, which stands for two.
    assert backend.windows == [[0, 2, 4], [1, 3, 5], [2, 4, 6], [3, 5, 6]]
    assert [frame.index for frame in found] == list(range(7))
    assert [frame.time for frame in found] == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]


def test_smoothing_is_an_exponential_average_over_time():
    plain = AVSPredictor(PlaceInWindow(3), overlap=0).predict(numbered_frames(3), silence(3), SAMPLE_RATE)
    smooth = AVSPredictor(PlaceInWindow(3), overlap=0, smoothing=2.0).predict(
        numbered_frames(3), silence(3), SAMPLE_RATE
    )
    expected, keep = 0.0, np.exp(-1 / 2.0)
    for before, after in zip(plain, smooth, strict=True):
        expected = keep * expected + (1 - keep) * float(before.probabilities[1, 0, 0])
        assert float(after.probabilities[1, 0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_the_batch_size_changes_nothing(batch_size: int, tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", seconds=7)
    found = [
        frame.probabilities
        for clip in AVSPredictor(RedWhenLoud(), batch_size=batch_size).predict_video(path, 6)
        for frame in clip.frames
    ]
    expected = [
        frame.probabilities for clip in AVSPredictor(RedWhenLoud()).predict_video(path, 6) for frame in clip.frames
    ]
    assert len(found) == 42
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_memory_does_not_grow_with_the_video(tmp_path: Path):
    def peak(seconds: int) -> int:
        path = make_video(tmp_path / f"{seconds}.mp4", seconds=seconds, size=(128, 256), frame_rate=5)
        tracemalloc.start()
        for clip in AVSPredictor(RedWhenLoud()).predict_video(path, 5):
            for frame in clip.frames:
                frame.mask()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)  # what is set up once
    assert peak(60) < 1.2 * peak(15)


def test_predict_equals_the_model_on_the_mapper_s_clip(
    checkpoint: Path, tiny_cfg, tiny_catalog: None, ms3_records: list[dict]
):
    """The same frames and sound, cut into the same seconds, by the way that the evaluator takes."""
    record = ms3_records[0]
    clip = AVSDatasetMapper(tiny_cfg, is_train=False)(record)
    waveform = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 5 * SAMPLE_RATE)).astype(np.float32)
    seconds = waveform.reshape(2, 5, SAMPLE_RATE).swapaxes(0, 1)
    clip["log_mel"] = torch.cat([log_mel_examples(second, SAMPLE_RATE) for second in seconds])
    model, _, _ = load_model(checkpoint, "cpu")
    with torch.no_grad():
        expected = model([clip])[0]["sem_seg"]

    frames = [read_frame(path, "RGB") for path in record["file_names"]]
    found = AVSPredictor.from_checkpoint(checkpoint, device="cpu").predict(frames, waveform, SAMPLE_RATE)
    for frame, scores in zip(found, expected, strict=True):
        np.testing.assert_allclose(frame.foreground(), scores[1].numpy(), atol=1e-5)
        np.testing.assert_array_equal(frame.mask(), scores.argmax(0).numpy())


def test_the_order_of_channels_is_the_models(monkeypatch: pytest.MonkeyPatch):
    backend = RedWhenLoud()
    backend.format = ClipFormat(3, 32, "BGR", backend.format.class_names, False)
    AVSPredictor(backend).predict([red_corner(32, 32)], silence(1), SAMPLE_RATE)
    assert backend.batches[0][0, 0, :, 0, 0].tolist() == [0, 0, 255]


def test_thresholds_and_objects():
    scores = torch.zeros(3, 1, 4)
    scores[:, 0] = torch.tensor([[0.9, 0.45, 0.4, 0.1], [0.06, 0.3, 0.5, 0.2], [0.04, 0.25, 0.1, 0.7]])
    frame = FramePrediction(0, 0.0, -20.0, (1, 4), ("background", "cat", "dog"), scores)
    assert frame.mask().tolist() == [[0, 0, 1, 2]]  # the best class; 0.3 is less than the background's 0.45
    assert frame.mask(0.5).tolist() == [[0, 1, 1, 2]]  # cat and dog together exceed it
    assert frame.mask(0.95).tolist() == [[0, 0, 0, 0]]
    cat, dog = frame.objects(0.5)
    assert (cat.name, cat.category_id, cat.score) == ("cat", 1, pytest.approx(0.4))
    assert (dog.name, dog.mask.tolist()) == ("dog", [[False, False, False, True]])


def test_loudness():
    assert loudness(np.zeros(10)) == -100
    assert loudness(np.ones(10)) == 0
    assert loudness(beeps(1, 16000)) == pytest.approx(10 * np.log10(0.125), abs=0.01)  # amplitude 0.5


def test_a_checkpoint_carries_what_it_takes_to_use_it(tiny_cfg, tmp_path: Path):
    tiny_cfg.DATASETS.TRAIN = ("of_no_names",)
    AVSCheckpointer(build_model(tiny_cfg), str(tmp_path), tiny_cfg).save("tiny")
    checkpoint = tmp_path / "tiny.pth"
    predictor = AVSPredictor.from_checkpoint(checkpoint)
    assert predictor.format == ClipFormat(
        tiny_cfg.INPUT.NUM_FRAMES, tiny_cfg.INPUT.IMAGE_SIZE, "RGB", ("background", "class 1"), False
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.pop("config"), "carries no config"),
        (lambda saved: saved.update(config="MODEL: {NO_SUCH_KEY: 1}"), "NO_SUCH_KEY"),
        (lambda saved: saved.update(model={"other": torch.zeros(1)}), "holds no parameter of this model"),
        (
            lambda saved: saved.update(config=saved["config"].replace("VGGish", "x").replace("SmallAudioNet", "NoNet")),
            "NoNet",
        ),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_line(change, message: str, checkpoint: Path):
    saved = torch.load(checkpoint)
    change(saved)
    torch.save(saved, checkpoint)
    with pytest.raises(AVSInputError, match=message) as caught:
        AVSPredictor.from_checkpoint(checkpoint)
    assert str(checkpoint) in str(caught.value)


class _Hostile:
    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)

    def __init__(self, path: Path):
        self.path = path


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path):
    torch.save({"model": _Hostile(tmp_path / "owned")}, tmp_path / "a.pth")
    with pytest.raises(AVSInputError, match="cannot be read as a checkpoint"):
        AVSPredictor.from_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "owned").exists()


def test_a_config_file_serves_weights_that_carry_none(checkpoint: Path, tiny_cfg, tmp_path: Path):
    torch.save(torch.load(checkpoint)["model"], tmp_path / "bare.pth")
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg.dump())
    assert load_config(config).INPUT.IMAGE_SIZE == tiny_cfg.INPUT.IMAGE_SIZE
    frames = [red_corner(20, 30)] * 5
    bare, whole = (
        AVSPredictor.from_checkpoint(path, **options).predict(frames, silence(5), SAMPLE_RATE)
        for path, options in ((tmp_path / "bare.pth", {"config_file": config}), (checkpoint, {}))
    )
    assert torch.equal(bare[4].probabilities, whole[4].probabilities)


def test_bad_arrays_and_numbers(tmp_path: Path):
    predictor = AVSPredictor(RedWhenLoud())
    with pytest.raises(AVSInputError, match="a frame is float64"):
        predictor.predict([np.zeros((4, 4, 3))], silence(1), SAMPLE_RATE)
    with pytest.raises(AVSInputError, match="at 0 Hz"):
        predictor.predict(numbered_frames(1), silence(1), 0)
    with pytest.raises(AVSInputError, match="rate of masks is -1"):
        next(predictor.predict_video(make_video(tmp_path / "a.mp4"), -1))
    with pytest.raises(AVSInputError, match="overlap is 3: give 0 to 2"):
        AVSPredictor(RedWhenLoud(), overlap=3)


def test_it_is_part_of_the_package():
    assert transavs.AVSPredictor is AVSPredictor
