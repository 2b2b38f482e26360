"""Raw videos -> AVSBench's trees: videos whose frames carry their numbers, through the tool."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from helpers.repository import REPOSITORY
from helpers.videos import beeps, make_video
from PIL import Image

from transavs.data.audio import load_log_mel_pickle, log_mel_examples
from transavs.data.avsbench import LAYOUTS, load_avsbench
from transavs.data.extract import Extracted, extract_avsbench, frame_numbers
from transavs.data.integrity.check import check_avsbench
from transavs.data.synthetic.dataset import write_synthetic
from transavs.media.audio_file import load_audio
from transavs.media.video_reader import Video
from transavs.utils.errors import AVSInputError

TOOL = "datasets/prepare_avsbench.py"
BITS, SIZE = 10, (64, 160)
NTSC = Fraction(30000, 1001)
HEADERS = {subset: ",".join(layout.columns) for subset, layout in LAYOUTS.items()}


def bars(number: int) -> np.ndarray:
    """uint8 (H, W, 3): the bits of a frame's number as black and white bars, the highest first."""
    bits = [number >> bit & 1 for bit in reversed(range(BITS))]
    row = np.repeat(np.array(bits, dtype=np.uint8) * 255, SIZE[1] // BITS)
    return np.repeat(np.broadcast_to(row, SIZE)[..., None], 3, axis=2)


def number_in(path: str | Path) -> int:
    """The number that an extracted frame carries, whatever its size."""
    with Image.open(path) as image:
        gray = np.asarray(image.convert("L"))
    middle = [gray[gray.shape[0] // 2, int((bar + 0.5) * gray.shape[1] / BITS)] for bar in range(BITS)]
    return sum(int(value > 127) << bit for bit, value in enumerate(reversed(middle)))


def numbered(path: Path, rate: Fraction | int = 25, seconds: float = 5, quarters: int = 0, **options) -> Path:
    """A video of numbered frames that a player is to turn by so many quarters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = SIZE[::-1] if quarters % 2 else SIZE
    turned = {"rotation": 90 * quarters, "size": size, "image_of": lambda number: np.rot90(bars(number), -quarters)}
    return make_video(path, frame_rate=rate, seconds=seconds, **turned, **options)


def write_csv(path: Path, subset: str, rows: Sequence[str]) -> Path:
    path.write_text("\n".join([HEADERS[subset], *rows]) + "\n")
    return path


def add_masks(root: Path, subset: str) -> None:
    """Masks of one object in the size of the frames, and class names, which AVSBench brings along."""
    for split in {split for split in ("train", "val", "test") if split in (root / LAYOUTS[subset].meta).read_text()}:
        for record in load_avsbench(root, subset, split):
            for k, path in zip(record["labeled_frames"], record["mask_file_names"], strict=True):
                with Image.open(record["file_names"][k]) as frame:
                    mask = np.zeros(frame.size[::-1], dtype=np.uint8)
                mask[:9, :9] = 255 if record["mask_encoding"] == "binary" else 1
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    if subset == "avss":
        (root / "label2idx.json").write_text('{"background": 0, "dog": 1}')


def findings(root: Path) -> list[str]:
    return [
        f"{finding.kind} {Path(finding.path).name}" for finding in check_avsbench(root, compare_counts=False).findings
    ]


def test_the_rule_is_the_last_of_sixteen_instants():
    for rate in (7.3, 12, 14.985, 23.976, 24, 24.5, 25, 29.97, 30, 50, 59.94, 60, 120):
        instants = [second + part / 16 for second in range(10) for part in range(16)]
        each = [int(instant * round(rate)) for instant in instants]
        assert frame_numbers(rate, 10) == each[15::16]


# Rate, seconds, quarters to turn, and the numbers by hand: int(15/16 F), int(31/16 F), ... with F the rounded rate.
VIDEOS = {
    "film": (24, 5, 0, [22, 46, 70, 94, 118]),
    "pal": (25, 5, 0, [23, 48, 73, 98, 123]),
    "ntsc": (NTSC, 5, 0, [28, 58, 88, 118, 148]),
    "thirty": (30, 5, 0, [28, 58, 88, 118, 148]),
    "slow": (Fraction(73, 10), 5, 0, [6, 13, 20, 27, 34]),
    "left": (25, 5, 1, [23, 48, 73, 98, 123]),
    "over": (24, 5, 2, [22, 46, 70, 94, 118]),
    "right": (NTSC, 5, 3, [28, 58, 88, 118, 148]),
    "short": (25, 2.2, 0, [23, 48, 54, 54, 54]),
    "shorter": (30, 0.5, 1, [14, 14, 14, 14, 14]),
}


@pytest.fixture(scope="module")
def raw_s4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """S4's raw videos and csv, of all VIDEOS (read only)."""
    folder = tmp_path_factory.mktemp("s4")
    for name, (rate, seconds, quarters, _) in VIDEOS.items():
        numbered(folder / f"raw/test/dog/{name}.mp4", rate, seconds, quarters)
    write_csv(folder / "s4.csv", "s4", [f"{name},0,dog,test" for name in VIDEOS])
    return folder


def test_s4_holds_exactly_the_frames_that_the_rule_names(raw_s4: Path, tmp_path: Path, run_here: Callable):
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), dtype=np.uint8), (9, 9), 2)  # its threads run when workers are forked
    options = ("--subset", "s4", "--raw", raw_s4 / "raw", "--csv", raw_s4 / "s4.csv", "--output", tmp_path)
    done = run_here(TOOL, *options, "--log-mel", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}: {len(VIDEOS)} clips done, 0 skipped because they were there, 0 broken\n"
    records = {record["video"]: record for record in load_avsbench(tmp_path, "s4", "test")}
    found = {name: [number_in(path) for path in record["file_names"]] for name, record in records.items()}
    assert found == {name: numbers for name, (*_, numbers) in VIDEOS.items()}
    for record in records.values():
        assert {Image.open(path).size for path in record["file_names"]} == {(224, 224)}
        about = soundfile.info(record["audio_file"])
        assert (about.samplerate, about.channels, about.subtype) == (16000, 1, "PCM_16")
        examples, pickled = (
            log_mel_examples(*load_audio(record["audio_file"])),
            load_log_mel_pickle(record["log_mel_file"]),
        )
        there = min(5, len(examples))
        assert pickled.shape == (5, 1, 96, 64)
        assert torch.equal(pickled[:there], examples[:there])
    short = load_log_mel_pickle(records["short"]["log_mel_file"])
    assert torch.equal(short[2:], short[1:2].expand(3, -1, -1, -1))
    assert not torch.equal(short[0], short[1])
    add_masks(tmp_path, "s4")
    assert findings(tmp_path) == ["audio-short short.wav", "audio-short shorter.wav"]  # what they are


def test_pixels_are_those_of_the_video(tmp_path: Path):
    """A lossless video in colors, of another shape: cv2.resize of the frame itself, in its colors."""
    frames = np.random.default_rng(0).integers(0, 256, (30, 48, 80, 3), dtype=np.uint8)
    (tmp_path / "raw").mkdir()
    make_video(tmp_path / "raw/a.mkv", codec="ffv1", frame_rate=6, seconds=5, image_of=lambda number: frames[number])
    read = [frame.pixels() for frame in Video(tmp_path / "raw/a.mkv").frames()]
    meta = write_csv(tmp_path / "ms3.csv", "ms3", ["a,test"])
    extract_avsbench(tmp_path / "raw", meta, tmp_path / "own", "ms3", size=0)
    extract_avsbench(tmp_path / "raw", meta, tmp_path / "squares", "ms3")
    numbers = [5, 11, 17, 23, 29]  # int(15/16 6), ...
    for root, size in (("own", None), ("squares", (224, 224))):
        paths = load_avsbench(tmp_path / root, "ms3", "test")[0]["file_names"]
        for number, path in zip(numbers, paths, strict=True):
            expected = read[number] if size is None else cv2.resize(read[number], size)
            np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)


def test_channels_are_averaged(tmp_path: Path):
    """FFmpeg's own mono would be louder than full scale here, and clipped."""
    tone = 1.8 * beeps(5, 16000)
    (tmp_path / "raw").mkdir()
    make_video(tmp_path / "raw/a.mkv", seconds=5, layout="stereo", audio_codec="pcm_s16le", wave=tone)
    extract_avsbench(tmp_path / "raw", write_csv(tmp_path / "a.csv", "ms3", ["a,val"]), tmp_path, "ms3")
    wave, _ = soundfile.read(load_avsbench(tmp_path, "ms3", "val")[0]["audio_file"])
    np.testing.assert_allclose(wave, tone, atol=2e-4)


def test_ms3_and_avss_are_whole_for_the_doctor(tmp_path: Path, run_here: Callable):
    """AVSS by uid or, where one clip alone is cut from it, by vid; its clips last five or ten seconds."""
    raw = tmp_path / "raw"
    numbered(raw / "a_0.mp4")
    numbered(raw / "a_1.mp4", NTSC)
    numbered(raw / "a_2.mp4", 12, 10.1)
    meta = write_csv(tmp_path / "ms3.csv", "ms3", ["a_0,train", "a_1,test"])
    base = ("--raw", raw, "--workers", "1")
    done = run_here(TOOL, "--subset", "ms3", "--csv", meta, "--output", tmp_path / "object", *base)
    assert done.returncode == 0, done.stderr
    names = ["a_0,x_0_5000,0,0,dog,train,v1s", "b,a_1,0,0,dog,test,v1m", "b,a_2,0,0,dog,test,v2"]
    meta = write_csv(tmp_path / "metadata.csv", "avss", names)
    done = run_here(TOOL, "--subset", "avss", "--csv", meta, "--output", tmp_path / "semantic", *base)
    assert done.returncode == 0, done.stderr

    numbers = {"a_0": VIDEOS["pal"][3], "a_1": VIDEOS["ntsc"][3], "a_2": [(16 * i + 15) * 12 // 16 for i in range(10)]}
    numbers |= {"v1s/x_0_5000": numbers["a_0"], "v1m/a_1": numbers["a_1"], "v2/a_2": numbers["a_2"]}
    for root, subset, size in (("object", "ms3", (224, 224)), ("semantic", "avss", SIZE[::-1])):
        add_masks(tmp_path / root, subset)
        leak = f"source-leak {Path(LAYOUTS[subset].meta).name}:3"  # both are of the video a
        assert findings(tmp_path / root) == ([leak] if subset == "ms3" else [])
        for split in ("train", "test"):
            for record in load_avsbench(tmp_path / root, subset, split):
                assert [number_in(path) for path in record["file_names"]] == numbers[record["video_id"]]
                assert {Image.open(path).size for path in record["file_names"]} == {size}


def test_one_video_of_several_clips_is_taken_for_none(tmp_path: Path, run_here: Callable):
    numbered(tmp_path / "raw/a.mp4", 5, 1)
    meta = write_csv(tmp_path / "a.csv", "avss", [f"a,a_{k}000,0,{k},dog,train,v1s" for k in (0, 5)])
    options = ("--subset", "avss", "--raw", tmp_path / "raw", "--csv", meta, "--output", tmp_path / "out")
    done = run_here(TOOL, *options, "--workers", "1")
    assert done.returncode == 1
    assert done.stderr.count("does not exist: put the video there") == 2


def lines_about(done: subprocess.CompletedProcess, name: str) -> list[str]:
    """What stderr says of a file; the progress bar is on lines of its own."""
    return [line for line in done.stderr.replace("\r", "\n").splitlines() if name in line]


def test_what_is_wrong_with_a_video_is_told_and_the_others_are_done(tmp_path: Path, run_here: Callable):
    raw = tmp_path / "raw"
    for name in ("good", "late", "cut"):
        numbered(raw / f"{name}.mp4", 6)
    numbered(raw / "mute.mp4", 6, sound=False)
    numbered(raw / "quiet.mp4", 6, wave=np.zeros(80000, dtype=np.float32))
    (raw / "words.mp4").write_text("words\n" * 99)
    (raw / "empty.mp4").touch()
    content = (raw / "cut.mp4").read_bytes()
    (raw / "cut.mp4").write_bytes(content[: len(content) // 2])
    names = ["good", "mute", "quiet", "words", "empty", "cut", "gone", "late"]
    meta = write_csv(tmp_path / "a.csv", "ms3", [f"{name},train" for name in names])
    options = ("--subset", "ms3", "--raw", raw, "--csv", meta, "--output", tmp_path / "out", "--log-mel")
    for workers in (1, 2):
        done = run_here(TOOL, *options, "--workers", workers)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        for name in ("mute", "words", "empty", "cut", "gone"):
            (line,) = lines_about(done, f"{name}.mp4")
            assert line.startswith(f"broken: {raw / name}.mp4 ")
        assert len(lines_about(done, "quiet.mp4")) == (1 if workers == 1 else 0)  # it is done, and worth a word
        assert not lines_about(done, "good.mp4") + lines_about(done, "late.mp4")
        counts = "3 clips done, 0" if workers == 1 else "0 clips done, 3"
        assert f"{counts} skipped because they were there, 5 broken" in done.stdout
    records = load_avsbench(tmp_path / "out", "ms3", "train")
    there = [record["video_id"] for record in records if all(map(os.path.isfile, record["file_names"]))]
    assert there == [record["video_id"] for record in records if os.path.isfile(record["log_mel_file"])]
    assert there == ["good", "quiet", "late"]


def modified(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name[0] != "."}


def test_a_killed_run_goes_on_without_redoing(tmp_path: Path):
    names = [f"clip{number:03d}" for number in range(150)]
    first = numbered(tmp_path / "raw" / f"{names[0]}.mp4", 12)
    for name in names[1:]:
        shutil.copy(first, first.with_stem(name))
    meta, root = write_csv(tmp_path / "a.csv", "ms3", [f"{name},train" for name in names]), tmp_path / "out"
    options = ("--subset", "ms3", "--raw", tmp_path / "raw", "--csv", meta, "--output", root, "--workers", "2")
    command = [sys.executable, TOOL, *map(str, options)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, **streams) as process:
        third = Path(LAYOUTS["ms3"].record(root, video=names[2], category="", split="train")["audio_file"])
        while not third.exists():
            assert process.poll() is None, "it has ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    before = modified(root)
    assert not (root / LAYOUTS["ms3"].meta).exists()
    whole = [path.stem for path in before if path.suffix == ".wav"]  # a clip's wav is written after its frames

    counts = extract_avsbench(tmp_path / "raw", meta, root, "ms3")

    assert counts == Extracted(done=len(names) - len(whole), skipped=len(whole))
    after = modified(root)
    kept = [path for path in before if path.stem in whole or path.parent.name in whole]
    assert len(kept) == 6 * len(whole) > 0
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    for record in load_avsbench(root, "ms3", "train"):
        assert [number_in(path) for path in record["file_names"]] == [11, 23, 35, 47, 59]
        assert len(load_audio(record["audio_file"])[0][0]) > 79000
    assert extract_avsbench(tmp_path / "raw", meta, root, "ms3") == Extracted(skipped=len(names))
    assert modified(root) == after


def test_only_what_is_missing_of_a_clip_is_written(tmp_path: Path):
    video = numbered(tmp_path / "raw/a.mp4", 6)
    meta = write_csv(tmp_path / "a.csv", "ms3", ["a,test"])
    arguments = (tmp_path / "raw", meta, tmp_path / "out", "ms3")
    extract_avsbench(*arguments)
    (record,) = load_avsbench(tmp_path / "out", "ms3", "test")
    before = modified(tmp_path / "out")
    os.remove(record["audio_file"])
    extract_avsbench(*arguments)
    assert modified(tmp_path / "out").keys() == before.keys()
    video.unlink()  # pickles need the wavs alone
    assert extract_avsbench(*arguments, log_mel=True) == Extracted(done=1)
    after = modified(tmp_path / "out")
    assert after.keys() - before.keys() == {Path(record["log_mel_file"])}
    assert {path for path in before if after[path] != before[path]} == {Path(record["audio_file"])}
    os.remove(record["file_names"][2])
    assert extract_avsbench(*arguments, log_mel=True) == Extracted(broken=1)


def test_csvs_that_would_mislead_are_refused(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    for subset, row, told in (
        ("s4", "a,0,dog,trian", r"the split 'trian'"),
        ("s4", ",0,dog,train", "names no clip"),
        ("s4", "a,0,../dog,train", "leads out of the data set"),
        ("avss", "../a,b,0,0,dog,train,v1s", "leads out of the data set"),
        ("avss", "a,b,0,0,dog,train,v9", "the label 'v9'"),
    ):
        meta = write_csv(tmp_path / "a.csv", subset, [row])
        with pytest.raises(AVSInputError, match=told):
            extract_avsbench(tmp_path / "raw", meta, tmp_path / "out", subset)
    assert not (tmp_path / "out").exists()
    in_place = tmp_path / "out" / LAYOUTS["ms3"].meta
    in_place.parent.mkdir(parents=True)
    in_place.write_text("video_id,split\nb,train\n")
    with pytest.raises(AVSInputError, match=r"ms3_meta_data\.csv is there and differs from .*: remove it"):
        extract_avsbench(tmp_path / "raw", write_csv(tmp_path / "a.csv", "ms3", ["a,train"]), tmp_path / "out", "ms3")
    assert extract_avsbench(tmp_path / "raw", in_place, tmp_path / "out", "ms3") == Extracted(broken=1)


def test_a_place_that_cannot_be_written_to_ends_the_run(tmp_path: Path, run_here: Callable):
    """It is no fault of the video: one line, not one per clip."""
    for name in "ab":
        numbered(tmp_path / f"raw/{name}.mp4", 5, 1)
    meta = write_csv(tmp_path / "a.csv", "ms3", ["a,train", "b,train"])
    (tmp_path / "Multi-sources").write_text("in the way")
    done = run_here(TOOL, "--subset", "ms3", "--raw", tmp_path / "raw", "--csv", meta, "--output", tmp_path)
    assert done.returncode == 2
    (line,) = lines_about(done, "error: ")
    assert "cannot be written" in line


def test_generated_trees_have_pickles_of_their_wavs_where_avsbench_has(tmp_path: Path):
    write_synthetic(tmp_path, ["ms3", "avss"], {"test": 2}, size=16, difficulty="easy", log_mel=True, workers=2)
    for record in load_avsbench(tmp_path / "synthetic", "ms3", "test"):
        with open(record["log_mel_file"], "rb") as file:
            pickled = pickle.load(file)
        assert torch.equal(pickled, log_mel_examples(*load_audio(record["audio_file"])))
    assert len(list(tmp_path.rglob("*.pkl"))) == 2
