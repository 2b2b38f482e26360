"""Data sets of one's own: registered by name, and the example of datasets/README.md from videos to a trained model."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.repository import REPOSITORY, TINY_MODEL, run_tool
from helpers.videos import make_video

from transavs import AVSInputError
from transavs.data import AVSDatasetMapper, register_avs_dataset
from transavs.data.avsbench import SOURCES, load_avsbench

SPLITS = {"train": ("a", "b"), "val": ("c",), "test": ("d",)}


def example() -> tuple[list[str], str]:
    """The commands and the module that datasets/README.md shows."""
    text = (REPOSITORY / "datasets/README.md").read_text().partition("## Your own videos")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines()], code


@pytest.fixture
def own_names() -> Iterator[None]:
    """What the test registers is gone after it."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder holds one of videos with masks, each white in a corner of its own size."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{video},{split}" for split, videos in SPLITS.items() for video in videos]
    for row in rows:
        video, split = row.split(",")
        folder = Path(f"kitchen/Multi-sources/ms3_data/gt_masks/{split}/{video}")
        folder.mkdir(parents=True)
        Path("kitchen/videos").mkdir(exist_ok=True)
        make_video(Path(f"kitchen/videos/{video}.mp4"), seconds=5, size=(48, 64), frame_rate=8)
        for k in range(1, 6):
            mask = np.zeros((48, 64), np.uint8)
            mask[: 6 * k, : 5 * k] = 255
            cv2.imwrite(str(folder / f"{video}_{k}.png"), mask)
    Path("kitchen/clips.csv").write_text("\n".join(["video_id,split", *rows]) + "\n")
    return tmp_path


def prepare(run_here) -> str:
    """Follow the example up to the training, whose command is returned."""
    commands, code = example()
    *preparation, training = commands
    for command in preparation:
        python, tool, *arguments = shlex.split(command)
        assert python == "python"
        done = run_here(tool, "--workers", 1, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    Path("my_data.py").write_text(code)
    return training


def test_the_example_makes_a_data_set(kitchen: Path, own_names: None, run_here, tiny_cfg, monkeypatch):
    training = prepare(run_here)
    monkeypatch.syspath_prepend(kitchen)
    (module,) = re.findall(r"--import (\w+)", training)
    importlib.import_module(module)
    for split, videos in SPLITS.items():
        name = f"kitchen_{split}"
        assert f'("{name}",)' in training
        assert MetadataCatalog.get(name).evaluator_type == "avs"
        records = DatasetCatalog.get(name)
        assert [record["video_id"] for record in records] == list(videos)
        assert MetadataCatalog.get(name).stuff_classes == ["background", "sounding"]
        clip = AVSDatasetMapper(tiny_cfg, is_train=False)(records[0])
        assert clip["images"].shape == (5, 3, 32, 32)
        assert clip["masks"].sum((1, 2)).tolist() == [30 * k**2 for k in range(1, 6)]


@pytest.mark.slow
def test_the_example_trains(kitchen: Path, run_here):
    _, tool, *arguments = shlex.split(prepare(run_here))
    small = (*TINY_MODEL, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(kitchen / "out"), "TEST.EVAL_PERIOD", "2")
    code = f"import os, runpy, sys; os.chdir({str(kitchen)!r}); sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = run_tool("-c", code, REPOSITORY / tool, *arguments, *small)
    assert done.returncode == 0, done.stderr
    assert (kitchen / "out/results.json").is_file()


def test_a_registered_tree_has_the_records_of_its_layout(tiny_datasets: Path, own_names: None):
    for layout, folder in SOURCES["photos"][1].items():
        register_avs_dataset(f"mine_{layout}", tiny_datasets / folder, layout)
        for split in ("train", "val", "test"):
            found = DatasetCatalog.get(f"mine_{layout}_{split}")
            assert found == load_avsbench(tiny_datasets / folder, layout, split)
            assert len(MetadataCatalog.get(f"mine_{layout}_{split}").stuff_classes) == (2 if layout != "avss" else 7)


def test_what_sounds_is_read_from_another_tree(tiny_datasets: Path, own_names: None, catalog_of):
    """As the package's own names do it: MS3's csv names no classes."""
    folders = SOURCES["avsbench"][1]
    register_avs_dataset("bare", tiny_datasets / folders["ms3"], "ms3")
    register_avs_dataset("full", tiny_datasets / folders["ms3"], "ms3", sounds_root=tiny_datasets / folders["avss"])
    catalog_of(tiny_datasets)
    assert DatasetCatalog.get("full_test") == DatasetCatalog.get("avsbench_ms3_test")
    assert DatasetCatalog.get("bare_test") == load_avsbench(tiny_datasets / folders["ms3"], "ms3", "test")


def test_what_cannot_be_registered_is_told(tmp_path: Path, own_names: None):
    with pytest.raises(AVSInputError, match="there is no layout 's5': choose from s4, ms3, avss"):
        register_avs_dataset("mine", tmp_path, "s5")
    register_avs_dataset("mine", tmp_path, "s4")
    with pytest.raises(AVSInputError, match="mine_train is already registered: choose another name"):
        register_avs_dataset("mine", tmp_path, "ms3")
    with pytest.raises(AVSInputError, match=r"s4_meta_data\.csv does not exist: correct the root that .* with$"):
        DatasetCatalog.get("mine_train")
