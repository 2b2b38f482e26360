"""tools/web_demo.py: the page in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener, urlopen

import cv2
import numpy as np
import pytest
import torch
from helpers.loud_model import LoudModel
from helpers.repository import REPOSITORY, TINY_MODEL
from helpers.videos import make_video
from helpers.web_inputs import LIMITS, SECONDS, SIDE, level, write_video

from transavs.config.load import load_config
from transavs.data.synthetic.video import write_synthetic_video
from transavs.media.video_reader import Video

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    # A camera that shows a clock, and a microphone that beeps every second.
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Registers the model, and tells of every connection that the process asks for.
SERVER = """
import runpy, sys
from helpers import loud_model
def tell(event, about):
    if event in ("socket.connect", "socket.getaddrinfo"):
        sys.stderr.write(f"connects to {{about}}\\n")
sys.addaudithook(tell)
runpy.run_path('{tool}', run_name="__main__")
"""


def test_without_gradio_one_line_says_how_to_get_it(run_here, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "transavs.demo.web", raising=False)
    done = run_here("tools/web_demo.py")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: gradio is not installed")
    assert 'pip install "transavs[web]"' in done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server lives."""
    return tmp_path_factory.mktemp("server")


@contextmanager
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Address of tools/web_demo.py, running in a process of its own that leaves nothing behind."""
    pytest.importorskip("gradio", reason='needs gradio: pip install "transavs[web]"')
    (folder / "tmp").mkdir()
    (folder / "cwd").mkdir()
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", [*TINY_MODEL, "MODEL.META_ARCHITECTURE", "LoudModel"])
    checkpoint = {"model": LoudModel(cfg).state_dict(), "config": cfg.dump(), "class_names": ["background", "sounding"]}
    torch.save(checkpoint, folder / "loud.pth")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = SERVER.format(tool=REPOSITORY / "tools/web_demo.py")
    command = [sys.executable, "-c", script, "--weights", folder / "loud.pth", "--device", "cpu", "--port", str(port)]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "TMPDIR": str(folder / "tmp")} | environment
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([*command, *arguments], cwd=folder / "cwd", env=environment, stdout=log, stderr=log)
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


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with serving(folder, "--max-seconds", str(LIMITS.seconds), "--max-megabytes", str(LIMITS.megabytes)) as address:
        yield address


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

    def picture(self, time: float = 1.5, player: str = "#result") -> np.ndarray:
        """uint8 (SIDE, SIDE, 3): the result at a time, without its strip."""
        pixels = self.tab.evaluate(
            """async ([time, side, player]) => {
                const video = document.querySelector(player + ' video')
                await new Promise(done => { video.onseeked = done; video.currentTime = time })
                const canvas = document.createElement('canvas')
                canvas.width = canvas.height = side
                const context = canvas.getContext('2d')
                context.drawImage(video, 0, 0)
                return Array.from(context.getImageData(0, 0, side, side).data)
            }""",
            [time, SIDE, player],
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
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
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
    assert "heard muted" in visitor.tab.inner_text("#result")
    visitor.tab.wait_for_function("document.querySelector('#before-1 video')?.readyState > 1")
    assert "heard its own sound" in visitor.tab.inner_text("#before-1")
    assert redness(visitor.picture(player="#before-1")) == pytest.approx(redness(wide), abs=1)
    assert "heard silence" in visitor.tab.inner_text("#summary")
    assert level(visitor.download("#video-file", tmp_path)) < -80

    visitor.tab.get_by_label("another sound").check()
    visitor.tab.set_input_files("#another input[type=file]", noise)
    visitor.tab.wait_for_selector("#another .file-preview")
    visitor.start()
    assert redness(visitor.picture()) == pytest.approx(redness(wide), abs=2)
    assert level(visitor.download("#video-file", tmp_path)) == pytest.approx(level(noise), abs=2)
    visitor.tab.wait_for_function("document.querySelector('#before-2 video')?.readyState > 1")
    assert "heard muted" in visitor.tab.inner_text("#before-1")
    assert "heard its own sound" in visitor.tab.inner_text("#before-2")
    assert redness(visitor.picture(player="#before-1")) < redness(wide) - 5
    assert redness(visitor.picture(player="#before-2")) == pytest.approx(redness(wide), abs=1)
    visitor.tab.get_by_label("its own sound").check()


@needs_browser
def test_a_canceled_job_leaves_no_files_and_the_page_takes_the_next(
    visitor: Visitor, folder: Path, clip: Path, tmp_path: Path
):
    write_synthetic_video(tmp_path / "slow.mp4", seconds=4.5, frame_rate=24, size=(480, 480), seed=4)
    visitor.give(clip)
    visitor.start()
    made = next((folder / "tmp").glob("transavs_web_*/made"))
    before = {path for path in made.iterdir() if path.is_dir()}
    shown = visitor.result()
    visitor.give(tmp_path / "slow.mp4")
    visitor.tab.click("#start")
    visitor.tab.locator("#result").get_by_text("drawing").wait_for()
    assert {path for path in made.iterdir() if path.is_dir()} > before
    visitor.tab.click("#cancel")
    visitor.tab.locator("#result .progress-text").wait_for(state="detached", timeout=1000)
    for _ in range(50):
        if {path for path in made.iterdir() if path.is_dir()} == before:
            break
        time.sleep(0.1)
    assert {path for path in made.iterdir() if path.is_dir()} == before
    assert visitor.result() == shown
    visitor.give(clip)
    rates = visitor.tab.locator("#rate")
    rates.get_by_label("2", exact=True).check()  # the same result would have the same address
    visitor.start()
    rates.get_by_label("5", exact=True).check()


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
def test_what_the_camera_and_the_microphone_record_is_segmented(visitor: Visitor, tmp_path: Path):
    tab = visitor.tab
    tab.reload()
    tab.click("#given button[aria-label='Capture from camera']")
    tab.locator("#given").get_by_text("Access").click()
    tab.click("#given .capture-button")
    tab.wait_for_timeout(3000)
    tab.click("#given .capture-button")
    tab.wait_for_selector("#given video[src*=gradio_api]")
    visitor.start()
    is_dark = redness(visitor.picture(0.5))
    visitor.set_threshold(0.1)
    assert redness(visitor.picture(0.5)) > is_dark + 5
    played = visitor.download("#video-file", tmp_path)
    assert 0.5 < Video(played).duration < 4
    assert level(played) > -60


@needs_browser
def test_a_generated_video_is_offered_and_nothing_but_this_machine_is_asked(visitor: Visitor, address: str):
    visitor.tab.reload()
    visitor.tab.click("#generate")
    visitor.tab.wait_for_selector("#given video")
    foreign = [url for url in visitor.requested if not url.startswith((address, f"blob:{address}", "data:"))]
    assert not foreign
    assert len(visitor.requested) > 10


def test_a_password_is_asked_for(tmp_path: Path):
    with serving(tmp_path, TRANSAVS_WEB_PASSWORD="open sesame") as address:
        assert urlopen(f"{address}/").status == 200  # asks for it
        for path in ("config", "gradio_api/info", "gradio_api/file=/etc/hostname"):
            with pytest.raises(HTTPError, match="401"):
                urlopen(f"{address}/{path}")
        opener = build_opener(HTTPCookieProcessor())
        for password in ("open", "open sesame "):
            form = urlencode({"username": "visitor", "password": password}).encode()
            with pytest.raises(HTTPError, match="40"):
                opener.open(f"{address}/login", form)
        opener.open(f"{address}/login", urlencode({"username": "visitor", "password": "open sesame"}).encode())
        assert b"What makes the sound?" in opener.open(f"{address}/config").read()


def test_an_empty_password_is_refused(run_here):
    done = run_here("tools/web_demo.py", "--password", "")
    assert done.returncode == 2
    assert "--password is empty" in done.stderr
