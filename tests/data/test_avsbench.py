"""AVSBench trees and the mapper, on files."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from transavs import AVSInputError
from transavs.data.avsbench import LAYOUTS, SOURCES, load_avsbench, register_all_avsbench, subset_root
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.media.images import connected_objects, read_mask

AVSBENCH = SOURCES["avsbench"][1]


def make_mapper(is_train: bool, flip: bool = False, **changes: int) -> AVSDatasetMapper:
    augmentations = [T.Resize((20, 20)), *([T.RandomFlip(prob=1.0)] if flip else [])]
    options = {"image_format": "RGB", "num_classes": 2, "max_objects": 4, "score_size": 0} | changes
    return AVSDatasetMapper(augmentations=augmentations, is_train=is_train, **options)


def test_records_of_both_subsets(tiny_datasets: Path):
    root = tiny_datasets / "AVSBench_object"
    train = load_avsbench(root, "s4", "train")
    assert len(train) == 4
    assert all(record["labeled_frames"] == [0] and len(record["mask_file_names"]) == 1 for record in train)
    assert {len(record["file_names"]) for record in train} == {5}
    for subset in ("s4", "ms3"):
        for record in load_avsbench(root, subset, "test"):
            assert record["labeled_frames"] == [0, 1, 2, 3, 4]
            for path in (*record["file_names"], *record["mask_file_names"], record["audio_file"]):
                assert Path(path).is_file()


def test_registered_names_touch_the_disk_only_when_loaded(tmp_path: Path):
    names = {
        f"{source}_{subset}_{split}"
        for source in ("avsbench", "synthetic")
        for subset in ("s4", "ms3", "avss")
        for split in ("train", "val", "test")
    }
    assert names <= set(DatasetCatalog.list())
    assert {MetadataCatalog.get(name).evaluator_type for name in names} == {"avs"}
    with pytest.raises(AVSInputError, match="avsbench_s4_train is already registered: choose another name"):
        register_all_avsbench(tmp_path / "nowhere")


def test_a_missing_tree_is_named_with_its_mend(tmp_path: Path):
    with pytest.raises(AVSInputError, match=r"s4_meta_data\.csv does not exist: get AVSBench .*DETECTRON2_DATASETS"):
        load_avsbench(tmp_path, "s4", "train")


def test_a_broken_csv_is_named(tmp_path: Path):
    meta = tmp_path / "Multi-sources/ms3_meta_data.csv"
    meta.parent.mkdir()
    meta.write_text("video_id\na\n")
    with pytest.raises(AVSInputError, match=r"ms3_meta_data\.csv lacks the column \['split'\]"):
        load_avsbench(tmp_path, "ms3", "train")
    meta.write_text("video_id,split\na,train\n")
    with pytest.raises(AVSInputError, match="lists no clip with split 'val'"):
        load_avsbench(tmp_path, "ms3", "val")


def test_mapper_shapes(ms3_records: list[dict]):
    before = copy.deepcopy(ms3_records[0])
    train, test = make_mapper(True)(ms3_records[0]), make_mapper(False)(ms3_records[0])
    assert ms3_records[0] == before
    for clip in (train, test):
        assert (clip["images"].shape, clip["images"].dtype) == ((5, 3, 20, 20), torch.uint8)
        assert (clip["log_mel"].shape, clip["log_mel"].dtype) == ((5, 1, 96, 64), torch.float32)
        assert clip["labeled_frames"].tolist() == [0, 1, 2, 3, 4]
        assert (clip["height"], clip["width"]) == (40, 40)
        assert set(clip["masks"].unique().tolist()) <= {0, 1}
    assert train["masks"].shape == (5, 20, 20)
    assert test["masks"].shape == (5, 40, 40)
    assert torch.equal(test["masks"][1], torch.from_numpy(read_mask(before["mask_file_names"][1], "binary")))


def test_every_frame_and_mask_is_flipped_alike(ms3_records: list[dict]):
    plain, flipped = make_mapper(True)(ms3_records[0]), make_mapper(True, flip=True)(ms3_records[0])
    assert torch.equal(flipped["images"], plain["images"].flip(-1))
    assert torch.equal(flipped["masks"], plain["masks"].flip(-1))
    assert torch.equal(flipped["log_mel"], plain["log_mel"])


def test_training_draws_some_of_the_labeled_frames_with_their_own_masks(tiny_cfg, ms3_records: list[dict]):
    tiny_cfg.INPUT.RANDOM_FLIP, tiny_cfg.INPUT.TRAIN_FRAMES = "none", 0
    whole = AVSDatasetMapper(tiny_cfg, is_train=True)(ms3_records[0])
    tiny_cfg.INPUT.TRAIN_FRAMES = 2
    mapper, seen = AVSDatasetMapper(tiny_cfg, is_train=True), set()
    for seed in range(20):
        torch.manual_seed(seed)
        clip = mapper(ms3_records[0])
        frames = clip["labeled_frames"]
        assert frames.tolist() == sorted(set(frames.tolist()))
        for name in ("masks", "objects"):
            assert torch.equal(clip[name], whole[name][frames])
        assert torch.equal(clip["images"], whole["images"])
        seen.add(tuple(frames.tolist()))
    assert len(seen) > 5
    assert {len(frames) for frames in seen} == {2}
    assert len(AVSDatasetMapper(tiny_cfg, is_train=False)(ms3_records[0])["masks"]) == 5


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_masks_of_every_mode_read_alike(tmp_path: Path, mode: str):
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[2:4, 3:7] = 255
    image = Image.fromarray(mask)
    if mode == "P":
        image = Image.fromarray((mask > 0).astype(np.uint8))
        image.putpalette([0, 0, 0, 128, 0, 0])
    image.convert(mode).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(str(tmp_path / "mask.png"), "binary"), mask > 0)


def test_trees_under_the_names_of_other_projects(tiny_datasets: Path, tmp_path: Path):
    expected = {subset: load_avsbench(tiny_datasets / folder, subset, "test") for subset, folder in AVSBENCH.items()}
    (tmp_path / "AVSS").symlink_to(tiny_datasets / AVSBENCH["avss"])
    for name in ("Single-source", "Multi-sources"):
        (tmp_path / name).symlink_to(tiny_datasets / AVSBENCH["s4"] / name)
    for subset, folder in AVSBENCH.items():
        root = subset_root(tmp_path, folder, subset)
        found = load_avsbench(root, subset, "test")
        assert [record["video_id"] for record in found] == [record["video_id"] for record in expected[subset]]
        assert subset_root(tiny_datasets, folder, subset) == tiny_datasets / folder
        assert subset_root(tmp_path / "nowhere", folder, subset) == tmp_path / "nowhere" / folder


def test_colors_stand_for_classes_where_there_are_no_ids(tiny_datasets: Path, tmp_path: Path):
    root = Path(shutil.copytree(tiny_datasets / "synthetic/AVSBench_semantic", tmp_path / "AVSS"))
    by_ids = load_avsbench(root, "avss", "test")
    expected = [read_mask(path, "class_ids") for record in by_ids for path in record["mask_file_names"]]
    for folder in root.rglob("labels_semantic"):
        shutil.rmtree(folder)
    records = load_avsbench(root, "avss", "test")
    assert {record["mask_encoding"] for record in records} == {"palette"}
    found = [read_mask(path, "palette") for record in records for path in record["mask_file_names"]]
    assert max(mask.max() for mask in found) > 1
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)
    path = records[0]["mask_file_names"][0]
    colors = np.array(Image.open(path).convert("RGB"))
    colors[0, 0] = (1, 2, 3)
    Image.fromarray(colors).save(path)
    with pytest.raises(AVSInputError, match=r"0\.png cannot be read as a mask \(it has 1 colors .* such as #010203"):
        read_mask(path, "palette")


@pytest.mark.parametrize("mode", ["L", "P"])
def test_class_ids_are_read_as_they_are(tmp_path: Path, mode: str):
    ids = np.arange(48, dtype=np.uint8).reshape(6, 8)
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette(list(range(144)))
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(str(tmp_path / "mask.png"), "class_ids"), ids)
    Image.fromarray(ids).convert("RGB").save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(str(tmp_path / "mask.png"), "class_ids"), ids)
    Image.fromarray(np.dstack([ids, ids, 0 * ids])).save(tmp_path / "mask.png")
    with pytest.raises(AVSInputError, match=r"mask\.png cannot be read as a mask .*one channel.* colors in RGB"):
        read_mask(str(tmp_path / "mask.png"), "class_ids")


def test_objects_are_the_connected_parts_of_each_class_the_largest_first():
    mask = np.zeros((8, 8), dtype=np.int64)
    mask[0:4, 0:4] = 2
    mask[0:4, 4:6] = 1  # touches the first, of another class
    mask[6:8, 0:2] = 2
    mask[7, 7] = 1
    objects = connected_objects(mask, max_objects=3)
    expected = np.zeros((8, 8), dtype=np.int64)
    expected[0:4, 0:4], expected[0:4, 4:6], expected[6:8, 0:2] = 1, 2, 3  # the last pixel is one object too many
    assert np.array_equal(objects, expected)
    assert np.array_equal(connected_objects(mask, max_objects=9)[7, 7], 4)
    assert not connected_objects(np.zeros((4, 4), dtype=np.int64), max_objects=3).any()


def test_objects_in_a_clip(ms3_records: list[dict]):
    clip = make_mapper(True)(ms3_records[0])
    assert clip["objects"].shape == clip["masks"].shape == (5, 20, 20)
    assert torch.equal(clip["objects"] > 0, clip["masks"] > 0)
    assert "objects" not in make_mapper(False)(ms3_records[0])


def test_masks_are_scored_at_a_size_of_choice(ms3_records: list[dict]):
    own, chosen = make_mapper(False)(ms3_records[0]), make_mapper(False, score_size=10)(ms3_records[0])
    assert (chosen["height"], chosen["width"]) == (10, 10)
    assert chosen["masks"].shape == (5, 10, 10)
    assert torch.equal(chosen["images"], own["images"])
    assert chosen["masks"].float().mean() == pytest.approx(own["masks"].float().mean().item(), abs=0.03)


def test_avss_clips_differ_in_length_and_labels(tiny_datasets: Path):
    mapper = make_mapper(True, num_classes=7)
    records = load_avsbench(tiny_datasets / "AVSBench_semantic", "avss", "train")
    for record in records:
        clip = mapper(record)
        frames = 10 if record["video_id"].startswith("v2/") else 5
        assert len(clip["images"]) == len(clip["log_mel"]) == frames
        labels = 1 if record["video_id"].startswith("v1s/") else frames
        assert len(clip["masks"]) == len(clip["labeled_frames"]) == labels
    with pytest.raises(AVSInputError, match=r"labels_semantic/\d\.png holds class \d and the model knows 0 to 1: "):
        [make_mapper(True)(record) for record in records]


def test_class_names_follow_the_order_of_the_file(tiny_datasets: Path, tmp_path: Path):
    layout = LAYOUTS["avss"]
    assert layout.read_class_names(tiny_datasets / "AVSBench_semantic")[:3] == ["background", "bell", "bird"]
    (tmp_path / "label2idx.json").write_text('{"background": 1, "zebra": 2, "ant": 3}')
    assert layout.read_class_names(tmp_path) == ["background", "zebra", "ant"]
    (tmp_path / "label2idx.json").write_text("[1")
    with pytest.raises(AVSInputError, match=r"label2idx\.json does not list the classes .*: restore the file"):
        layout.read_class_names(tmp_path)
    assert LAYOUTS["s4"].read_class_names(tmp_path) == ["background", "sounding"]


def write_meta(root: Path, subset: str, rows: list[str], header: str = "") -> Path:
    meta = root / LAYOUTS[subset].meta
    meta.parent.mkdir(parents=True, exist_ok=True)
    meta.write_text("\n".join([header or ",".join(LAYOUTS[subset].columns), *rows]) + "\n")
    return meta


def ids_of(root: Path, subset: str, split: str) -> list[str]:
    return [record["video_id"] for record in load_avsbench(root, subset, split)]


def test_a_clips_id_is_what_its_paths_are_made_of(tmp_path: Path):
    rows = {
        "s4": ["001,0,cat,test", "001,0,dog,test", "001,0,dog,train"],
        "ms3": ["001,test", "002,test", "001,train"],
        "avss": ["v,001,0,0,cat,test,v1s", "v,001,0,0,cat_dog,test,v2", "v,002,0,0,cat,train,v2"],
    }
    expected = {"s4": ["cat/001", "dog/001"], "ms3": ["001", "002"], "avss": ["v1s/001", "v2/001"]}
    for subset, lines in rows.items():
        write_meta(tmp_path, subset, lines)
        records = load_avsbench(tmp_path, subset, "test")
        assert [record["video_id"] for record in records] == expected[subset]
        files = [path for record in records for path in record["file_names"]]
        assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    ("subset", "rows", "again"),
    [
        ("s4", ["a,0,dog,test", "b,0,dog,test", "a,9,dog,test"], "dog/a"),
        ("ms3", ["a,test", "b,test", " a ,Test"], "a"),
        ("avss", ["v,a,0,0,dog,test,v2", "v,a,0,0,dog,test,v1s", "w,a,0,0,cat,test,v2"], "v2/a"),
    ],
)
def test_a_clip_that_is_listed_twice_is_refused(tmp_path: Path, subset: str, rows: list[str], again: str):
    meta = write_meta(tmp_path, subset, rows)
    with pytest.raises(AVSInputError) as error:
        load_avsbench(tmp_path, subset, "test")
    assert str(error.value).startswith(f"{meta} line 4 lists the clip '{again}' again, as line 2: ")


def test_splits_are_taken_as_they_are_meant(tmp_path: Path):
    write_meta(tmp_path, "ms3", ["a,train ", "b,Train", " c,TRAIN", "d,train", "", ",", "e, test"], " Video_ID , Split")
    assert ids_of(tmp_path, "ms3", "train") == list("abcd")
    assert ids_of(tmp_path, "ms3", "test") == ["e"]
    write_meta(tmp_path, "avss", ["v, a ,0,0, dog , train,V2 "])
    (record,) = load_avsbench(tmp_path, "avss", "train")
    assert (record["video_id"], record["category"], len(record["file_names"])) == ("v2/a", "dog", 10)


@pytest.mark.parametrize("row", ["x,trian", "x,valid", "x,testing", "x,", "x"])
def test_an_unknown_split_is_refused_whatever_split_is_loaded(tmp_path: Path, row: str):
    meta = write_meta(tmp_path, "ms3", ["a,train", "", row, "b,test"])
    for split in ("train", "test"):
        with pytest.raises(AVSInputError, match=r"has the split .* \(expected train, val, test\)") as error:
            load_avsbench(tmp_path, "ms3", split)
        assert str(error.value).startswith(f"{meta} line 4 ")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_class_names_in_any_encoding_of_an_editor(tmp_path: Path, encoding: str):
    (tmp_path / "label2idx.json").write_text('{"background": 0, "käfer": 1}', encoding=encoding)
    assert LAYOUTS["avss"].read_class_names(tmp_path) == ["background", "käfer"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"zebra": 2, "background": 0, "ant": 1}', ["background", "ant", "zebra"]),
        ('{"zebra": 3, "background": 1, "ant": 2}', ["background", "ant", "zebra"]),
        ('{"background": 0, "zebra": 5, "ant": 9}', ["background", "zebra", "ant"]),
        ('{"background": "black", "zebra": "red"}', ["background", "zebra"]),
        ('{"background": 0, "zebra": 9, "ant": 5}', "neither in order nor"),
        ('{"background": 0, "ant": 1, "ant": 2}', "a name stands there twice"),
        ('[["background", 0], ["ant", 1]]', "it is no JSON object"),
        ('{"background": 0, "ant": 1', "does not list the classes"),
    ],
)
def test_numbers_of_classes_decide_where_they_can(tmp_path: Path, text: str, expected: list[str] | str):
    (tmp_path / "label2idx.json").write_text(text)
    if isinstance(expected, list):
        assert LAYOUTS["avss"].read_class_names(tmp_path) == expected
        return
    with pytest.raises(AVSInputError, match=rf"label2idx\.json .*{expected}") as error:
        LAYOUTS["avss"].read_class_names(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def record(ms3_records: list[dict], tmp_path: Path) -> dict:
    """A record whose files may be broken."""
    changed = copy.deepcopy(ms3_records[0])
    for name in ("file_names", "mask_file_names"):
        folder = tmp_path / name
        folder.mkdir()
        changed[name] = [shutil.copy(path, folder) for path in changed[name]]
    changed["audio_file"] = shutil.copy(changed["audio_file"], tmp_path)
    return changed


@pytest.mark.parametrize("name", ["file_names", "mask_file_names"])
def test_a_picture_that_is_none(record: dict, name: str):
    path = Path(record[name][2])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(AVSInputError, match=f"{path.name} cannot be read as an? (image|mask) .*: (extract|restore)"):
        make_mapper(True, strict=True)(record)
    path.unlink()
    with pytest.raises(AVSInputError, match=f"{path.name} does not exist: "):
        make_mapper(True, strict=True)(record)


def test_sizes_that_differ(record: dict):
    mask = Path(record["mask_file_names"][3])
    Image.open(mask).resize((30, 40)).save(mask)
    with pytest.raises(AVSInputError, match=f"{mask.name} is 30 x 40 pixels and its frame 40 x 40: "):
        make_mapper(False, strict=True)(record)
    frame = Path(record["file_names"][4])
    Image.open(frame).resize((40, 20)).save(frame)
    with pytest.raises(AVSInputError, match=f"{frame.name} is 40 x 20 pixels and the first frame of its clip 40 x 40"):
        make_mapper(False)(record)


def test_a_missing_wav(record: dict):
    Path(record["audio_file"]).unlink()
    with pytest.raises(AVSInputError, match=r"\.wav does not exist: extract"):
        make_mapper(True)(record)
