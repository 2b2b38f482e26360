"""Decoded clips that are kept on disk change nothing but the time that loading takes."""

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.utils.events import EventStorage
from PIL import Image

from transavs import AVSInputError
from transavs.data import AVSDatasetMapper
from transavs.data import dataset_mapper as mapper_module
from transavs.data.audio_conditions import NEGATIVE_AUDIO, NegativeAudio, apply_audio_condition
from transavs.data.avsbench import load_avsbench
from transavs.engine import AVSTrainer
from transavs.utils.tensor_cache import TensorCache


@pytest.fixture
def own_records(tiny_datasets: Path, tmp_path: Path) -> list[dict]:
    """Records whose files may be changed."""
    root = Path(shutil.copytree(tiny_datasets / "synthetic/Multi-sources", tmp_path / "tree/Multi-sources")).parent
    return load_avsbench(root, "ms3", "test")


@pytest.fixture
def folder(tiny_cfg, tmp_path: Path) -> Path:
    tiny_cfg.INPUT.RANDOM_FLIP = "horizontal"
    tiny_cfg.INPUT.SCALE_JITTER, tiny_cfg.INPUT.COLOR_JITTER = [0.5, 2.0], 0.4
    tiny_cfg.DATALOADER.CLIP_CACHE = str(tmp_path / "clips")
    return tmp_path / "clips"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The frames and masks that have been decoded; clear it to count anew."""
    paths: list[str] = []

    def counted(function: Callable) -> Callable:
        return lambda path, *arguments: (paths.append(path), function(path, *arguments))[1]

    for name in ("read_frame", "read_mask"):
        monkeypatch.setattr(mapper_module, name, counted(getattr(mapper_module, name)))
    return paths


def uncached(cfg) -> object:
    cfg = cfg.clone()
    cfg.DATALOADER.CLIP_CACHE = ""
    return cfg


def load(mapper: AVSDatasetMapper, records: list[dict], epochs: int = 3) -> list[dict]:
    np.random.seed(5)  # noqa: NPY002  what detectron2's augmentations draw from
    torch.manual_seed(5)
    return [mapper(record) for _ in range(epochs) for record in records]


def assert_equal(found: list[dict], expected: list[dict]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, torch.Tensor):
                assert one[name].dtype == value.dtype, name
                assert torch.equal(one[name], value), name
            else:
                assert one[name] == value, name


@pytest.mark.parametrize("negative", [False, True])
def test_training_clips_are_equal_to_the_bit(
    tiny_cfg, folder: Path, ms3_records: list[dict], decoded: list[str], negative: bool
):
    for record in ms3_records:
        record["sounds"] = record["in_view"] = [record["video_id"]]
    negative_audio = NegativeAudio(ms3_records, sorted(NEGATIVE_AUDIO), 0.5) if negative else None
    expected = load(AVSDatasetMapper(uncached(tiny_cfg), True, negative_audio), ms3_records)
    mapper = AVSDatasetMapper(tiny_cfg, True, negative_audio)
    assert_equal(load(mapper, ms3_records), expected)
    first = [clip["images"] for clip in expected[::3]]
    assert any(not torch.equal(first[0], other) for other in first[1:])  # some are flipped, others not
    assert any(not clip["masks"].any() for clip in expected) is negative
    load(AVSDatasetMapper(tiny_cfg, True), ms3_records, 1)
    assert len(list(folder.iterdir())) == len(ms3_records)  # nothing is kept of negative audio
    decoded.clear()
    assert_equal(load(mapper, ms3_records), expected)
    tiny_cfg.INPUT.SCALE_JITTER, tiny_cfg.INPUT.COLOR_JITTER = [1.0, 1.0], 0.0
    load(AVSDatasetMapper(tiny_cfg, True), ms3_records)
    assert decoded == []  # clips are kept as they are before any augmentation


@pytest.mark.parametrize("score_size", [0, 16])
def test_test_clips_are_equal_to_the_bit_under_every_condition(
    tiny_cfg, folder: Path, ms3_records: list[dict], decoded: list[str], score_size: int
):
    tiny_cfg.TEST.SCORE_SIZE = score_size
    load(AVSDatasetMapper(tiny_cfg, True), ms3_records, 1)  # training's clips are in the same folder
    conditions = ("true", "shuffled", "silence", "noise")
    records = [record for name in conditions for record in apply_audio_condition(ms3_records, name)]
    expected = load(AVSDatasetMapper(uncached(tiny_cfg), False), records, 1)
    assert_equal(load(AVSDatasetMapper(tiny_cfg, False), records, 1), expected)
    decoded.clear()
    assert_equal(load(AVSDatasetMapper(tiny_cfg, False), records, 1), expected)
    assert decoded == []


def test_clips_of_classes_and_several_lengths(tiny_cfg, folder: Path, tiny_datasets: Path):
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 71
    records = load_avsbench(tiny_datasets / "AVSBench_semantic", "avss", "train")
    expected = load(AVSDatasetMapper(uncached(tiny_cfg), True), records)
    assert_equal(load(AVSDatasetMapper(tiny_cfg, True), records), expected)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    with pytest.raises(AVSInputError, match=r"holds class \d+ and the model knows 0 to 1: "):
        load(AVSDatasetMapper(tiny_cfg, True), records)


def test_losses_of_a_training_run_are_equal(tiny_cfg, folder: Path, tiny_catalog: None, tmp_path: Path):
    tiny_cfg.merge_from_list(["SOLVER.MAX_ITER", 4, "OUTPUT_DIR", str(tmp_path), "INPUT.NEGATIVE_AUDIO_PROB", 0.3])
    tiny_cfg.INPUT.NEGATIVE_AUDIO = ["silence", "noise"]  # so few clips may have no other that fits

    def losses(cfg) -> list[float]:
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        trainer = AVSTrainer(cfg)
        with EventStorage() as storage:
            for trainer.iter in range(cfg.SOLVER.MAX_ITER):
                trainer.run_step()
                storage.step()
            return [value for value, _ in storage.history("total_loss").values()]

    expected = losses(uncached(tiny_cfg))
    assert len(set(expected)) == 4
    assert losses(tiny_cfg) == expected  # fills the cache
    assert losses(tiny_cfg) == expected
    assert len(list(folder.iterdir())) >= 2


@pytest.mark.parametrize("source", ["file_names", "mask_file_names", "audio_file"])
def test_a_changed_file_is_seen(tiny_cfg, folder: Path, own_records: list[dict], source: str):
    mapper, plain = AVSDatasetMapper(tiny_cfg, False), AVSDatasetMapper(uncached(tiny_cfg), False)
    record, other = own_records[:2]
    before = mapper(record)
    if source == "audio_file":
        target = Path(record[source])
        shutil.copyfile(other[source], target)
    else:
        target = Path(record[source][1])
        image = Image.open(target)
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).rotate(90).save(target)
    time.sleep(0.01)
    os.utime(target)
    after = mapper(record)
    assert_equal([after], [plain(record)])
    name = {"file_names": "images", "mask_file_names": "masks", "audio_file": "log_mel"}[source]
    assert not torch.equal(before[name], after[name])


def test_a_changed_setting_is_seen(tiny_cfg, folder: Path, ms3_records: list[dict]):
    mapper = AVSDatasetMapper(tiny_cfg, True)
    mapper(ms3_records[0])
    for change in (["INPUT.IMAGE_SIZE", 24], ["INPUT.FORMAT", "BGR"], ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 300]):
        tiny_cfg.merge_from_list(change)
        expected = load(AVSDatasetMapper(uncached(tiny_cfg), True), ms3_records[:1], 1)
        assert_equal(load(AVSDatasetMapper(tiny_cfg, True), ms3_records[:1], 1), expected)


@pytest.mark.parametrize("name", ["file_names", "mask_file_names", "audio_file"])
@pytest.mark.parametrize("cached_before", [False, True])
def test_errors_are_those_without_a_cache(
    tiny_cfg, folder: Path, own_records: list[dict], name: str, cached_before: bool
):
    record, tiny_cfg.DATALOADER.STRICT = own_records[0], True
    mapper, plain = AVSDatasetMapper(tiny_cfg, True), AVSDatasetMapper(uncached(tiny_cfg), True)
    if cached_before:
        mapper(record)
    path = Path(record[name] if name == "audio_file" else record[name][2])

    def message(of: AVSDatasetMapper) -> str:
        with pytest.raises(AVSInputError) as caught:
            of(record)
        return str(caught.value)

    path.write_bytes(path.read_bytes()[:60])
    assert path.name in message(plain)
    assert message(mapper) == message(plain)
    path.unlink()
    assert "does not exist" in message(plain)
    assert message(mapper) == message(plain)
    if name == "mask_file_names":
        Image.new("L", (30, 40)).save(path)
        assert "is 30 x 40 pixels" in message(plain)
        assert message(mapper) == message(plain)


def test_a_missing_wav_does_no_harm_where_other_audio_takes_its_place(tiny_cfg, folder: Path, own_records: list[dict]):
    Path(own_records[0]["audio_file"]).unlink()
    silent = NegativeAudio(own_records, ["silence"], 1.0)
    expected = load(AVSDatasetMapper(uncached(tiny_cfg), True, silent), own_records)
    assert_equal(load(AVSDatasetMapper(tiny_cfg, True, silent), own_records), expected)


def broken_contents(good: bytes, other: bytes) -> list[bytes]:
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    return [b"", good[:3], good[: len(good) // 2], good[:-1], good + b"x", other, b"\0" * len(good), bytes(flipped)]


def test_a_broken_or_foreign_file_is_written_again_with_one_warning(
    tiny_cfg, folder: Path, ms3_records: list[dict], decoded: list[str], logged: pytest.LogCaptureFixture
):
    mapper = AVSDatasetMapper(tiny_cfg, False)
    expected = mapper(ms3_records[0])
    (path,) = folder.iterdir()
    good = path.read_bytes()
    mapper(ms3_records[1])
    (second,) = set(folder.iterdir()) - {path}
    with logged.at_level(logging.WARNING, "transavs"):
        for content in broken_contents(good, second.read_bytes()):
            path.write_bytes(content)
            decoded.clear()
            assert_equal([mapper(ms3_records[0])], [expected])
            assert decoded
            assert path.read_bytes() == good
    assert [record.message for record in logged.records] == [
        f"{path} is broken or foreign: what it should hold is computed and written again"
    ]


def test_a_folder_that_cannot_be_made(tiny_cfg, folder: Path):
    folder.write_text("a file")
    with pytest.raises(AVSInputError, match=r"^DATALOADER\.CLIP_CACHE: the folder .*clips cannot be used .*: name ano"):
        AVSDatasetMapper(tiny_cfg, True)


def test_a_full_disk_is_said_once_and_loading_goes_on(
    tiny_cfg, folder: Path, ms3_records: list[dict], decoded: list[str], logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    mapper = AVSDatasetMapper(tiny_cfg, False)
    first = mapper(ms3_records[0])

    attempts = []

    def full(path: Path, content: bytes) -> None:
        attempts.append(path)
        with open(path, "wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with logged.at_level(logging.WARNING, "transavs"):
        expected = load(AVSDatasetMapper(uncached(tiny_cfg), False), ms3_records)
        assert_equal(load(mapper, ms3_records), expected)
    assert len(logged.records) == len(attempts) == 1
    assert f"DATALOADER.CLIP_CACHE: {folder} takes no more files (No space left on device)" in logged.text
    assert len(list(folder.iterdir())) == 1  # no half of a file either
    decoded.clear()
    assert_equal([mapper(ms3_records[0])], [first])
    assert decoded == []  # what is there is still read


def test_workers_share_the_folder(tiny_cfg, folder: Path, tiny_catalog: None):
    tiny_cfg.DATALOADER.NUM_WORKERS = 2
    expected = [
        clip for batch in AVSTrainer.build_test_loader(uncached(tiny_cfg), "synthetic_ms3_test") for clip in batch
    ]
    for _ in range(2):
        found = [clip for batch in AVSTrainer.build_test_loader(tiny_cfg, "synthetic_ms3_test") for clip in batch]
        assert_equal(found, expected)
    assert len(list(folder.iterdir())) == len(expected)


def test_only_leading_resizing_is_kept(ms3_records: list[dict], tmp_path: Path):
    """Whatever comes first and may depend on chance is drawn anew for each clip."""
    options = {"image_format": "RGB", "is_train": True, "num_classes": 2, "max_objects": 4, "score_size": 0}
    augmentations = [T.RandomFlip(prob=0.5), T.Resize((20, 20))]
    cache = TensorCache(tmp_path, "KEY")
    expected = load(AVSDatasetMapper(augmentations=augmentations, **options), ms3_records)
    assert_equal(load(AVSDatasetMapper(augmentations=augmentations, cache=cache, **options), ms3_records), expected)
