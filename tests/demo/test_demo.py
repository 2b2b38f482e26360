"""tools/demo.py: overlays, masks and COCO files of videos."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from helpers.videos import RedWhenLoud, make_video
from pycocotools.coco import COCO

from transavs import AVSInputError
from transavs.data.synthetic.video import write_synthetic_video
from transavs.demo import outputs
from transavs.demo.loudness import LoudnessStrip, loudness_levels, loudness_per_second
from transavs.demo.process_videos import Targets, find_videos, segment_video, segment_videos
from transavs.inference.predictor import AVSPredictor
from transavs.media.video_reader import Video
from transavs.media.video_writer import VideoWriter
from transavs.modeling.meta_arch import AVSModel


@pytest.mark.parametrize("rate", [0, 2])
def test_overlay_masks_and_coco_file_agree(rate: float, tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", seconds=3, frame_rate=10, size=(64, 96))
    targets = Targets(tmp_path / "o.mp4", tmp_path / "masks", tmp_path / "a.json")
    segment_video(AVSPredictor(RedWhenLoud()), path, targets, rate=rate)

    found = json.loads((tmp_path / "a.json").read_text())
    images = {image["id"]: image for image in found["images"]}
    assert len(images) == (30 if rate == 0 else 6)
    assert found["categories"] == [{"id": 1, "name": "sounding"}]
    assert [level < -60 for level in found["info"]["loudness_db"][:3]] == [False, True, False]
    assert found["annotations"]
    coco = COCO(str(tmp_path / "a.json"))
    for annotation in coco.loadAnns(coco.getAnnIds()):
        name = coco.imgs[annotation["image_id"]]["file_name"]
        assert name == f"{annotation['image_id']:06d}.png"
        mask = cv2.imread(str(tmp_path / "masks" / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(coco.annToMask(annotation) * 255, mask)
        assert annotation["area"] == (mask > 0).sum()
        assert annotation["score"] == pytest.approx(1, abs=0.3)
    silent = set(images) - {annotation["image_id"] for annotation in found["annotations"]}
    assert {int(images[number]["time"]) for number in silent if 0.2 < images[number]["time"] % 1 < 0.8} == {1}
    assert len(list((tmp_path / "masks").iterdir())) == len(images)

    overlay = Video(tmp_path / "o.mp4")
    assert (overlay.width, overlay.height) == (96, 64 + 24)
    frames = list(overlay.frames())
    assert [round(frame.time, 3) for frame in frames] == [round(number / 10, 3) for number in range(30)]
    corner = [frame.pixels()[8:24, 12:36].mean((0, 1)) for frame in frames]
    # What is not marked is dimmed.
    assert corner[5][0] > 200 > 180 > corner[15][0] > 100
    assert len(np.concatenate(list(overlay.sound(16000)), 1)[0]) == pytest.approx(3 * 16000, abs=1100)


def test_frames_that_take_too_much_memory_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = make_video(tmp_path / "a.mp4", seconds=3, frame_rate=10, size=(64, 96))
    frame = next(Video(path).frames()).num_bytes
    assert frame >= 64 * 96 * 3 / 2  # as decoded, two bytes for each pixel's color are shared by four
    written: list[tuple[bytes, float]] = []  # what the encoder makes of equal pictures is not equal to the bit
    monkeypatch.setattr(VideoWriter, "write", lambda _, pixels, time: written.append((pixels.tobytes(), time)))
    for name, limit in (("held", 30 * frame), ("read", 3 * frame), ("every", 0)):
        monkeypatch.setattr(outputs, "HELD_BYTES", limit)
        segment_video(AVSPredictor(RedWhenLoud()), path, Targets(tmp_path / f"{name}.mp4"), rate=2)
    assert len(written) == 3 * 30
    assert written[:30] == written[30:60] == written[60:]


def test_what_the_encoder_refuses_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(writer: VideoWriter, pixels: np.ndarray, time: float) -> None:
        raise OSError("no space left")

    path = make_video(tmp_path / "a.mp4", seconds=3, frame_rate=10, size=(64, 96))
    monkeypatch.setattr(VideoWriter, "write", refuse)
    with pytest.raises(OSError, match="no space left"):
        segment_video(AVSPredictor(RedWhenLoud()), path, Targets(tmp_path / "o.mp4"), rate=2)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_the_strip_moves_and_shows_what_is_loud(tmp_path: Path):
    video = Video(make_video(tmp_path / "a.mp4", seconds=4))
    levels = loudness_levels(video)
    assert len(levels) == pytest.approx(80, abs=2)
    assert [level > -30 for level in loudness_per_second(levels)[:4]] == [True, False, True, False]
    strip = LoudnessStrip(levels, 4.0, (20, 100))
    start, end = strip.at(0.0), strip.at(4.0)
    loud, silent = start[:, 10], start[:, 37]
    assert (loud != loud[0]).any(-1).sum() > 10 > (silent != silent[0]).any(-1).sum()
    assert not np.array_equal(start, end)


def test_one_video(run_here, weights: Path, tmp_path: Path):
    video = make_video(tmp_path / "a.mp4", seconds=2)
    done = run_here("tools/demo.py", "--input", video, "--output", tmp_path / "o.mp4", "--weights", weights)
    assert done.returncode == 0, done.stderr
    assert "x real time" in done.stdout
    assert "100%" in done.stderr
    assert Video(tmp_path / "o.mp4").duration == pytest.approx(2, abs=0.1)


def test_the_network_runs_in_the_given_precision(
    run_here, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    forward_tensors, seen = AVSModel.forward_tensors, []

    def watched(self: AVSModel, *clips: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward_tensors(self, *clips)

    monkeypatch.setattr(AVSModel, "forward_tensors", watched)
    video = make_video(tmp_path / "a.mp4", seconds=1)
    for name in ("float32", "bfloat16"):
        given = ("--input", video, "--masks", tmp_path / name, "--weights", weights, "--device", "cpu")
        assert run_here("tools/demo.py", *given, "--precision", name).returncode == 0
    assert set(seen[: len(seen) // 2]) == {False}
    assert set(seen[len(seen) // 2 :]) == {True}


def test_a_folder_goes_on_past_a_bad_video_and_leaves_out_what_is_done(run_here, weights: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    make_video(folder / "a.mp4", seconds=1)
    (folder / "b.mp4").write_bytes(b"")
    make_video(folder / "c.mkv", seconds=1)
    (folder / "notes.txt").write_text("no video")
    command = ("tools/demo.py", "--input", folder, "--json", tmp_path / "out", "--weights", weights)
    done = run_here(*command)
    assert done.returncode == 2
    assert "2 of 3 videos done" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "c.json"]
    before = (tmp_path / "out/a.json").stat().st_mtime_ns
    run_here(*command)
    assert (tmp_path / "out/a.json").stat().st_mtime_ns == before


def test_masks_that_were_left_unfinished_are_made_again(tmp_path: Path):
    video, targets = make_video(tmp_path / "a.mp4", seconds=2), Targets(masks=tmp_path / "masks")

    class Stopped(RedWhenLoud):
        def __call__(self, *clips):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_videos(AVSPredictor(Stopped()), [video], [targets], rate=1)
    assert targets.masks.is_dir()
    assert segment_videos(AVSPredictor(RedWhenLoud()), [video], [targets], rate=1) == 0
    assert [path.suffix for path in targets.masks.iterdir()] == [".png", ".png"]
    before = [path.stat().st_mtime_ns for path in targets.masks.iterdir()]
    assert segment_videos(AVSPredictor(Stopped()), [video], [targets], rate=1) == 0
    assert [path.stat().st_mtime_ns for path in targets.masks.iterdir()] == before


def test_videos_of_one_name_are_told_apart_by_the_user(tmp_path: Path):
    for name in ("a.mp4", "a.mkv", "b.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(AVSInputError, match=r"a\.mkv and .*a\.mp4 would have results of the same name: rename one"):
        find_videos([str(tmp_path)])
    given = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    assert find_videos(given) == given


def test_a_silent_video_is_said_to_be_silent(run_here, weights: Path, tmp_path: Path):
    video = make_video(tmp_path / "a.mp4", seconds=1, wave=np.zeros(16000, dtype=np.float32))
    done = run_here("tools/demo.py", "--input", video, "--masks", tmp_path / "m", "--weights", weights, "--fps", 1)
    assert done.returncode == 0
    assert "is silent" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "missing.mp4"], "missing.mp4 does not exist"),
        (["--input", "{tmp}"], "holds no video"),
        (["--input", "{video}", "--output", "{tmp}/o.gif"], "o.gif is no kind of video"),
        (["--input", "{video}", "--json", "{video}/a.json"], "a.json cannot be written"),
        (["--input", "{video}", "--threshold", "2"], "--threshold is 2.0"),
        (["--input", "{video}", "--weights", "{video}"], "cannot be read as a checkpoint"),
        (["--input", "{video}", "--device", "cpu", "--precision", "float16"], "float16 needs a GPU"),
        (["--input", "{video}", "--weights", "missing.pth"], "missing.pth does not exist"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments: list[str], message: str, run_here, weights: Path, tmp_path: Path):
    video = make_video(tmp_path / "v.mp4", seconds=1)
    given = [text.format(video=video, tmp=tmp_path / "none") for text in arguments]
    (tmp_path / "none").mkdir()
    if "--weights" not in given:
        given += ["--weights", str(weights)]
    done = run_here("tools/demo.py", *given)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not list((tmp_path / "none").iterdir())


def test_a_generated_video_holds_what_it_says(tmp_path: Path):
    shots = write_synthetic_video(tmp_path / "a.mp4", seconds=7, frame_rate=4, size=(60, 80), seed=1)
    video = Video(tmp_path / "a.mp4")
    assert (video.height, video.width, len(list(video.frames())), len(shots)) == (60, 80, 28, 2)
    heard = loudness_per_second(loudness_levels(video))
    for second in range(7):
        is_heard = shots[second // 5].sounding[:, second % 5].any()
        assert (heard[second] > -40) == is_heard
    assert torch.tensor(shots[0].truth(0.0, (60, 80))).any() == shots[0].sounding[:, 0].any()


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_a_part_is_what_the_whole_has_there(name: str, tmp_path: Path):
    path = make_video(tmp_path / name, seconds=6)
    predictor = AVSPredictor(RedWhenLoud())
    whole, part = (
        [frame for clip in predictor.predict_video(video, 5) for frame in clip.frames]
        for video in (Video(path), Video(path, start=2.0, end=5.0))
    )
    expected = [frame for frame in whole if 2 <= frame.time < 5]
    assert [frame.time + 2 for frame in part] == pytest.approx([frame.time for frame in expected], abs=0.002)
    for found, wanted in zip(part, expected, strict=True):
        if 2.6 < wanted.time < 4.4:  # a part has no sound before and after it
            np.testing.assert_array_equal(found.mask(), wanted.mask())
            assert found.loudness == pytest.approx(wanted.loudness, abs=0.2)


def test_another_sound_is_heard_and_played(run_here, weights: Path, tmp_path: Path):
    video = make_video(tmp_path / "a.mp4", seconds=2, sound=False)
    tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(2 * 22050) / 22050)
    soundfile.write(tmp_path / "tone.flac", tone, 22050)
    for audio, level in {"mute": -100, "noise": -20, tmp_path / "tone.flac": -15}.items():
        given = ("--input", video, "--weights", weights, "--audio", audio, "--fps", 1, "--start", 0.5)
        done = run_here("tools/demo.py", *given, "--json", tmp_path / "a.json", "--output", tmp_path / "o.mp4")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "a.json").read_text())
        assert found["info"]["loudness_db"][0] == pytest.approx(level, abs=0.5)
        assert loudness_levels(Video(tmp_path / "o.mp4"))[10] == pytest.approx(level, abs=2)
    done = run_here("tools/demo.py", "--input", video, "--weights", weights, "--audio", "mute", "--start", 7)
    assert done.returncode == 2
    assert "has no frame after 7.0 s" in done.stderr
