"""What is behind the page: limits, sounds, predictions that are kept and drawn again."""

import zipfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.loud_model import LoudModel
from helpers.web_inputs import LIMITS, SECONDS, level, write_video

from transavs.data.synthetic.video import write_synthetic_video
from transavs.demo.session import (
    ANOTHER,
    MEGABYTE,
    MUTED,
    NOISY,
    OWN,
    DemoSession,
    Drawing,
    KeptPredictions,
    Limits,
    MarkedFrame,
    heard_with,
)
from transavs.demo.summary import summary_of
from transavs.inference.backends import ClipFormat, PyTorchBackend
from transavs.inference.predictor import AVSPredictor
from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.audio_stream import Silence, SoundFile
from transavs.media.video_reader import Video
from transavs.utils.errors import AVSInputError


class CountingBackend(PyTorchBackend):
    calls = 0

    def __call__(self, images: torch.Tensor, log_mel: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().__call__(images, log_mel)


@pytest.fixture
def predictor(tiny_cfg) -> AVSPredictor:
    model = LoudModel(tiny_cfg)
    return AVSPredictor(CountingBackend(model, ClipFormat.from_config(tiny_cfg, ["background", "sounding"], model)))


def ignore(share: float, what: str) -> None:
    assert 0 <= share <= 1


def test_what_is_too_long_or_too_large_or_no_video_is_refused_by_its_name(tmp_path: Path, clip: Path):
    assert LIMITS.open(clip).name == "clip.mp4"
    with pytest.raises(AVSInputError, match=r"^long.mp4 is 8 s long, and 5 s are taken"):
        LIMITS.open(write_video(tmp_path / "long.mp4", seconds=8))
    (tmp_path / "large.mp4").write_bytes(bytes(2_000_001))
    with pytest.raises(AVSInputError, match="larger than the 2 MB"):
        LIMITS.open(tmp_path / "large.mp4")
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(AVSInputError, match=r"^picture.png is an image"):
        LIMITS.open(tmp_path / "picture.png")
    with pytest.raises(AVSInputError, match="numbers above 0"):
        Limits(seconds=0)


def test_a_video_that_hides_its_length_is_stopped_at_the_limit(tmp_path: Path, clip: Path, predictor: AVSPredictor):
    video = Video(clip)
    video.duration = 0.0
    limits = Limits(seconds=1)
    run = DemoSession(video, heard_with(video, MUTED, None, limits), tmp_path)
    with pytest.raises(AVSInputError, match="1 s are taken"):
        run.predict(predictor, 5, limits, ignore)


def test_silence_lasts_as_long_as_asked_for():
    blocks = list(Silence(2.5).sound(8000, "stereo"))
    assert all(block.shape[0] == 2 and not block.any() for block in blocks)
    assert sum(block.shape[1] for block in blocks) == 20000


def test_the_sound_of_audio_files_and_of_videos_is_read_and_cut(tmp_path: Path, clip: Path, noise: Path):
    for path in (noise, clip):
        sound = np.concatenate(list(SoundFile(path, seconds=2).sound(SAMPLE_RATE, "mono")), axis=1)
        assert sound.shape == (1, 2 * SAMPLE_RATE)
        assert np.abs(sound).max() > 0.05
    assert SoundFile(noise, seconds=2).channels == 2
    (tmp_path / "words.mp3").write_text("no sound")
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((8, 8, 3), np.uint8))
    for name in ("words.mp3", "picture.png", "missing.wav"):
        with pytest.raises(AVSInputError, match=f"^{name} .*name a"):
            SoundFile(tmp_path / name, seconds=2, name=name)
    with pytest.raises(AVSInputError, match="no other sound yet"):
        heard_with(Video(clip), ANOTHER, None, LIMITS)


def test_kept_predictions_are_what_was_predicted(tmp_path: Path, clip: Path, predictor: AVSPredictor):
    frames = [frame for found in predictor.predict_video(clip, 2) for frame in found.frames]
    with closing(KeptPredictions(tmp_path / "scores")) as kept:
        for frame in frames:
            kept.add(frame)
    assert len(kept) == len(frames) == 2 * SECONDS
    for _ in range(2):  # more than once
        for expected, found in zip(frames, kept, strict=True):
            assert (expected.index, expected.time, expected.size) == (found.index, found.time, found.size)
            torch.testing.assert_close(expected.probabilities, found.probabilities, atol=1e-3, rtol=0)


def test_a_run_is_drawn_again_without_the_network_and_plays_what_was_heard(
    tmp_path: Path, clip: Path, noise: Path, predictor: AVSPredictor
):
    marked, heard = {}, {}
    for choice in (OWN, MUTED, NOISY, ANOTHER):
        video = LIMITS.open(clip)
        run = DemoSession(video, heard_with(video, choice, noise, LIMITS), tmp_path)
        run.predict(predictor, 5, LIMITS, ignore)
        calls = predictor.backend.calls
        low, high = (np.mean([f.marked for f in run.draw(t, ignore).frames]) for t in (0.2, 0.7))
        assert low > high or choice == MUTED
        drawing = run.draw(0.4, ignore)
        assert predictor.backend.calls == calls
        marked[choice], heard[choice] = [f.marked for f in drawing.frames], level(drawing.overlay)
        assert abs(Video(drawing.overlay).duration - SECONDS) < 0.3  # the noise is longer
        assert drawing.coco.name == "clip_masks.json"
        assert run.is_silent == (choice == MUTED)
        assert ("heard silence" in summary_of(run, drawing)) == (choice == MUTED)
        assert ("<svg" in summary_of(run, drawing)) == (choice != MUTED)
        run.remove()
    assert not list(tmp_path.iterdir())
    assert max(marked[OWN]) > 0
    assert not any(marked[MUTED])
    assert max(marked[ANOTHER]) > 0
    assert max(marked[NOISY]) > 0
    assert heard[MUTED] < -80
    assert heard[NOISY] == pytest.approx(-20, abs=2)
    assert heard[OWN] == pytest.approx(level(clip), abs=2)
    assert heard[ANOTHER] == pytest.approx(level(noise), abs=2)


def test_masks_of_every_frame_come_as_pngs_that_tell_their_time(tmp_path: Path, clip: Path, predictor: AVSPredictor):
    video = LIMITS.open(clip)
    run = DemoSession(video, video, tmp_path)
    run.predict(predictor, 0, LIMITS, ignore)
    drawing = run.draw(0.4, ignore)
    times = [frame.time for frame in video.frames()]
    with zipfile.ZipFile(drawing.archive) as archive:
        assert archive.namelist() == [f"{index:06d}_{time:.3f}s.png" for index, time in enumerate(times)]
        for name, frame in zip(archive.namelist(), drawing.frames, strict=True):
            mask = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (video.height, video.width)
            assert set(np.unique(mask)) <= {0, 255}
            assert (mask > 0).mean() == pytest.approx(frame.marked)
    assert max(frame.marked for frame in drawing.frames) > 0


def test_more_masks_than_are_kept_are_refused_before_the_network_runs(
    tmp_path: Path, clip: Path, predictor: AVSPredictor
):
    video = LIMITS.open(clip)
    side = predictor.format.image_size
    size = SECONDS * 6 * 2 * 2 * side * side
    for kept, is_taken in ((size - 1, False), (size, True)):
        limits = Limits(kept_megabytes=kept / MEGABYTE)
        run = DemoSession(video, video, tmp_path)
        if is_taken:
            run.predict(predictor, 0, limits, ignore)
            continue
        with pytest.raises(AVSInputError, match=r"^the masks of clip.mp4 would take more than .*: choose fewer"):
            run.predict(predictor, 0, limits, ignore)
        assert not predictor.backend.calls
        video.duration = 1.0  # it announces less than it has
        with pytest.raises(AVSInputError, match="choose fewer"):
            run.predict(predictor, 0, limits, ignore)
        video.duration = SECONDS


def test_work_that_is_broken_off_leaves_no_half_written_files(tmp_path: Path, clip: Path, predictor: AVSPredictor):
    class Enough(Exception):
        pass

    def stop(share: float, what: str) -> None:
        raise Enough

    video = LIMITS.open(clip)
    run = DemoSession(video, video, tmp_path)
    run.predict(predictor, 5, LIMITS, ignore)
    with pytest.raises(Enough):
        run.draw(0.5, stop)
    assert [path.name for path in tmp_path.glob("*/*")] == ["probabilities"]


def test_large_frames_are_drawn_smaller(tmp_path: Path, predictor: AVSPredictor, monkeypatch: pytest.MonkeyPatch):
    write_synthetic_video(tmp_path / "tall.mp4", seconds=1, frame_rate=3, size=(90, 60))
    monkeypatch.setattr("transavs.demo.session.DRAWN_SIDE", 45)
    video = LIMITS.open(tmp_path / "tall.mp4")
    run = DemoSession(video, video, tmp_path)
    run.predict(predictor, 5, LIMITS, ignore)
    drawn = Video(run.draw(0.5, ignore).overlay)
    assert (drawn.height, drawn.width) == (46 + 24, 30)  # sides are even, and the strip is 24 pixels high


def test_the_summary_names_classes_where_there_are_several():
    frames = [MarkedFrame(0.5, 0.2, ["dog", "<i>"]), MarkedFrame(1.5, 0.1, ["dog"]), MarkedFrame(2.5, 0.0, [])]
    run = SimpleNamespace(
        is_silent=False, class_names=("background", "dog", "<i>"), seconds=1, video=SimpleNamespace(duration=3)
    )
    text = summary_of(run, Drawing(Path("a.mp4"), Path("a.json"), Path("a.zip"), frames))
    assert "marked in 2 of 3 masks, on 15.0 % of the frame: dog in 2, &lt;i&gt; in 1." in text
    assert text.count("<rect") == 3
