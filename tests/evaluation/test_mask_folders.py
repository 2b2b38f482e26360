"""Masks scored from folders: the evaluator's numbers, and one clear line for what is wrong."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import torch
from helpers.repository import run_tool
from PIL import Image
from pycocotools.coco import COCO
from torch.nn import functional as F

from transavs import AVSInputError
from transavs.data.avsbench import load_avsbench
from transavs.evaluation import AVSEvaluator
from transavs.evaluation.mask_folders import read_probability_map, score_mask_folders
from transavs.evaluation.prediction_writer import FORMATS, PredictionWriter
from transavs.media.images import read_mask

BINARY = ["background", "sounding"]


def write_predictions(records: list[dict], gt: Path, pred: Path, classes: int) -> dict[str, float]:
    """Gray levels, or class ids, of a bad model; returns what the evaluator says of them."""
    rng = np.random.default_rng(0)
    evaluator = AVSEvaluator([str(c) for c in range(classes)])
    for record in records:
        masks, outputs = [], []
        for path in record["mask_file_names"]:
            mask = read_mask(path, record["mask_encoding"])
            if classes == 2:
                levels = (0.6 * 255 * mask + 0.4 * 255 * rng.random(mask.shape)).astype(np.uint8)
                outputs.append(torch.from_numpy(np.stack([1 - levels / 255, levels / 255])).float())
            else:
                levels = np.where(rng.random(mask.shape) < 0.8, mask, rng.integers(0, classes, mask.shape))
                outputs.append(torch.nn.functional.one_hot(torch.from_numpy(levels), classes).permute(2, 0, 1).float())
            target = pred / Path(path).relative_to(gt)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels.astype(np.uint8)).save(target)
            masks.append(torch.from_numpy(mask))
        clip = {"video_id": record["video_id"], "category": record["category"], "masks": torch.stack(masks)}
        clip["labeled_frames"] = torch.arange(len(masks))
        evaluator.process([clip], [{"sem_seg": torch.stack(outputs)}])
    return evaluator.evaluate()["sem_seg"]


@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_gray_levels_score_as_the_evaluator_scores_them(tiny_datasets: Path, tmp_path: Path, subset: str):
    records = load_avsbench(tiny_datasets / "synthetic", subset, "test")
    gt = next(p for p in Path(records[0]["mask_file_names"][0]).parents if p.name == "test")
    expected = write_predictions(records, gt, tmp_path / "pred", 2)
    found = score_mask_folders(tmp_path / "pred", gt, subset, BINARY)
    assert found == pytest.approx(expected, abs=1e-6)
    assert ("J-" + records[0]["category"] in found) is (subset == "s4")
    if subset == "ms3":
        options = ("--pred", tmp_path / "pred", "--gt", gt, "--setting", subset, "--json", tmp_path / "out.json")
        done = run_tool("tools/score_masks.py", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "out.json").read_text()) == found
        assert f"{expected['J']:.1f}" in done.stdout


def test_class_ids_score_as_the_evaluator_scores_them(tiny_datasets: Path, tmp_path: Path):
    root = tiny_datasets / "synthetic/AVSBench_semantic"
    records = [r for r in load_avsbench(root, "avss", "test") if r["video_id"].startswith("v2/")]
    gt = root / "v2"
    expected = write_predictions(records, gt, tmp_path / "pred", 7)
    only = tmp_path / "gt"
    for record in records:
        for path in map(Path, record["mask_file_names"]):
            (only / path.relative_to(gt)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, only / path.relative_to(gt))
    found = score_mask_folders(tmp_path / "pred", only, "avss", [str(c) for c in range(7)])
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0 < found["mIoU"] < 100


def test_the_tool_scores_one_split_of_a_tree_that_holds_all(tiny_datasets: Path, tmp_path: Path):
    root = tiny_datasets / "synthetic/AVSBench_semantic"
    records = load_avsbench(root, "avss", "test")
    expected = write_predictions(records, root, tmp_path / "pred", 7)
    options = (
        "--gt",
        root,
        "--setting",
        "avss",
        "--dataset",
        root,
        "--split",
        "test",
        "--json",
        tmp_path / "found.json",
    )
    done = run_tool("tools/score_masks.py", "--pred", tmp_path / "pred", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "found.json").read_text())["mIoU"] == pytest.approx(expected["mIoU"])


@pytest.mark.parametrize(("subset", "classes"), [("ms3", 2), ("avss", 7)])
def test_written_predictions_score_as_they_did(tiny_datasets: Path, tmp_path: Path, subset: str, classes: int):
    """What an evaluation keeps is scored again from the files; scores to the 255 levels of a file."""
    torch.manual_seed(0)
    root = tiny_datasets / "synthetic" / ("AVSBench_semantic" if subset == "avss" else "")
    records, gt = load_avsbench(root, subset, "test"), tmp_path / "gt"
    names = [str(c) for c in range(classes)]
    evaluators = AVSEvaluator(names), PredictionWriter(tmp_path, FORMATS, names)
    for evaluator in evaluators:
        evaluator.reset()
    for record in records:
        for path in map(Path, record["mask_file_names"]):  # the tree of AVSS holds all splits
            target = gt / path.relative_to(record["mask_root"])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        masks = [torch.from_numpy(read_mask(path, record["mask_encoding"])) for path in record["mask_file_names"]]
        clip = record | {"masks": torch.stack(masks), "labeled_frames": torch.tensor(record["labeled_frames"])}
        sem_seg = torch.rand(len(record["file_names"]), classes, *masks[0].shape).softmax(1)
        for evaluator in evaluators:
            evaluator.process([clip], [{"sem_seg": sem_seg}])
    expected = evaluators[0].evaluate()["sem_seg"]
    evaluators[1].evaluate()
    found = score_mask_folders(tmp_path / "png", gt, subset, names)
    assert found["J"] == pytest.approx(expected["J"], abs=1e-4)
    if subset == "ms3":
        assert score_mask_folders(tmp_path / "probabilities", gt, subset, names)["F"] == pytest.approx(
            expected["F"], abs=0.5
        )
    else:
        assert found["mIoU"] == pytest.approx(expected["mIoU"], abs=1e-4)
    codes = json.loads((tmp_path / "predictions.json").read_text())
    assert {code["video_id"] for code in codes} == {record["video_id"] for record in records}
    for code in codes[::7]:
        written = read_mask(str(tmp_path / "png" / code["file_name"]), "class_ids")
        value = 255 if subset == "ms3" else code["category_id"]
        assert (pycocotools.mask.decode(code["segmentation"]) == (written == value)).all()


@pytest.mark.parametrize(("subset", "classes"), [("s4", 2), ("avss", 7)])
def test_the_coco_data_set_holds_what_was_predicted(tiny_datasets: Path, tmp_path: Path, subset: str, classes: int):
    """By pycocotools, against the masks themselves; the images are found below one folder."""
    root = tiny_datasets / "synthetic" / ("AVSBench_semantic" if subset == "avss" else "")
    names = ["background", *(f"class {number}" for number in range(1, classes))]
    writer, predicted = PredictionWriter(tmp_path, ["coco"], names), {}
    writer.reset()
    records = load_avsbench(root, subset, "test")
    for number, record in enumerate(records):
        masks = torch.randint(classes, (len(record["file_names"]), 12, 18), generator=torch.manual_seed(number))
        masks[0] = 0  # where nothing sounds
        clip = record | {"labeled_frames": torch.tensor(record["labeled_frames"])}
        writer.process([clip], [{"sem_seg": F.one_hot(masks, classes).permute(0, 3, 1, 2).float()}])
        predicted |= {(record["video_id"], frame): masks[frame].numpy() for frame in record["labeled_frames"]}
    writer.evaluate()
    coco = COCO(str(tmp_path / "coco.json"))
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == names[1:]
    paths = {(record["video_id"], frame): path for record in records for frame, path in enumerate(record["file_names"])}
    folder = Path(os.path.commonpath([Path(paths[key]).parent for key in predicted]))
    images = coco.loadImgs(coco.getImgIds())
    assert [folder / image["file_name"] for image in images] == [
        Path(paths[image["video_id"], image["frame"]]) for image in images
    ]
    for image in images:
        found = np.zeros((image["height"], image["width"]), dtype=np.int64)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            corner = [columns.min(), rows.min()]
            assert annotation["bbox"] == [*corner, np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["area"] == mask.sum()
            found[mask] = annotation["category_id"]
        np.testing.assert_array_equal(found, predicted.pop((image["video_id"], image["frame"])))
    assert not predicted


def test_predictions_have_no_such_form(tmp_path: Path):
    with pytest.raises(AVSInputError, match=r"SAVE_PREDICTIONS holds \['gif'\]: choose from rle"):
        PredictionWriter(tmp_path, ["png", "gif"], ["background", "sounding"])


def test_binary_files_need_no_white(tmp_path: Path):
    mask = np.array([[0, 1], [1, 1]], dtype=np.uint8)
    for name, image in {
        "ones": Image.fromarray(mask),
        "white": Image.fromarray(mask * 255),
        "bits": Image.fromarray(mask * 255).convert("1"),
        "palette": Image.fromarray(mask).convert("P"),
    }.items():
        image.save(tmp_path / f"{name}.png")
        assert read_probability_map(str(tmp_path / f"{name}.png")).tolist() == mask.tolist(), name


def test_hidden_files_are_no_masks_and_suffixes_may_be_capital(tmp_path: Path):
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:4] = 255
    for folder in ("pred/clip", "gt/clip", "gt/.cache"):
        (tmp_path / folder).mkdir(parents=True)
    for path, levels in {"gt/clip/0.png": mask, "gt/clip/1.PNG": mask, "pred/clip/0.png": mask}.items():
        Image.fromarray(levels).save(tmp_path / path)
    Image.fromarray(255 - mask).save(tmp_path / "pred/clip/1.PNG")
    (tmp_path / "gt/clip/._0.png").write_bytes(b"of a Mac")
    (tmp_path / "gt/.cache/0.png").write_bytes(b"of a tool")
    assert score_mask_folders(tmp_path / "pred", tmp_path / "gt", "ms3", BINARY)["J"] == pytest.approx(50, abs=1e-3)


def test_one_size_for_both(tmp_path: Path):
    for folder, size in (("pred", 10), ("gt", 20)):
        (tmp_path / folder / "clip").mkdir(parents=True)
        image = np.zeros((size, size), dtype=np.uint8)
        image[: size // 2] = 255
        Image.fromarray(image).save(tmp_path / folder / "clip/1.png")
    with pytest.raises(AVSInputError, match=r"1\.png is 10 x 10 pixels and its ground truth 20 x 20: .*--size"):
        score_mask_folders(tmp_path / "pred", tmp_path / "gt", "ms3", BINARY)
    assert score_mask_folders(tmp_path / "pred", tmp_path / "gt", "ms3", BINARY, size=20)["J"] == pytest.approx(100)


def test_what_is_missing_or_broken_is_named(run_here, tmp_path: Path):
    (tmp_path / "gt/clip").mkdir(parents=True)
    with pytest.raises(AVSInputError, match="gt holds no PNG file of ms3"):
        score_mask_folders(tmp_path / "pred", tmp_path / "gt", "ms3", BINARY)
    for k in (1, 2):
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / f"gt/clip/{k}.png")
    with pytest.raises(AVSInputError, match=r"2 predictions are missing, the first is .*pred/clip/1\.png"):
        score_mask_folders(tmp_path / "pred", tmp_path / "gt", "ms3", BINARY)
    shutil.copytree(tmp_path / "gt", tmp_path / "pred")
    (tmp_path / "pred/clip/2.png").write_bytes(b"nonsense")
    done = run_here("tools/score_masks.py", "--pred", tmp_path / "pred", "--gt", tmp_path / "gt", "--setting", "ms3")
    assert done.returncode == 2
    assert f"{tmp_path}/pred/clip/2.png cannot be read as a mask" in done.stderr.splitlines()[-1]
