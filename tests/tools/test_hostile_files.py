"""Strangers' files: nothing in them is run, nothing they name is touched, and nothing is decoded beyond the limits."""

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from helpers.bad_inputs import Good
from helpers.hostile import giants, payloads
from helpers.videos import RedWhenLoud

from transavs import AVSInputError, AVSPredictor
from transavs.checkpoint.convert import convert_weights
from transavs.checkpoint.load import load_model, load_weights, read_checkpoint
from transavs.config.load import load_config, parse_config
from transavs.data.audio import load_log_mel_pickle
from transavs.data.avsbench import LAYOUTS, load_avsbench
from transavs.demo.process_videos import find_videos
from transavs.demo.session import MUTED, Limits, Run, heard_with
from transavs.evaluation.prediction_writer import PredictionWriter
from transavs.modeling.backbones.audio import SmallAudioNet, load_audio_weights
from transavs.modeling.backbones.timm import TimmBackbone
from transavs.visualization.charts import draw_groups

KINDS = list(payloads(Path("marker")))
CODE = "!!python/object/apply:os.mkdir ['{marker}']"


def small_audio_net() -> SmallAudioNet:
    return SmallAudioNet(channels=[4], embed_dim=2, norm="BN")


def timm_backbone(weights: str) -> TimmBackbone:
    about = {"in_channels": 3, "image_size": 32, "out_features": ["res2"], "drop_path_rate": 0.0, "frozen_stages": 0}
    return TimmBackbone(name="resnet18", pretrained=False, weights=weights, **about)


READERS: dict[str, Callable[[Path], object]] = {
    "log-mel": load_log_mel_pickle,
    "checkpoint": read_checkpoint,
    "model": lambda path: load_model(path, "cpu"),
    "predictor": lambda path: AVSPredictor.from_checkpoint(path, device="cpu"),
    "torchvision weights": lambda path: convert_weights("torchvision", path, path.with_name("out")),
    "timm weights": lambda path: convert_weights("timm", path, path.with_name("out"), "resnet18"),
    "timm backbone": lambda path: timm_backbone(str(path)),
    "audio weights": lambda path: load_audio_weights(small_audio_net(), str(path)),
}


def assert_refused(read: Callable[[], object], marker: Path) -> None:
    with pytest.raises(AVSInputError) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert not marker.exists(), "code from the file was run"


def test_the_payloads_do_harm_where_nothing_is_checked(tmp_path: Path):
    """Else the tests below would prove nothing."""
    for number, kind in enumerate(KINDS):
        marker = tmp_path / str(number)
        with contextlib.suppress(Exception):  # what comes after the harm is done
            pickle.loads(pickle.dumps(payloads(marker)[kind]))
        assert marker.exists(), kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_a_hostile_pickle_runs_nothing(reader: str, kind: str, tmp_path: Path):
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    payload = payloads(marker)[kind]
    path.write_bytes(pickle.dumps(payload))
    assert_refused(lambda: READERS[reader](path), marker)
    for saved in (payload, {"model": payload, "config": ""}, {"state_dict": {"conv1.weight": payload}}):
        torch.save(saved, path)
        assert_refused(lambda: READERS[reader](path), marker)


@pytest.mark.parametrize("kind", giants())
def test_a_small_pickle_takes_neither_all_memory_nor_all_time(kind: str, tmp_path: Path):
    path = tmp_path / "clip.pkl"
    path.write_bytes(giants()[kind])
    assert_refused(lambda: load_log_mel_pickle(path), tmp_path / "marker")


@pytest.mark.parametrize("place", ["the file", "a base", "a base of a base", "a key", "a new tag"])
def test_yaml_runs_nothing(place: str, tmp_path: Path):
    marker = tmp_path / "marker"
    code = CODE.format(marker=marker)
    texts = {
        "a key": f"? {code}\n: 1",
        "a new tag": f"SEED: !!python/object/new:os.mkdir ['{marker}']",
    }
    (tmp_path / "c.yaml").write_text(texts.get(place, f"OUTPUT_DIR: {code}"))
    (tmp_path / "b.yaml").write_text("_BASE_: c.yaml\n")
    (tmp_path / "a.yaml").write_text("_BASE_: [b.yaml]\n")
    name = {"a base": "b.yaml", "a base of a base": "a.yaml"}.get(place, "c.yaml")
    assert_refused(lambda: load_config(tmp_path / name), marker)
    assert_refused(lambda: parse_config((tmp_path / "c.yaml").read_text(), "a checkpoint"), marker)


def test_a_config_in_python_is_not_run(tmp_path: Path):
    """detectron2's lazy configs are programs."""
    marker = tmp_path / "marker"
    (tmp_path / "config.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nmodel = {{}}\n")
    (tmp_path / "a.yaml").write_text("_BASE_: config.py\n")
    for name in ("config.py", "a.yaml"):
        assert_refused(lambda name=name: load_config(tmp_path / name), marker)


def test_overrides_run_nothing(good: Good, tmp_path: Path):
    marker = tmp_path / "marker"
    code = f"__import__('os').mkdir({str(marker)!r})"
    assert code == load_config(good.config, ["OUTPUT_DIR", code]).OUTPUT_DIR
    assert_refused(lambda: load_config(good.config, ["SEED", code]), marker)


def test_the_config_in_a_checkpoint_runs_nothing_and_fetches_nothing(good: Good, tmp_path: Path):
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    saved = torch.load(good.weights, weights_only=True)
    torch.save(saved | {"config": f"OUTPUT_DIR: {CODE.format(marker=marker)}"}, path)
    assert_refused(lambda: load_model(path, "cpu"), marker)
    text = saved["config"].replace("WEIGHTS: ''", "WEIGHTS: /etc/passwd")
    torch.save(saved | {"config": text.replace("CLIP_CACHE: ''", f"CLIP_CACHE: {marker}")}, path)
    load_model(path, "cpu")
    assert not marker.exists()


@pytest.mark.parametrize("subset", ["s4", "ms3", "avss"])
@pytest.mark.parametrize(
    "name", ["../../../../../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\\b", "a\0b", "../x"]
)
def test_names_in_a_csv_lead_nowhere(subset: str, name: str, tmp_path: Path):
    layout = LAYOUTS[subset]
    meta = tmp_path / layout.meta
    meta.parent.mkdir(parents=True, exist_ok=True)
    values = dict.fromkeys(layout.columns, "a") | {"split": "test", "label": "v2"}
    video = layout.columns[layout.video_column]
    dangerous = [video] + ([layout.category_column] if "{category}" in layout.frames else [])
    for column in dangerous:
        row = values | {column: name}
        meta.write_text(",".join(layout.columns) + "\n" + ",".join(row[key] for key in layout.columns) + "\n")
        with pytest.raises(AVSInputError, match="leads out of the data set"):
            load_avsbench(tmp_path, subset, "test")


def test_predictions_stay_in_their_folder(ms3_records: list[dict], tmp_path: Path):
    record = ms3_records[0] | {"labeled_frames": torch.tensor([0]), "mask_file_names": ["/data/../elsewhere/0.png"]}
    writer = PredictionWriter(tmp_path / "out", ["png"], 2)
    with pytest.raises(AVSInputError, match="is not below its mask_root"):
        writer.process([record | {"mask_root": "/data"}], [{"sem_seg": torch.rand(1, 2, 4, 4)}])
    assert not list(tmp_path.rglob("*.png"))


def test_videos_whose_names_are_paths_are_left_out_of_folders(tmp_path: Path):
    for name in ("...mp4", "..mp4", "._clip.mp4", "clip.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert find_videos([tmp_path]) == [tmp_path / "clip.mp4"]


UPLOADS = ["a" * 200 + ".mp4", "ü" * 100 + ".mp4", "<b>.mp4", "$\\x{.mp4", "-rf .mp4", "...mp4"]


@pytest.mark.parametrize("name", UPLOADS)
def test_results_of_uploads_stay_in_their_folder(name: str, tmp_path: Path, clip: Path):
    upload = tmp_path / "uploads" / name
    upload.parent.mkdir()
    os.link(clip, upload)
    made, limits = tmp_path / "made", Limits(seconds=5)
    made.mkdir()
    video = limits.open(upload)
    run = Run(video, heard_with(video, MUTED, None, limits), made)
    run.predict(AVSPredictor(RedWhenLoud()), 1, limits, lambda share, what: None)
    drawing = run.draw(0.5, lambda share, what: None)
    assert all(path.is_file() and made in path.resolve().parents for path in (drawing.overlay, drawing.coco))
    assert {path.name for path in tmp_path.iterdir()} == {"uploads", "made"}


def test_names_in_figures_are_no_formulas(tmp_path: Path):
    draw_groups({"$\\foo{": {"$x$": 1.0, "a_$": 2.0}}, "J $\\bar$", tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_weights_to_start_from_run_nothing(kind: str, tmp_path: Path):
    marker, path = tmp_path / "marker", tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": payloads(marker)[kind]}))
    assert_refused(lambda: load_weights(small_audio_net(), str(tmp_path), str(path)), marker)
