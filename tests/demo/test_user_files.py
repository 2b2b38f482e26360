"""The files that users name: nothing of theirs is destroyed, and names mean what they say."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.repository import REPOSITORY
from helpers.videos import RedWhenLoud, make_video
from PIL import Image

from transavs import AVSInputError
from transavs.demo.process_videos import Targets, find_videos, segment_video
from transavs.inference.predictor import AVSPredictor
from transavs.media.sources import is_live, open_source
from transavs.media.video_reader import Video

DEMO = "tools/demo.py"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "in.mp4", seconds=2, sample_rate=44100)


def mark(source: Path | str, rate: float = 2, **targets: Path) -> None:
    segment_video(AVSPredictor(RedWhenLoud()), source, Targets(**targets), rate=rate)


def linked(path: Path) -> Path:
    link = path.with_name(f"link{path.suffix}")
    link.symlink_to(path)
    return link


def hard_linked(path: Path) -> Path:
    os.link(path, path.with_name(f"hard{path.suffix}"))
    return path.with_name(f"hard{path.suffix}")


NAMES: dict[str, Callable[[Path], Path]] = {
    "the same": lambda path: path,
    "by another way": lambda path: path.parent / "." / ".." / path.parent.name / path.name,
    "a symbolic link": linked,
    "a hard link": hard_linked,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["--output", "--json"])
def test_an_output_that_is_an_input_is_refused_before_anything_is_read(run_here, video: Path, option: str, name: str):
    """The model would be missing, and is not even looked for."""
    before = video.read_bytes()
    done = run_here(DEMO, "--input", video, option, NAMES[name](video), "--weights", "none.pth")
    assert done.returncode == 2
    assert "is the input" in done.stderr
    assert "which would be destroyed: name another output" in done.stderr
    assert video.read_bytes() == before
    with pytest.raises(AVSInputError, match="which would be destroyed"):
        mark(video, overlay=video)


def test_other_inputs_and_outputs_are_told_apart_too(run_here, video: Path, tmp_path: Path):
    sound, weights, folder = tmp_path / "a.mp4", tmp_path / "w.json", tmp_path / "videos"
    shutil.copy(video, sound)
    weights.write_text("{}")
    folder.mkdir()
    shutil.copy(video, folder / "a.mp4")
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "000000.png")
    for arguments in (
        ("--audio", sound, "--output", sound),
        ("--weights", weights, "--json", weights),
        ("--output", tmp_path / "x.mp4", "--masks", tmp_path / "x.mp4"),
    ):
        done = run_here(DEMO, "--input", video, *arguments)
        assert done.returncode == 2, arguments
        assert "name another output" in done.stderr or "give each a name of its own" in done.stderr
    assert "would be destroyed" in run_here(DEMO, "--input", folder, "--output", folder).stderr
    assert "would be destroyed" in run_here(DEMO, "--input", images, "--masks", images, "--audio", "mute").stderr
    assert (folder / "a.mp4").read_bytes() == video.read_bytes()


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("tools/convert_weights.py", ("torchvision", "{}", "{}")),
        ("tools/export_model.py", ("--weights", "{}", "--output", "{}")),
        ("tools/benchmark.py", ("--config-file", "{}", "--json", "{}")),
        ("tools/run_ablations.py", ("--configs", "{}/table.csv", "--output", "{}")),
    ],
)
def test_other_tools_keep_their_inputs(run_here, tmp_path: Path, tool: str, arguments: tuple):
    path = tmp_path / "a.onnx"
    if "ablations" in tool:
        path.mkdir()
        (path / "table.csv").write_text("own")
    else:
        path.write_text("own")
    done = run_here(tool, *(argument.format(path) for argument in arguments))
    assert done.returncode == 2
    assert "would be destroyed" in done.stderr
    assert (path / "table.csv" if path.is_dir() else path).read_text() == "own"


def test_a_folder_in_place_of_a_file_is_told_before_work_and_leaves_nothing(run_here, video: Path, tmp_path: Path):
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    for option in ("--json", "--output"):
        done = run_here(DEMO, "--input", video, option, folder, "--weights", "none.pth")
        assert f"{folder} cannot be written, it is a folder" in done.stderr
    done = run_here(DEMO, "--input", video, "--json", video / "x.json", "--weights", "none.pth")
    assert f"{video / 'x.json'} cannot be written (Not a directory): name another" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.mp4", "in.mp4"]


def test_the_folder_of_masks_holds_those_of_the_last_call(video: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    mark(video, rate=5, masks=masks)
    (masks / "notes.txt").write_text("mine")
    assert len(list(masks.glob("*.png"))) == 10
    with pytest.raises(AVSInputError):  # a bad input loses nothing
        mark(tmp_path / "none.mp4", masks=masks)
    assert len(list(masks.glob("*.png"))) == 10
    mark(video, rate=1, masks=masks)
    assert len(list(masks.glob("*.png"))) == 2
    assert sorted(path.suffix for path in masks.iterdir()) == [".png", ".png", ".txt"]


@pytest.mark.parametrize("stem", ["2024-05-01T12:30:00", "a%03d", "-x", "b'?#", "ü" * 120, "http:x"])
def test_outputs_may_have_any_name(video: Path, tmp_path: Path, stem: str):
    mark(video, overlay=tmp_path / f"{stem}.mp4", coco=tmp_path / f"{stem}.json")
    assert len(list(Video(tmp_path / f"{stem}.mp4").frames())) == 50
    assert json.loads((tmp_path / f"{stem}.json").read_text())["images"]
    assert not list(tmp_path.glob("*partial*"))


def test_files_below_dev_are_files(video: Path):
    path = Path("/dev/shm/transavs_test.mp4")
    shutil.copy(video, path)
    try:
        assert not is_live(str(path))
        with open_source(str(path)) as opened:
            assert len(list(opened.frames())) == 50
    finally:
        path.unlink()
    assert is_live("/dev/video7")
    assert is_live("camera")


def test_a_pipe_is_read_as_it_comes(tmp_path: Path):
    source = make_video(tmp_path / "a.ts", seconds=2, sample_rate=44100)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(source.read_bytes()), daemon=True)
    writer.start()
    with open_source(str(pipe)) as opened:
        assert len(list(opened.frames())) == 50
    writer.join(10)


def test_all_videos_of_a_folder_are_found_and_others_named(video: Path, tmp_path: Path, logged):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.ts", "b.m2ts", "c.3gp", "d.OGV", "e.MP4", "f.vob", ".hidden.mp4", "notes.txt"):
        shutil.copy(video, folder / name)
    assert [Path(name).name for name in find_videos([str(folder)])] == [
        "a.ts",
        "b.m2ts",
        "c.3gp",
        "d.OGV",
        "e.MP4",
        "f.vob",
    ]
    assert "1 of its files are left out by their suffix: notes.txt" in logged.text


def test_images_of_tiff_are_frames(tmp_path: Path):
    for number in range(3):
        Image.new("RGB", (16, 12), (90 * number, 0, 0)).save(tmp_path / f"{number}.tif")
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    with open_source(str(tmp_path)) as opened:
        assert [int(frame.pixels()[0, 0, 0]) for frame in opened.frames()] == [0, 90, 180]


def test_a_name_that_the_terminal_cannot_print_is_escaped(tmp_path: Path):
    code = (
        "import sys; from transavs.utils.command_line import run_tool\n"
        "run_tool(lambda: sys.stdout.write('dog\\udce9 \\u00e9'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=True,
    )
    assert done.stdout == rb"dog\udce9 \xe9"


def test_the_predictor_takes_what_can_be_iterated(video: Path, tmp_path: Path):
    predictor = AVSPredictor(RedWhenLoud())
    frames = [frame.pixels() for frame in Video(video).frames()][::25]
    wave = np.zeros(32000, np.float32)
    found = predictor.predict((frame for frame in frames), wave, 16000)
    assert len(found) == len(frames) == 2
    images = tmp_path / "images"
    images.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(images / f"{number}.png")
    soundfile.write(images / "a.wav", wave, 16000)
    assert sum(len(clip.frames) for clip in predictor.predict_video(images)) == 2


@pytest.mark.parametrize("frames", [b"bytes", "a.mp4", None, 3, [None], [np.zeros((4, 4), np.uint8)]])
def test_frames_of_another_kind_are_one_line(frames: object):
    with pytest.raises(AVSInputError, match="give "):
        AVSPredictor(RedWhenLoud()).predict(frames, np.zeros(16000, np.float32), 16000)


@pytest.mark.parametrize("source", [b"bytes", None, 3, ["a.mp4"]])
def test_videos_of_another_kind_are_one_line(source: object):
    with pytest.raises(AVSInputError, match="give a path"):
        next(AVSPredictor(RedWhenLoud()).predict_video(source))


def test_numbers_of_another_kind_are_one_line(video: Path):
    predictor, frames = AVSPredictor(RedWhenLoud()), [np.zeros((4, 4, 3), np.uint8)]
    for sample_rate in (None, "16000", float("nan")):
        with pytest.raises(AVSInputError, match=r"sample rate|rates above 0"):
            predictor.predict(frames, np.zeros(16000, np.float32), sample_rate)
    with pytest.raises(AVSInputError, match="rate of masks"):
        next(predictor.predict_video(video, rate="5"))
    with pytest.raises(AVSInputError, match=r"load a file with AVSPredictor\.from_checkpoint"):
        AVSPredictor("model.pth")
