"""Every config trains: real steps of the trainer at a reduced input, in this process."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.published_tpavi import PublishedTPAVI
from helpers.repository import REPOSITORY

from transavs.checkpoint.convert import convert_weights
from transavs.config.load import load_config
from transavs.engine import AVSTrainer
from transavs.modeling.backbones.vggish import VGGish

CONFIGS = REPOSITORY / "configs"
NAMED = sorted(p for folder in (CONFIGS, CONFIGS / "cpu") for p in folder.glob("*.yaml") if "Base" not in p.name)
LARGE = [path for path in NAMED if "_r101" in path.stem or "_swinb" in path.stem]
TPAVI = sorted((CONFIGS / "tpavi").glob("*.yaml"))
AVSBENCH = [path for path in NAMED if path.parent == CONFIGS and path.stem != "quickstart"]
ENCODER = sorted(p for folder in ("encoder", "recipes") for p in (CONFIGS / folder).glob("*.yaml"))
OTHERS = sorted(
    p for folder in ("ablations", "comparison", "encoder", "tpavi") for p in (CONFIGS / folder).rglob("*.yaml")
)
# Full models on small pictures, few clips and no foreign weights.
REDUCED = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False", "INPUT.IMAGE_SIZE", "64"),
    *("MODEL.AUDIO_BACKBONE.WEIGHTS", ""),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("INPUT.NEGATIVE_AUDIO", "['silence', 'noise']"),  # of so few clips none may fit as an off-screen sound
]


def train_two_iterations(config: Path, output: Path) -> None:
    trainer = AVSTrainer(load_config(config, [*REDUCED, "OUTPUT_DIR", str(output)]))
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    with EventStorage() as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
        assert trainer.storage.latest()["total_loss"][0] > 0
    assert all(p.isfinite().all() for p in trained.values())
    # Norms' weights of 1 are too coarse for the first steps behind DINOv3's layer scale of 1e-5.
    coarse = {name for name, p in trained.items() if p.grad is not None and p.grad.any() and (p == 1).all()}
    learned = coarse | {name for name, p in trained.items() if not torch.equal(before[name], p)}
    assert len(learned) > 0.9 * len(trained)


@pytest.mark.parametrize("config", AVSBENCH + TPAVI + ENCODER, ids=lambda path: path.stem)
def test_avsbench_configs_train_choose_and_test_on_the_splits_of_one_subset(config: Path):
    cfg = load_config(config)
    subset = config.stem.split("_")[0]
    splits = (cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST)
    assert splits == tuple((f"avsbench_{subset}_{split}",) for split in ("train", "val", "test"))
    assert cfg.SOLVER.MAX_ITER >= 10 * cfg.TEST.EVAL_PERIOD > 0


@pytest.mark.parametrize("config", NAMED + OTHERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_thresholds_follow_the_schedule_of_every_config(config: Path):
    assert load_config(config).MODEL.TRANSAVS.THRESHOLD_PERIOD == 0


@pytest.mark.parametrize("config", [path for path in AVSBENCH if "_from_" in path.stem], ids=lambda path: path.stem)
def test_fine_tuning_starts_from_what_the_other_config_leaves(config: Path):
    first = load_config(CONFIGS / f"{config.stem.split('_from_')[1]}_{config.stem.split('_')[1]}.yaml")
    assert Path(load_config(config).MODEL.WEIGHTS) == Path(first.OUTPUT_DIR, "model_best.pth")


@pytest.mark.usefixtures("tiny_catalog")
@pytest.mark.parametrize(
    "config",
    [pytest.param(path, marks=[pytest.mark.slow] if path in LARGE else []) for path in NAMED],
    ids=lambda path: path.stem,
)
def test_every_named_config_trains(config: Path, tmp_path: Path):
    train_two_iterations(config, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_catalog")
@pytest.mark.parametrize("config", OTHERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_other_config_trains(config: Path, tmp_path: Path):
    train_two_iterations(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", TPAVI, ids=lambda path: path.stem)
def test_published_tpavi_checkpoints_are_evaluated(config: Path, run_train_net, tmp_path: Path):
    """From a file with the published names to results, as datasets/README.md tells it, with random values."""
    semantic = config.stem.startswith("avss")
    encoder = "resnet" if config.stem.endswith("_r50") else "encoder_backbone"
    published = PublishedTPAVI(71 if semantic else 1, audio_bias=not semantic, encoder=encoder)
    torch.save(published.state_dict(), tmp_path / "in.pth")
    convert_weights("avsbench", tmp_path / "in.pth", tmp_path / "out.pth")
    torch.save(VGGish(embed_dim=128).state_dict(), tmp_path / "vggish.pth")
    options = (*REDUCED, "MODEL.WEIGHTS", tmp_path / "out.pth", "OUTPUT_DIR", tmp_path)
    done = run_train_net("--config-file", config, "--eval-only", *options)
    assert "parameters, or holds them in another shape, such as audio_backbone." in done.stderr
    options += ("MODEL.AUDIO_BACKBONE.WEIGHTS", tmp_path / "vggish.pth")
    done = run_train_net("--config-file", config, "--eval-only", *options)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"J", "F"} <= set(results)
    assert ("mIoU" in results) is semantic
    assert (tmp_path / "figure.png").stat().st_size > 0
