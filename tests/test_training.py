"""Every config trains: real steps of the trainer at a reduced input, in this process."""

import json
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from detectron2.utils.events import EventStorage
from published_tpavi import PublishedTPAVI

from transavs.config import load_config
from transavs.conversion import convert_weights
from transavs.engine import AVSTrainer

CONFIGS = REPOSITORY / "configs"
NAMED = sorted(p for folder in (CONFIGS, CONFIGS / "cpu") for p in folder.glob("*.yaml") if "Base" not in p.name)
LARGE = [path for path in NAMED if path.stem.endswith(("_r101", "_swinb"))]
TPAVI = sorted((CONFIGS / "tpavi").glob("*.yaml"))
OTHERS = sorted(p for folder in ("ablations", "comparison", "tpavi") for p in (CONFIGS / folder).rglob("*.yaml"))
# Full models on small pictures, few clips and no foreign weights.
REDUCED = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False", "INPUT.IMAGE_SIZE", "64"),
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
    assert sum(not torch.equal(before[name], p) for name, p in trained.items()) > 0.9 * len(trained)


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
    options = (*REDUCED, "MODEL.WEIGHTS", tmp_path / "out.pth", "OUTPUT_DIR", tmp_path)
    done = run_train_net("--config-file", config, "--eval-only", *options)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"J", "F"} <= set(results)
    assert ("mIoU" in results) is semantic
    assert (tmp_path / "figure.png").stat().st_size > 0
