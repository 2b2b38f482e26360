"""tools/demo.py on what is live, and on folders of images."""

import json
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.repository import REPOSITORY
from helpers.senders import blinking_video, into_a_file, over_tcp
from helpers.videos import RedWhenLoud, beeps

from transavs.demo.loudness import LEVELS_PER_SECOND, RunningStrip, loudness_levels
from transavs.demo.process_videos import Targets, segment_video
from transavs.inference.predictor import AVSPredictor
from transavs.media.image_folder import ImageFolder
from transavs.media.video_reader import Video


def changes(values: np.ndarray, times: np.ndarray) -> list[float]:
    """The times at which the values cross the middle between the lowest and the highest."""
    is_high = values > (values.min() + values.max()) / 2
    return [float(time) for time in times[1:][is_high[1:] != is_high[:-1]]]


def test_ten_seconds_at_five_masks_a_second_without_drift(weights: Path, tmp_path: Path):
    source = blinking_video(tmp_path / "a.mp4", seconds=11)
    targets = Targets(tmp_path / "o.mp4", tmp_path / "masks", tmp_path / "a.json")
    with over_tcp(source) as name:
        told = segment_video(AVSPredictor.from_checkpoint(weights), name, targets, rate=5)
    assert " 0 frames came too late" in told
    assert ", 0 frames are lost" in told

    times = np.array([image["time"] for image in json.loads((tmp_path / "a.json").read_text())["images"]])
    assert len(times) == len(list((tmp_path / "masks").iterdir())) == 55
    assert np.diff(times) == pytest.approx([0.2] * 54, abs=0.09)

    overlay = Video(tmp_path / "o.mp4")
    frames = [(frame.pixels()[40:60].mean(), frame.time) for frame in overlay.frames()]
    assert len(frames) == 275
    levels = loudness_levels(overlay)
    seen = changes(*np.array(frames).T)
    heard = changes(np.maximum(levels, -60), np.arange(len(levels)) / LEVELS_PER_SECOND)
    assert seen == pytest.approx(np.arange(1, 11), abs=0.1)  # at every second of the source
    # The encoder of the sound begins softly.
    assert [time for time in heard if time > 0.5] == pytest.approx(seen, abs=0.2)


def test_masks_follow_the_sound_of_a_growing_file_which_can_be_watched(tmp_path: Path):
    source = blinking_video(tmp_path / "a.mp4", seconds=5)
    watched = []

    class Watching(RedWhenLoud):
        takes_any_length = True

        def __init__(self) -> None:
            super().__init__(num_frames=1)

        def __call__(self, *clips):
            if len(self.batches) % 5 == 4:
                opened = subprocess.run(
                    [sys.executable, "-c", COUNT_FRAMES, tmp_path / "o.mp4"], capture_output=True, text=True
                )
                watched.append(int(opened.stdout or 0))
            return super().__call__(*clips)

    with into_a_file(source) as name:
        targets = Targets(tmp_path / "o.mp4", coco=tmp_path / "a.json")
        segment_video(AVSPredictor(Watching()), name, targets, rate=5, patience=1.0)
    assert watched == sorted(watched)
    assert watched[-1] > 25
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["info"]["duration"] == pytest.approx(5, abs=0.1)
    times = {image["id"]: image["time"] for image in found["images"]}
    assert len(times) == 25
    marked = {times[annotation["image_id"]] for annotation in found["annotations"]}
    inner = [time for time in times.values() if 0.15 < time % 1 < 0.85]
    assert {time for time in inner if int(time) % 2 == 0} <= marked
    assert not {time for time in inner if int(time) % 2} & marked


COUNT_FRAMES = """
import sys, av
with av.open(sys.argv[1]) as container:
    print(sum(1 for _ in container.decode(video=0)))
"""


def test_an_interrupt_ends_a_live_video_whole(weights: Path, tmp_path: Path):
    source = blinking_video(tmp_path / "a.mp4", seconds=60)
    outputs = ["--output", tmp_path / "o.mp4", "--json", tmp_path / "a.json", "--masks", tmp_path / "masks"]
    with over_tcp(source) as name:
        command = [sys.executable, "tools/demo.py", "--input", name, "--weights", weights, *outputs]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("masks/*.png"))) < 10 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        told, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "masks, at most" in told
    masks = len(json.loads((tmp_path / "a.json").read_text())["images"])
    assert 10 <= masks == len(list(tmp_path.glob("masks/*.png"))) < 200
    assert not (tmp_path / "masks/.unfinished").exists()
    overlay = Video(tmp_path / "o.mp4")
    seconds = [frame.time for frame in overlay.frames()][-1]
    assert seconds == pytest.approx(masks / 5, abs=0.5)
    assert len(loudness_levels(overlay)) / LEVELS_PER_SECOND == pytest.approx(seconds, abs=0.3)


def test_the_running_strip_moves_to_the_left():
    strip = RunningStrip((20, 100))
    for number in range(60):
        strip.hear(number / 5, 0.0 if 20 <= number < 30 else -100.0)  # loud from 4 to 6 s
    before, after = (np.asarray(strip.at(time)).astype(int) for time in (8.0, 10.0))
    loud = [np.flatnonzero((band[2] != band[0]).any(-1)) for band in (before, after)]
    assert loud[0].mean() == pytest.approx(70, abs=2)  # 5 s of 10 that end at 8 s
    assert loud[1].mean() == pytest.approx(50, abs=2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images, of which the second and the fourth are red, and four seconds of sound, loud at the odd ones."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(4):
        image = np.full((30, 40, 3), (0, 0, 255) if number % 2 else (255, 0, 0), dtype=np.uint8)
        cv2.imwrite(str(folder / f"frame{8 + number}.png"), image)  # 8, 9, 10, 11: by value, not by letter
    with wave.open(str(folder / "clip.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((32767 * np.roll(beeps(4, 16000), 16000)).astype(np.int16).tobytes())
    return folder


def test_a_folder_of_images_with_a_sound(images: Path, run_here, weights: Path, tmp_path: Path):
    found = [
        (frame.time, bool(frame.mask().any()))
        for clip in AVSPredictor(RedWhenLoud()).predict_video(ImageFolder(images), 1)
        for frame in clip.frames
    ]
    # Each is heard with the second in which it is shown.
    assert found == [(0, False), (1, True), (2, False), (3, True)]

    done = run_here("tools/demo.py", "--input", images, "--output", tmp_path / "o.mp4", "--weights", weights)
    assert done.returncode == 0, done.stderr
    overlay = Video(tmp_path / "o.mp4")
    reds = [frame.pixels()[:20, :, 0].mean() > 90 for frame in overlay.frames()]
    assert reds == [False, True, False, True]


@pytest.mark.parametrize(
    ("removed", "options", "message"),
    [
        ("*.wav", [], "holds images and 0 sound files"),
        ("*.wav", ["--audio", "mute"], "give --input-fps"),
        ("*.wav", ["--audio", "mute", "--input-fps", "0"], "0.0 images per second"),
        ("*.png", [], "holds no video"),
        ("none", ["--start", "1"], "no part can be taken"),
    ],
)
def test_what_a_folder_of_images_needs(
    removed: str, options: list[str], message: str, images: Path, run_here, weights: Path, tmp_path: Path
):
    for file in images.glob(removed):
        file.unlink()
    done = run_here("tools/demo.py", "--input", images, "--json", tmp_path / "a.json", "--weights", weights, *options)
    assert done.returncode == 2
    assert message in done.stderr
