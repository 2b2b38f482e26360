"""The data doctor: finds each planted fault, where it is and nothing else, and nothing in a whole tree."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.repository import run_tool
from PIL import Image

from transavs import AVSInputError
from transavs.data.avsbench import LAYOUTS, SOURCES, load_avsbench
from transavs.data.integrity.check import check_avsbench, find_trees, source_video
from transavs.data.integrity.report import KINDS

TOOL = "datasets/check_avsbench.py"
AUDIO_WARNINGS = ("log-mel-only", "silent")
WARNINGS = {"source-leak", "clip-orphan"} | {f"audio-{what}" for what in AUDIO_WARNINGS}
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (5 * 44100, 2))


@pytest.fixture
def tree(tiny_datasets: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic data set, to be damaged."""
    return Path(shutil.copytree(tiny_datasets / "synthetic", tmp_path / "synthetic"))


@pytest.fixture
def doctor(run_here, tmp_path: Path) -> Callable[..., tuple[int, dict]]:
    """Runs the tool in this process: its exit status and its JSON."""

    def run(*arguments: object) -> tuple[int, dict]:
        file = tmp_path / "report.json"
        status = run_here(TOOL, "--workers", 1, "--json", file, *arguments).returncode
        return status, json.loads(file.read_text()) if file.exists() else {}

    return run


def subset_root(tree: Path, subset: str) -> Path:
    return tree.parent / SOURCES["synthetic"][1][subset]


def meta(tree: Path, subset: str) -> Path:
    return subset_root(tree, subset) / LAYOUTS[subset].meta


def add_row(tree: Path, subset: str, row: str) -> None:
    meta(tree, subset).write_text(f"{meta(tree, subset).read_text()}{row}\n")


def file_of(tree: Path, subset: str, what: str) -> Path:
    """A file of the subset's first test clip."""
    root = subset_root(tree, subset)
    record = load_avsbench(root, subset, "test")[0]
    return {
        "csv": meta(tree, subset),
        "classes": root / "label2idx.json",
        "frame": Path(record["file_names"][1]),
        "mask": Path(record["mask_file_names"][1]),
        "color": Path(record["mask_file_names"][1].replace("labels_semantic", "labels_rgb")),
        "audio": Path(record["audio_file"]),
        "log-mel": Path(record["log_mel_file"] or ""),
    }[what]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def writes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return write


def paints(values: object, box: tuple[slice, slice] = np.s_[:1, :3]) -> Callable[[Path], None]:
    def paint(path: Path) -> None:
        image = np.array(Image.open(path))
        image[box] = values
        Image.fromarray(image).save(path)

    return paint


def sounds(samples: np.ndarray, sample_rate: int = 16000, subtype: str = "PCM_16") -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, samples, sample_rate, subtype=subtype)


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((20, 30), Image.Resampling.NEAREST).save(path)


def to_colors(path: Path) -> None:
    ids = np.array(Image.open(path))
    Image.fromarray(np.dstack([ids, 0 * ids, ids])).save(path)


def to_bits(path: Path) -> None:
    Image.open(path).convert("1").save(path)


class Hostile:
    """Its pickle would end the process that loads it."""

    def __reduce__(self) -> tuple:
        return sys.exit, (99,)


FILE_FAULTS: list[tuple[str, str, str, Callable[[Path], object]]] = [
    ("csv-missing", "ms3", "csv", Path.unlink),
    ("csv-broken", "ms3", "csv", writes(b"video_id,fold\na_0,test\n")),
    ("csv-broken", "s4", "csv", writes(b"name,start,category,split\n\xff\xfe\n")),
    ("classes-missing", "avss", "classes", Path.unlink),
    ("classes-broken", "avss", "classes", writes(b'{"background": 0')),
    ("classes-order", "avss", "classes", writes(b'{"bell": 0, "background": 1}')),
    ("frame-missing", "s4", "frame", Path.unlink),
    ("frame-empty", "ms3", "frame", writes(b"")),
    ("frame-broken", "s4", "frame", cut),
    ("frame-broken", "avss", "frame", cut),
    ("frame-broken", "ms3", "frame", writes(b"nonsense")),
    ("frame-size", "s4", "frame", shrink),
    ("mask-missing", "ms3", "mask", Path.unlink),
    ("mask-missing", "avss", "mask", Path.unlink),
    ("mask-empty", "s4", "mask", writes(b"")),
    ("mask-broken", "ms3", "mask", cut),
    ("mask-broken", "avss", "mask", to_colors),
    ("mask-size", "s4", "mask", shrink),
    ("mask-size", "avss", "mask", shrink),
    ("mask-values", "ms3", "mask", paints([0, 100, 200])),
    ("mask-class-id", "avss", "mask", paints(7)),
    ("color-empty", "avss", "color", writes(b"")),
    ("color-broken", "avss", "color", cut),
    ("color-size", "avss", "color", shrink),
    ("color-unknown", "avss", "color", paints((1, 2, 3))),
    ("color-disagrees", "avss", "color", paints((128, 0, 0), np.s_[:, :])),
    ("audio-missing", "s4", "audio", Path.unlink),
    ("audio-empty", "avss", "audio", writes(b"")),
    ("audio-broken", "ms3", "audio", cut),
    ("audio-broken", "s4", "audio", writes(b"nonsense" * 100)),
    ("audio-broken", "s4", "audio", sounds(np.full(5 * 16000, np.nan), subtype="FLOAT")),
    ("audio-short", "ms3", "audio", sounds(NOISE[: int(4.8 * 16000), 0])),
    ("audio-silent", "ms3", "audio", sounds(np.zeros(5 * 16000))),
    ("log-mel-broken", "s4", "log-mel", writes(b"nonsense")),
    ("log-mel-broken", "ms3", "log-mel", writes(pickle.dumps(Hostile()))),
    ("log-mel-broken", "s4", "log-mel", writes(pickle.dumps(torch.zeros(5, 96, 64)))),
    ("log-mel-short", "ms3", "log-mel", writes(pickle.dumps(torch.zeros(3, 1, 96, 64)))),
]

ROW_FAULTS = [
    ("clip-unnamed", "ms3", ",test"),
    ("clip-name", "ms3", "../../etc,test"),
    ("clip-duplicate", "ms3", "ms3_test_0001_0,test"),
    ("clip-duplicate", "ms3", "ms3_test_0001_0,train"),
    ("split-unknown", "ms3", "ms3_other_0,trian"),
    ("split-unknown", "ms3", "ms3_other_0"),
    ("part-unknown", "avss", "v,avss_other_0,0,0,bell,test,v3"),
]

OTHER_KINDS = {"clip-orphan", "source-leak", "counts-differ", "audio-log-mel-only"}  # in tests of their own


def assert_found(outcome: tuple[int, dict], kind: str, path: Path | str) -> None:
    """One finding, of this kind and path."""
    status, report = outcome
    assert [(found["kind"], found["path"]) for found in report["findings"]] == [(kind, str(path))]
    faults = 0 if kind in WARNINGS else 1
    assert (status, report["faults"], report["warnings"]) == (faults, faults, 1 - faults)


@pytest.mark.parametrize(
    ("folder", "trees"), [("", 3 * len(SOURCES)), ("synthetic", 3), ("AVSBench_object", 2), ("AVSBench_semantic", 1)]
)
def test_nothing_is_found_in_a_whole_tree(tiny_datasets: Path, doctor: Callable, folder: str, trees: int):
    status, report = doctor(tiny_datasets / folder, "--no-counts")
    assert (status, report["findings"]) == (0, [])
    assert len(report["subsets"]) == trees


@pytest.mark.parametrize(("kind", "subset", "what", "damage"), FILE_FAULTS)
def test_a_damaged_file_is_found(tree: Path, doctor: Callable, kind: str, subset: str, what: str, damage: Callable):
    path = file_of(tree, subset, what)
    damage(path)
    assert_found(doctor(tree, "--subsets", subset), kind, path)


@pytest.mark.parametrize(("kind", "subset", "row"), ROW_FAULTS)
def test_a_wrong_row_is_found(tree: Path, doctor: Callable, kind: str, subset: str, row: str):
    add_row(tree, subset, row)
    assert_found(doctor(tree, "--subsets", subset), kind, f"{meta(tree, subset)}:11")


def test_every_kind_is_tested():
    assert {fault[0] for fault in FILE_FAULTS + ROW_FAULTS} | OTHER_KINDS == set(KINDS)


@pytest.mark.parametrize(
    ("subset", "orphan"),
    [
        ("s4", "Single-source/s4_data/visual_frames/test/bell/stray_0"),
        ("ms3", "Multi-sources/ms3_data/gt_masks/val/stray_0"),
        ("ms3", "Multi-sources/ms3_data/audio_wav/val/stray_0.wav"),
        ("avss", "v2/stray_0"),
    ],
)
def test_what_the_csv_does_not_name_is_found(tree: Path, doctor: Callable, subset: str, orphan: str):
    path = subset_root(tree, subset) / orphan
    path.write_bytes(b"") if path.suffix else path.mkdir(parents=True)
    assert_found(doctor(tree, "--subsets", subset), "clip-orphan", path)


def test_a_log_mel_pickle_makes_up_for_the_audio(tree: Path, doctor: Callable):
    writes(pickle.dumps(torch.zeros(5, 1, 96, 64)))(file_of(tree, "s4", "log-mel"))
    assert doctor(tree, "--subsets", "s4")[1]["findings"] == []
    file_of(tree, "s4", "audio").unlink()
    assert_found(doctor(tree, "--subsets", "s4"), "audio-log-mel-only", file_of(tree, "s4", "audio"))


def test_a_source_video_in_two_splits_is_found(tree: Path, doctor: Callable):
    old = load_avsbench(tree, "ms3", "train")[0]
    new = LAYOUTS["ms3"].record(tree, video="ms3_train_0000_1", category="", split="test")
    pairs = [pair for key in ("file_names", "mask_file_names") for pair in zip(old[key], new[key], strict=True)]
    for source, target in [*pairs, (old["audio_file"], new["audio_file"])]:
        Path(target).parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    add_row(tree, "ms3", "ms3_train_0000_1,test")
    outcome = doctor(tree, "--subsets", "ms3")
    assert_found(outcome, "source-leak", f"{meta(tree, 'ms3')}:11")
    assert "ms3_train_0000, which has clips in train and test" in outcome[1]["findings"][0]["message"]


def test_clips_are_named_after_their_source_video():
    names = ["--KCIeTv6PM_14000_24000", "_19NVGk6Zt8_0", "--FenyW2i_4", "--FenyW2i_4_5000_10000", "ms3_train_0000_0"]
    expected = ["--KCIeTv6PM", "_19NVGk6Zt8", "--FenyW2i_4", "--FenyW2i_4", "ms3_train_0000"]
    assert [source_video(name) for name in names] == expected


def test_counts_are_compared_with_the_published_ones(tiny_datasets: Path, doctor: Callable):
    outcome = doctor(tiny_datasets / "AVSBench_object", "--subsets", "s4")
    assert_found(outcome, "counts-differ", tiny_datasets / "AVSBench_object" / LAYOUTS["s4"].meta)
    assert "4 of 3452 clips in train, 2 of 740 clips in val" in outcome[1]["findings"][0]["message"]
    assert outcome[1]["subsets"][0]["published"][""] == {"train": 3452, "val": 740, "test": 740}
    assert "2 of 3452 clips in v1s train" in str(doctor(tiny_datasets / "AVSBench_semantic")[1]["findings"])


def test_masks_of_any_two_values_are_binary(tree: Path, doctor: Callable):
    path = file_of(tree, "ms3", "mask")
    for damage in (paints(1, np.s_[:, :]), paints([0, 1, 1]), to_bits):
        damage(path)
        assert doctor(tree, "--subsets", "ms3")[1]["findings"] == []


def test_workers_find_the_same(tree: Path):
    one_each = {(subset, what): damage for _, subset, what, damage in FILE_FAULTS if what not in ("csv", "classes")}
    for (subset, what), damage in one_each.items():
        damage(file_of(tree, subset, what))
    alone = check_avsbench(tree).as_dict()
    assert alone["faults"] > 5
    assert check_avsbench(tree, workers=2).as_dict() == alone


def test_where_there_is_nothing_to_look_at(tree: Path, tmp_path: Path, run_here):
    done = run_here(TOOL, tmp_path / "empty")
    assert done.returncode == 2
    assert "empty holds no AVSBench: get AVSBench as datasets/README.md says" in done.stderr
    shutil.rmtree(tree / "Single-source")
    assert {found.subset for found in find_trees(tree)} == {"ms3", "avss"}
    with pytest.raises(AVSInputError, match="synthetic holds no s4"):
        find_trees(tree, ["s4", "ms3"])


def test_the_command_line(tree: Path, tmp_path: Path):
    missing = load_avsbench(tree, "ms3", "val")[0]["file_names"]
    for path in missing:
        Path(path).unlink()
    done = run_tool(TOOL, tree, "--workers", "2", "--json", tmp_path / "found.json", "--list")
    assert done.returncode == 1, done.stderr
    assert "27/27" in done.stderr
    assert f"fault frame-missing: {missing[4]} does not exist: extract the frames" in done.stdout
    assert "fault frame-missing: 5, hint: extract the frames of this clip, or remove" in done.stdout
    assert "and 2 more" in done.stdout
    assert done.stdout.endswith("27 clips checked: 5 faults, 0 warnings\n")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [finding["path"] for finding in found["findings"]] == missing
    assert found["subsets"][1]["clips"] == {"": {"train": 4, "val": 2, "test": 3}}
