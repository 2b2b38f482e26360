"""Data that is not quite as it should be: taken with a word, counted, and refused where DATALOADER.STRICT is on."""

import copy
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from helpers.repository import TINY_MODEL
from PIL import Image

from transavs import AVSInputError
from transavs.data.audio import seconds_of_examples
from transavs.data.audio_conditions import NegativeAudio
from transavs.data.avsbench import IGNORED_ID, LAYOUTS, load_avsbench
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.data.integrity.check import check_avsbench
from transavs.data.repairs import REPAIRS
from transavs.engine import AVSTrainer
from transavs.evaluation.avs_evaluator import AVSEvaluator
from transavs.media.images import read_mask


@pytest.fixture
def tree(tiny_datasets: Path, tmp_path: Path) -> Path:
    """A copy of AVSBench-semantic's tree, to be damaged."""
    return Path(shutil.copytree(tiny_datasets / "AVSBench_semantic", tmp_path / "AVSBench_semantic"))


@pytest.fixture
def record(tree: Path) -> dict:
    """A clip of ten labeled frames."""
    return next(r for r in load_avsbench(tree, "avss", "train") if len(r["labeled_frames"]) == 10)


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((20, 20), Image.Resampling.NEAREST).save(path)


def paint(path: Path) -> None:
    ids = np.array(Image.open(path))
    ids[:9] = IGNORED_ID
    Image.fromarray(ids).save(path)


def shorten(path: Path) -> None:
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[: 7 * rate], rate)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(0.995 * len(content))])


# Kind -> the file that is damaged, of a record, and how.
ODDITIES: dict[str, tuple[Callable[[dict], str], Callable[[Path], object]]] = {
    "frame-missing": (lambda record: record["file_names"][9], Path.unlink),
    "mask-missing": (lambda record: record["mask_file_names"][9], Path.unlink),
    "mask-size": (lambda record: record["mask_file_names"][0], shrink),
    "mask-ignored": (lambda record: record["mask_file_names"][1], paint),
    "audio-truncated": (lambda record: record["audio_file"], truncate),
    "audio-short": (lambda record: record["audio_file"], shorten),
}


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, tiny_cfg.INPUT.NUM_FRAMES, tiny_cfg.INPUT.TRAIN_FRAMES = 7, 10, 0
    tiny_cfg.INPUT.RANDOM_FLIP = "none"
    return tiny_cfg


def test_every_kind_is_here():
    assert ODDITIES.keys() == REPAIRS.keys()


@pytest.mark.parametrize("kind", ODDITIES)
def test_an_oddity_is_taken_with_one_warning_and_refused_under_strict(
    kind: str, record: dict, cfg, logged: pytest.LogCaptureFixture
):
    find, damage = ODDITIES[kind]
    whole = AVSDatasetMapper(cfg, is_train=True)(record)
    assert whole["repairs"] == []
    damage(Path(find(record)))
    mapper = AVSDatasetMapper(cfg, is_train=True)
    with logged.at_level(logging.WARNING, "transavs"):
        clips = [mapper(record) for _ in range(2)]
    told = [message.getMessage() for message in logged.records if f"({kind};" in message.getMessage()]
    assert len(told) == 1
    assert find(record) in told[0]
    assert all(kind in clip["repairs"] for clip in clips)
    frames, labeled = whole["images"].shape[0], 9 if kind == "mask-missing" else 10
    assert clips[0]["images"].shape == whole["images"].shape
    assert clips[0]["log_mel"].shape == whole["log_mel"].shape == (frames, 1, 96, 64)
    assert clips[0]["labeled_frames"].tolist() == list(range(labeled))
    assert len(clips[0]["masks"]) == len(clips[0]["objects"]) == labeled
    cfg.DATALOADER.STRICT = True
    with pytest.raises(AVSInputError, match=r"DATALOADER\.STRICT"):
        AVSDatasetMapper(cfg, is_train=True)(record)


def test_what_takes_the_place_of_what_is_missing(record: dict, cfg):
    whole = AVSDatasetMapper(cfg, is_train=True)(record)
    for place in (0, 1, 5):
        Path(record["file_names"][place]).unlink()
    shorten(Path(record["audio_file"]))
    clip = AVSDatasetMapper(cfg, is_train=True)(record)
    taken = [2, 2, 2, 3, 4, 4, 6, 7, 8, 9]
    assert torch.equal(clip["images"], whole["images"][taken])
    assert torch.equal(clip["log_mel"][:7], whole["log_mel"][:7])
    assert all(torch.equal(second, whole["log_mel"][6]) for second in clip["log_mel"][7:])


def test_repairs_are_known_from_the_cache_too(record: dict, cfg, tmp_path: Path):
    cfg.DATALOADER.CLIP_CACHE = str(tmp_path / "cache")
    Path(record["mask_file_names"][9]).unlink()
    shrink(Path(record["mask_file_names"][0]))
    first, second = (AVSDatasetMapper(cfg, is_train=True)(record) for _ in range(2))
    assert first["repairs"] == second["repairs"] == ["mask-missing", "mask-size"]
    assert torch.equal(first["masks"], second["masks"])
    assert first["labeled_frames"].tolist() == second["labeled_frames"].tolist() == list(range(9))


def test_a_test_clip_needs_all_its_frames_and_masks(record: dict, cfg):
    for key in ("file_names", "mask_file_names"):
        damaged = copy.deepcopy(record)
        damaged[key][3] += ".gone"
        with pytest.raises(AVSInputError, match=r"gone does not exist"):
            AVSDatasetMapper(cfg, is_train=False)(damaged)


@pytest.mark.parametrize("architecture", ["TransAVS", "TPAVI"])
def test_ignored_pixels_teach_nothing(record: dict, cfg, architecture: str):
    """What is predicted there has no gradient through the losses on pixels, whatever stands in the mask."""
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.TPAVI.HEAD_CHANNELS = architecture, [8, 8]
    clip = AVSDatasetMapper(cfg, is_train=True)(record)
    clip["masks"][:] = IGNORED_ID
    clip["masks"][:, :, 16:] = 1
    model = build_model(cfg).train()
    seen = []

    def keep(module: torch.nn.Module, inputs: object, output: object) -> None:
        logits = output["pred_masks"] if architecture == "TransAVS" else output
        logits.retain_grad()
        seen.append(logits)

    (model.query_decoder if architecture == "TransAVS" else model.decoder).register_forward_hook(keep)
    losses = model([clip])
    pixel = losses["loss_mask"] + losses.get("loss_dice", 0)
    pixel.backward()
    gradient = seen[0].grad.abs()
    side = gradient.shape[-1]
    assert gradient[..., side // 2 + 1 :].sum() > 0
    assert gradient[..., : side // 2 - 1].sum() == 0


def test_ignored_pixels_do_not_count():
    masks = torch.zeros(1, 8, 8, dtype=torch.int64)
    masks[:, :4, :4] = 1
    sem_seg = torch.zeros(1, 3, 8, 8)
    sem_seg[:, 1, :4, :4] = 1
    sem_seg[:, 0] = 1 - sem_seg[:, 1]
    wrong = sem_seg.clone()
    wrong[:, :, 6:] = torch.tensor([0.0, 0, 1])[:, None, None]
    masks_ignoring = masks.clone()
    masks_ignoring[:, 6:] = IGNORED_ID
    found = []
    for mask, predicted in ((masks, sem_seg), (masks_ignoring, wrong), (masks, wrong)):
        evaluator = AVSEvaluator(["background", "a", "b"])
        evaluator.reset()
        clip = {"video_id": "clip", "masks": mask, "labeled_frames": torch.tensor([0])}
        evaluator.process([clip], [{"sem_seg": predicted}])
        found.append(evaluator.evaluate()["sem_seg"])
    assert found[0] == found[1]
    assert found[2]["J"] < found[0]["J"]


def test_an_evaluation_leaves_broken_clips_out_and_says_so(tiny_cfg, tiny_datasets: Path, tmp_path: Path, catalog_of):
    root = Path(shutil.copytree(tiny_datasets / "synthetic", tmp_path / "data/synthetic")).parent
    broken = load_avsbench(root / "synthetic", "ms3", "test")[1]
    Path(broken["audio_file"]).write_bytes(b"no sound")
    catalog_of(root)
    tiny_cfg.OUTPUT_DIR, tiny_cfg.TEST.FIGURE_CLIPS = str(tmp_path / "out"), 0
    model = build_model(tiny_cfg)
    with pytest.raises(AVSInputError, match=Path(broken["audio_file"]).name):
        AVSTrainer.test(tiny_cfg, model)
    tiny_cfg.DATALOADER.ON_BROKEN_CLIP = "skip"
    found = AVSTrainer.test(tiny_cfg, model)["sem_seg"]
    assert found["clips_left_out"] == found["clips_left_out_shuffled"] == 1
    assert "clips_left_out_silence" not in found  # whose sound is not read
    assert "1 clips could not be read" in (tmp_path / "out/results.md").read_text()
    assert json.loads((tmp_path / "out/results.json").read_text())["clips_left_out"] == 1


def test_masks_sound_from_half_white_on(tmp_path: Path):
    levels = np.array([[0, 1, 127, 128, 255]], dtype=np.uint8)
    for mode in ("L", "RGB"):
        Image.fromarray(levels).convert(mode).save(tmp_path / "mask.png")
        assert read_mask(str(tmp_path / "mask.png"), "binary").tolist() == [[0, 0, 0, 1, 1]]
    Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(str(tmp_path / "mask.png"), "binary").tolist() == [[0, 1]]


def test_a_clean_official_like_tree_gives_the_doctor_nothing(tiny_datasets: Path, tmp_path: Path):
    """Masks in modes 1, L and P, sound at 44.1 kHz in stereo that ends a little early, colors alone, ten frames."""
    root = Path(shutil.copytree(tiny_datasets, tmp_path / "data"))
    for subset, folder in (("s4", "AVSBench_object"), ("ms3", "AVSBench_object"), ("avss", "AVSBench_semantic")):
        for split in ("train", "val", "test"):
            for number, record in enumerate(load_avsbench(root / folder, subset, split)):
                seconds = seconds_of_examples(len(record["file_names"])) + 0.001
                rng = np.random.default_rng(number)
                soundfile.write(record["audio_file"], rng.uniform(-0.3, 0.3, (int(seconds * 44100), 2)), 44100)
                for path in map(Path, record["mask_file_names"]):
                    if subset == "avss":
                        path.unlink()
                    else:
                        image = Image.open(path).convert("L").point(lambda level: 255 * (level > 0))
                        image.convert("1LP"[number % 3]).save(path)
    report = check_avsbench(root, compare_counts=False)
    assert report.findings == []


def test_ms3_hears_from_avss_what_sounds(tiny_datasets: Path, tmp_path: Path, catalog_of):
    root = Path(shutil.copytree(tiny_datasets, tmp_path / "data"))
    meta = root / "AVSBench_object" / LAYOUTS["ms3"].meta
    videos = [record["video_id"] for record in load_avsbench(root / "AVSBench_object", "ms3", "test")]
    meta.write_text("video_id,split\n" + "".join(f"{video},test\n" for video in videos))
    rows = ["vid,uid,s_min,s_sec,a_obj,split,label", *(f"v,{video},0,5,dog_cat,test,v1m" for video in videos[1:])]
    (root / "AVSBench_semantic/metadata.csv").write_text("\n".join(rows) + "\n")
    catalog_of(root)
    records = DatasetCatalog.get("avsbench_ms3_test")
    assert [record["sounds"] for record in records] == [[], *[["dog", "cat"]] * (len(videos) - 1)]
    assert all(record["in_view"] == record["sounds"] for record in records)


def test_offscreen_audio_that_is_not_known_is_refused_at_the_start():
    known = [{"video_id": str(n), "in_view": [str(n)], "sounds": [str(n)]} for n in range(3)]
    NegativeAudio(known, ["offscreen"], 0.5)
    for records in (known[:1], [*known, {"video_id": "x", "in_view": [], "sounds": []}]):
        with pytest.raises(AVSInputError, match="offscreen"):
            NegativeAudio(records, ["silence", "offscreen"], 0.5)
        NegativeAudio(records, ["silence"], 0.5)


def test_a_frozen_audio_backbone_without_weights_is_not_trained_with(run_train_net, tmp_path: Path):
    options = (*TINY_MODEL, "SOLVER.MAX_ITER", 1, "MODEL.AUDIO_BACKBONE.FREEZE", True, "OUTPUT_DIR", tmp_path)
    done = run_train_net("--config-file", "configs/quickstart.yaml", *options)
    assert done.returncode == 2
    assert "error: MODEL.AUDIO_BACKBONE is frozen and has no weights" in done.stderr
