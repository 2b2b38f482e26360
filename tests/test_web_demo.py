"""The page: what is behind it, and the page itself in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch
from conftest import REPOSITORY, TINY_MODEL
from loud_model import LoudModel
from videos import make_video

from transavs.clip_scorer import ClipFormat, ModelScorer
from transavs.config import load_config
from transavs.data.audio import SAMPLE_RATE
from transavs.data.sound import Silence, SoundFile
from transavs.data.synthetic_video import write_synthetic_video
from transavs.data.video import Video
from transavs.demo.loudness import loudness_levels
from transavs.demo.session import ANOTHER, MUTED, OWN, KeptPredictions, Limits, Run, heard_with
from transavs.demo.summary import summary_of
from transavs.errors import AVSInputError
from transavs.predictor import AVSPredictor

SIDE = 96
SECONDS = 3
LIMITS = Limits(seconds=5, megabytes=2)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Registers the model, and tells of every connection that the process asks for.
SERVER = """
import runpy, sys, loud_model
def tell(event, about):
    if event in ("socket.connect", "socket.getaddrinfo"):
        sys.stderr.write(f"connects to {{about}}\\n")
sys.addaudithook(tell)
runpy.run_path('{tool}', run_name="__main__")
"""


def write_video(path: Path, seconds: float = SECONDS) -> Path:
    write_synthetic_video(path, seconds=seconds, frame_rate=6, size=(SIDE, SIDE), seed=4)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of stereo noise."""
    path = tmp_path_factory.mktemp("sounds") / "noise.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (441000, 2)), 44100)
    return path


class CountingScorer(ModelScorer):
    calls = 0

    def __call__(self, images: torch.Tensor, log_mel: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().__call__(images, log_mel)


@pytest.fixture
def predictor(tiny_cfg) -> AVSPredictor:
    model = LoudModel(tiny_cfg)
    return AVSPredictor(CountingScorer(model, ClipFormat.from_config(tiny_cfg, ["background", "sounding"], model)))


def ignore(share: float, what: str) -> None:
    assert 0 <= share <= 1


def level(path: Path) -> float:
    """Loudness of the loudest twentieth of a second, in dB."""
    return float(loudness_levels(SoundFile(path, SECONDS)).max())


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
    run = Run(video, heard_with(video, MUTED, None, limits), tmp_path)
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
            torch.testing.assert_close(expected.scores, found.scores, atol=1e-3, rtol=0)


def test_a_run_is_drawn_again_without_the_network_and_plays_what_was_heard(
    tmp_path: Path, clip: Path, noise: Path, predictor: AVSPredictor
):
    marked, heard = {}, {}
    for choice in (OWN, MUTED, ANOTHER):
        video = LIMITS.open(clip)
        run = Run(video, heard_with(video, choice, noise, LIMITS), tmp_path)
        run.predict(predictor, 5, LIMITS, ignore)
        calls = predictor.scorer.calls
        low, high = (np.mean([f.marked for f in run.draw(t, ignore).frames]) for t in (0.2, 0.7))
        assert low > high or choice == MUTED
        drawing = run.draw(0.4, ignore)
        assert predictor.scorer.calls == calls
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
    assert heard[MUTED] < -80
    assert heard[OWN] == pytest.approx(level(clip), abs=2)
    assert heard[ANOTHER] == pytest.approx(level(noise), abs=2)


def test_large_frames_are_drawn_smaller(tmp_path: Path, predictor: AVSPredictor, monkeypatch: pytest.MonkeyPatch):
    write_synthetic_video(tmp_path / "tall.mp4", seconds=1, frame_rate=3, size=(90, 60))
    monkeypatch.setattr("transavs.demo.session.DRAWN_SIDE", 45)
    video = LIMITS.open(tmp_path / "tall.mp4")
    run = Run(video, video, tmp_path)
    run.predict(predictor, 5, LIMITS, ignore)
    drawn = Video(run.draw(0.5, ignore).overlay)
    assert (drawn.height, drawn.width) == (46 + 24, 30)  # sides are even, and the strip is 24 pixels high


def test_without_gradio_one_line_says_how_to_get_it(run_here, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "transavs.demo.web", raising=False)
    done = run_here("tools/web_demo.py")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: gradio is not installed")
    assert 'pip install "transavs[web]"' in done.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of tools/web_demo.py, running in a process of its own that leaves nothing behind."""
    pytest.importorskip("gradio", reason='needs gradio: pip install "transavs[web]"')
    folder = tmp_path_factory.mktemp("server")
    (folder / "tmp").mkdir()
    (folder / "cwd").mkdir()
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", [*TINY_MODEL, "MODEL.META_ARCHITECTURE", "LoudModel"])
    checkpoint = {"model": LoudModel(cfg).state_dict(), "config": cfg.dump(), "class_names": ["background", "sounding"]}
    torch.save(checkpoint, folder / "loud.pth")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = SERVER.format(tool=REPOSITORY / "tools/web_demo.py")
    limits = ["--max-seconds", str(LIMITS.seconds), "--max-megabytes", str(LIMITS.megabytes)]
    command = [sys.executable, "-c", script, "--weights", folder / "loud.pth", "--device", "cpu", "--port", str(port)]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "TMPDIR": str(folder / "tmp")}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([*command, *limits], cwd=folder / "cwd", env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        assert server.wait(30) == 0
    connections = [line for line in (folder / "log").read_text().splitlines() if line.startswith("connects to")]
    assert connections
    assert all("127.0.0.1" in line or "localhost" in line for line in connections), connections
    assert not list((folder / "cwd").iterdir())
    assert not list((folder / "tmp").glob("transavs_web_*"))


class Visitor:
    """Uses the page in a browser."""

    def __init__(self, tab: Any):
        self.tab = tab
        self.requested: list[str] = []
        tab.on("request", lambda request: self.requested.append(request.url))

    def give(self, path: Path) -> None:
        if self.tab.locator("#given button[aria-label=Clear]").count():
            self.tab.click("#given button[aria-label=Clear]")
        self.tab.set_input_files("#given input[type=file]", path)
        self.tab.wait_for_selector("#given video")

    def result(self) -> str:
        """Address of the video that is shown."""
        return self.tab.evaluate("document.querySelector('#result video')?.src ?? ''")

    def start(self) -> None:
        self.wait_for_another(self.result(), lambda: self.tab.click("#start"))

    def set_threshold(self, value: float) -> None:
        """By a click on the slider, which ends by releasing it."""
        box = self.tab.locator("#threshold input[type=range]").bounding_box()
        x = box["x"] + box["width"] * (value - 0.05) / 0.9
        self.wait_for_another(self.result(), lambda: self.tab.mouse.click(x, box["y"] + box["height"] / 2))

    def wait_for_another(self, last: str, act: Any) -> None:
        act()
        is_there = (
            "last => { const v = document.querySelector('#result video'); return v?.readyState > 1 && v.src != last }"
        )
        self.tab.wait_for_function(is_there, arg=last, timeout=30000)

    def picture(self, time: float = 1.5) -> np.ndarray:
        """uint8 (SIDE, SIDE, 3): the result at a time, without its strip."""
        pixels = self.tab.evaluate(
            """async ([time, side]) => {
                const video = document.querySelector('#result video')
                await new Promise(done => { video.onseeked = done; video.currentTime = time })
                const canvas = document.createElement('canvas')
                canvas.width = canvas.height = side
                const context = canvas.getContext('2d')
                context.drawImage(video, 0, 0)
                return Array.from(context.getImageData(0, 0, side, side).data)
            }""",
            [time, SIDE],
        )
        return np.array(pixels, dtype=np.uint8).reshape(SIDE, SIDE, 4)[..., :3]

    def download(self, button: str, folder: Path) -> Path:
        with self.tab.expect_download() as download:
            self.tab.click(button)
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path


@pytest.fixture(scope="module")
def visitor(address: str) -> Iterator[Visitor]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        visitor = Visitor(browser.new_page(viewport={"width": 1280, "height": 900}))
        visitor.tab.set_default_timeout(20000)
        visitor.tab.goto(address)
        visitor.tab.wait_for_selector("#start")
        yield visitor
        browser.close()


def redness(picture: np.ndarray) -> float:
    """Of what is marked, which is drawn in red; in levels."""
    return float(picture[..., 0].mean() - picture[..., 2].mean())


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make install-browser")


@needs_browser
def test_the_picture_follows_the_sound_and_the_threshold(visitor: Visitor, clip: Path, noise: Path, tmp_path: Path):
    visitor.give(clip)
    visitor.start()
    own = visitor.picture()
    played = visitor.download("#video-file", tmp_path)
    assert Video(played).duration == pytest.approx(SECONDS, abs=0.3)
    assert level(played) == pytest.approx(level(clip), abs=2)
    assert '"annotations"' in visitor.download("#mask-file", tmp_path).read_text()

    visitor.set_threshold(0.25)
    wide = visitor.picture()
    assert redness(wide) > redness(own) + 5

    visitor.tab.get_by_label("muted").check()
    visitor.start()
    assert redness(visitor.picture()) < redness(wide) - 5
    assert "heard silence" in visitor.tab.inner_text("#summary")
    assert level(visitor.download("#video-file", tmp_path)) < -80

    visitor.tab.get_by_label("another sound").check()
    visitor.tab.set_input_files("#another input[type=file]", noise)
    visitor.tab.wait_for_selector("#another .file-preview")
    visitor.start()
    assert redness(visitor.picture()) == pytest.approx(redness(wide), abs=2)
    assert level(visitor.download("#video-file", tmp_path)) == pytest.approx(level(noise), abs=2)
    visitor.tab.get_by_label("its own sound").check()


@needs_browser
def test_what_cannot_be_taken_is_said_on_the_page(visitor: Visitor, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    for path, message in (
        (write_video(tmp_path / "long.mp4", seconds=8), "long.mp4 is 8 s long, and 5 s are taken here"),
        (tmp_path / "picture.mp4", "picture.mp4 is an image"),
        (make_video(tmp_path / "mute.mp4", sound=False), "mute.mp4 holds no sound track"),
    ):
        visitor.give(path)
        visitor.tab.click("#start")
        visitor.tab.get_by_text(message).wait_for()
    (tmp_path / "large.mp4").write_bytes(bytes(2_100_000))
    visitor.tab.click("#given button[aria-label=Clear]")
    visitor.tab.set_input_files("#given input[type=file]", tmp_path / "large.mp4")
    visitor.tab.get_by_text("exceed the maximum allowed size").wait_for()


@needs_browser
def test_a_generated_video_is_offered_and_nothing_but_this_machine_is_asked(visitor: Visitor, address: str):
    visitor.tab.reload()
    visitor.tab.click("#generate")
    visitor.tab.wait_for_selector("#given video")
    foreign = [url for url in visitor.requested if not url.startswith((address, f"blob:{address}", "data:"))]
    assert not foreign
    assert len(visitor.requested) > 10
