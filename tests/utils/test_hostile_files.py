"""Strangers' files: nothing in them is run, nothing they name is touched, and nothing is decoded beyond the limits."""

import contextlib
import os
import pickle
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.bad_inputs import (
    READERS,
    assert_not_read,
    assert_refused,
    png_header,
    saved,
    small_audio_net,
    wav_header,
)
from helpers.hostile import giants, payloads
from helpers.repository import REPOSITORY
from helpers.videos import RedWhenLoud, make_video

from transavs import AVSPredictor
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.data.avsbench import LAYOUTS, load_avsbench
from transavs.demo.process_videos import find_videos
from transavs.demo.session import MUTED, DemoSession, Limits, heard_with
from transavs.evaluation.prediction_writer import PredictionWriter
from transavs.inference.backends import load_backend
from transavs.media.audio_file import load_audio
from transavs.media.container import MediaFile
from transavs.media.images import read_frame, read_mask
from transavs.visualization.charts import draw_groups

KINDS = list(payloads(Path("marker")))


def test_the_payloads_do_harm_where_nothing_is_checked(tmp_path: Path):
    """Else the tests below would prove nothing."""
    for number, kind in enumerate(KINDS):
        marker = tmp_path / str(number)
        with contextlib.suppress(Exception):  # what comes after the harm is done
            pickle.loads(pickle.dumps(payloads(marker)[kind]))
        assert marker.exists(), kind


@pytest.mark.parametrize("reader", READERS)
def test_a_hostile_pickle_runs_nothing(reader: str, tmp_path: Path):
    for kind in KINDS:
        payload = payloads(tmp_path / "marker")[kind]
        for value in (payload, {"model": payload, "config": ""}, {"state_dict": {"conv1.weight": payload}}):
            assert_not_read(reader, pickle.dumps(value), tmp_path)
            assert_not_read(reader, saved(value), tmp_path)
        assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_weights_to_start_from_run_nothing(suffix: str, tmp_path: Path):
    path = tmp_path / f"weights{suffix}"
    for kind in KINDS:
        path.write_bytes(pickle.dumps({"model": payloads(tmp_path / "marker")[kind]}))
        assert_refused(lambda: AVSCheckpointer(small_audio_net()).load(str(path)), path, tmp_path)


def test_an_exported_program_is_opened_only_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []
    monkeypatch.setattr(torch.export, "load", lambda path, **options: opened.append(path))
    path = tmp_path / "model.pt2"
    path.write_bytes(b"words")
    assert_refused(lambda: load_backend(path, "cpu"), path, tmp_path)
    assert not opened
    assert_refused(lambda: load_backend(path, "cpu", trust_program=True), path, tmp_path)
    assert opened == [path]


@pytest.mark.parametrize("subset", ["s4", "ms3", "avss"])
@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\\b", "a\0b", "../x"])
def test_names_in_a_csv_lead_nowhere(subset: str, name: str, tmp_path: Path):
    layout = LAYOUTS[subset]
    meta = tmp_path / layout.meta
    meta.parent.mkdir(parents=True, exist_ok=True)
    values = dict.fromkeys(layout.columns, "a") | {"split": "test", "label": "v2"}
    video = layout.columns[layout.video_column]
    for column in [video] + ([layout.category_column] if "{category}" in layout.frames else []):
        row = values | {column: name}
        meta.write_text(",".join(layout.columns) + "\n" + ",".join(row[key] for key in layout.columns) + "\n")
        assert_refused(lambda: load_avsbench(tmp_path, subset, "test"), repr(name), tmp_path)


def test_predictions_stay_in_their_folder(ms3_records: list[dict], tmp_path: Path):
    record = ms3_records[0] | {"labeled_frames": torch.tensor([0]), "mask_file_names": ["/data/../elsewhere/0.png"]}
    for kind in ("png", "probabilities"):
        process = PredictionWriter(tmp_path / "out", [kind], ["background", "sounding"]).process
        clip, output = record | {"mask_root": "/data"}, {"sem_seg": torch.rand(1, 2, 4, 4)}
        assert_refused(partial(process, [clip], [output]), "elsewhere/0.png", tmp_path)


def test_videos_whose_names_are_paths_are_left_out_of_folders(tmp_path: Path):
    for name in ("...mp4", "..mp4", "._clip.mp4", "clip.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert find_videos([str(tmp_path)]) == [str(tmp_path / "clip.mp4")]


@pytest.mark.parametrize("name", ["a" * 200 + ".mp4", "ü" * 100 + ".mp4", "<b>.mp4", "$\\x{.mp4", "-rf .mp4", "...mp4"])
def test_results_of_uploads_stay_in_their_folder(name: str, tmp_path: Path, clip: Path):
    upload = tmp_path / "uploads" / name
    upload.parent.mkdir()
    os.link(clip, upload)
    made, limits = tmp_path / "made", Limits(seconds=5)
    made.mkdir()
    video = limits.open(upload)
    session = DemoSession(video, heard_with(video, MUTED, None, limits), made)
    session.predict(AVSPredictor(RedWhenLoud()), 1, limits, lambda share, what: None)
    drawing = session.draw(0.5, lambda share, what: None)
    assert all(path.is_file() and made in path.resolve().parents for path in (drawing.overlay, drawing.coco))
    assert {path.name for path in tmp_path.iterdir()} == {"uploads", "made"}


def test_names_in_figures_are_no_formulas(tmp_path: Path):
    draw_groups({"$\\foo{": {"$x$": 1.0, "a_$": 2.0}}, "J $\\bar$", tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "concat by path": "ffconcat version 1.0\nfile {secret}\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "HLS by address": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_other_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    secret = make_video(tmp_path / "secret.mp4", seconds=1)
    for reader in ("video.mp4", "sound.mp4"):
        assert_not_read(reader, PLAYLISTS[kind].format(secret=secret).encode(), tmp_path)


def test_a_seek_before_the_start_of_a_file_raises_nothing():
    """PyAV keeps what a file object raises, and raises it where the next file is opened."""
    with MediaFile(__file__) as file:
        assert file.seek(-5) == -1
        assert file.seek(5) == 5


def test_giant_frames_are_refused_by_the_header(tmp_path: Path):
    """Of pictures without a codec the container alone tells the size."""
    path = make_video(tmp_path / "a.avi", seconds=1, codec="rawvideo", audio_codec="pcm_s16le")
    content, small = path.read_bytes(), struct.pack("<II", 80, 48)
    assert content.count(small) == 2
    path.write_bytes(content.replace(small, struct.pack("<II", 16000, 16000)))
    assert_refused(lambda: READERS["video.mp4"][0](path), path, tmp_path)


LIMITED = """
import resource, sys, time
from pathlib import Path
from helpers.bad_inputs import READERS
from transavs import AVSInputError
READERS["frame.png"][0](Path("small.png"))
started, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
for path in sorted(Path().glob("*/*")):
    for reader in path.parent.name.split(","):
        try:
            READERS[reader][0](path)
            sys.exit(f"{path} was read")
        except AVSInputError as error:
            print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used, time.monotonic() - started)
"""


def test_small_files_take_neither_all_memory_nor_all_time(tmp_path: Path):
    """By what a process of its own takes: each of these files would take hundreds of megabytes, or hours."""
    files = {
        "frame.png,mask.png,colors.png,probabilities.png/bomb.png": png_header(9000, 9000),
        "clip.wav/long.wav": wav_header(1, 1, 20_000_000),
        "clip.wav/wide.wav": wav_header(500, 16000, 20_000_000),
        **{f"log_mel.pkl,catalog.pkl,checkpoint.pth/{kind}.pkl": content for kind, content in giants().items()},
    }
    (tmp_path / "small.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes())
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *told, used = done.stdout.splitlines()
    assert len(told) == sum(len(name.split("/")[0].split(",")) for name in files)
    kilobytes, seconds = map(float, used.split())
    assert kilobytes < 50_000
    assert seconds < 30


def test_the_limits_leave_room_for_what_people_have(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4320, 7680), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert read_frame(str(tmp_path / "a.png"), "RGB").shape == (4320, 7680, 3)
    assert read_mask(str(tmp_path / "a.png"), "binary").sum() == 0
    (tmp_path / "a.wav").write_bytes(wav_header(1, 16000, 16000 * 600))
    assert load_audio(tmp_path / "a.wav")[0].shape == (1, 16000 * 600)
