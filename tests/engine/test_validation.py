"""The weights that are best on DATASETS.VAL are what is tested, whenever a run was stopped."""

import copy
import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from helpers.repository import read_metrics

from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.engine import AVSTrainer

# J on val after each iteration; the best is neither the first nor the last, and all that follow beat the first.
SCRIPT = [30.0, 50.0, 45.0, 40.0]
BEST = 1


@pytest.fixture
def cfg(tiny_cfg, tiny_catalog: None, tmp_path: Path):
    tiny_cfg.merge_from_list(["DATASETS.VAL", ("synthetic_ms3_val",), "OUTPUT_DIR", str(tmp_path / "run")])
    tiny_cfg.merge_from_list(["SOLVER.MAX_ITER", len(SCRIPT), "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 1])
    tiny_cfg.merge_from_list(["TEST.FIGURE_CLIPS", 1, "TEST.AUDIO_CONDITIONS", ["true", "silence"]])
    Path(tiny_cfg.OUTPUT_DIR).mkdir()
    return tiny_cfg


class Killed(BaseException):
    """Ends a run on the spot."""


class ScriptedTrainer(AVSTrainer):
    """Trains and tests; what it finds on val is written down beforehand."""

    def __init__(self, cfg, dies: str = ""):
        """
        Args:
            cfg: the configuration.
            dies: what the run does when it is killed.
        """
        super().__init__(cfg)
        self.dies = dies
        self.weights: dict[int, dict] = {}  # by what was validated
        self.tested: dict = {}

    def die(self, doing: str) -> None:
        if doing == self.dies:
            raise Killed

    def run_step(self) -> None:
        self.die(f"train {self.iter}")
        super().run_step()

    def after_train(self) -> None:
        if self.dies and self.iter < self.max_iter:  # a process that is killed does no more
            return
        super().after_train()

    def _validate(self) -> dict:
        done = min(self.iter, len(SCRIPT) - 1)
        self.die(f"validate {done}")
        self.weights[done] = copy.deepcopy(self.model.state_dict())
        return {"val": {"sem_seg": {"J": SCRIPT[done]}}}

    def test(self, cfg, model) -> dict:
        self.die("test")
        self.tested = copy.deepcopy(model.state_dict())
        return super().test(cfg, model)


def run(cfg, dies: str = "") -> ScriptedTrainer:
    torch.manual_seed(0)
    trainer = ScriptedTrainer(cfg, dies)
    trainer.resume_or_load(resume=True)
    if dies:
        with pytest.raises(Killed):
            trainer.train()
    else:
        trainer.train()
    return trainer


def results_of(cfg, weights: Path) -> dict[str, float]:
    model = build_model(cfg)
    AVSCheckpointer(model).load_all(str(weights))
    return AVSTrainer.test(cfg, model)["sem_seg"]


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_the_best_on_val_is_kept_and_tested(cfg, tmp_path: Path):
    output = Path(cfg.OUTPUT_DIR)
    trainer = run(cfg)
    best = load(output / "model_best.pth")
    assert best["iteration"] == BEST
    names = trainer.tested.keys()
    assert all(torch.equal(best["model"][name], trainer.weights[BEST][name]) for name in names)
    assert all(torch.equal(trainer.tested[name], trainer.weights[BEST][name]) for name in names)
    assert not all(torch.equal(trainer.tested[name], trainer.weights[3][name]) for name in names)
    results = json.loads((output / "results.json").read_text())
    cfg.OUTPUT_DIR = str(tmp_path)
    assert results == results_of(cfg, output / "model_best.pth")
    assert {"J", "J_silence"} <= results.keys()
    curve = {row["iteration"]: row["val/sem_seg/J"] for row in read_metrics(output) if "val/sem_seg/J" in row}
    assert [curve[iteration] for iteration in sorted(curve)][-1] == SCRIPT[-1]
    tested = [row["sem_seg/J"] for row in read_metrics(output) if "sem_seg/J" in row]
    assert tested == [pytest.approx(results["J"])]


def test_a_run_that_was_killed_tests_what_the_undisturbed_one_tests(cfg, tmp_path: Path):
    whole, undisturbed = Path(cfg.OUTPUT_DIR), run(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "killed")
    Path(cfg.OUTPUT_DIR).mkdir()
    for dies in ("validate 1", "train 2", "train 3", "validate 3", "test"):
        run(cfg, dies)
    killed = Path(cfg.OUTPUT_DIR)
    assert not (killed / "results.json").exists()
    torch.testing.assert_close(run(cfg).tested, undisturbed.tested, rtol=0, atol=1e-6)
    for name in ("model_best.pth", "model_final.pth"):
        expected, found = load(whole / name), load(killed / name)
        torch.testing.assert_close(found["model"], expected["model"], rtol=0, atol=1e-6)
        assert found.get("iteration") == expected.get("iteration")
    assert found["trainer"]["hooks"]["BestWeights"] == expected["trainer"]["hooks"]["BestWeights"]
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()


def test_without_the_file_of_the_best_the_next_ones_are_the_best(cfg):
    """As where only the last checkpoint was taken along."""
    run(cfg, "train 3")
    (Path(cfg.OUTPUT_DIR) / "model_best.pth").unlink()
    run(cfg)
    assert load(Path(cfg.OUTPUT_DIR) / "model_best.pth")["iteration"] == 2


@pytest.mark.parametrize("period", [0, 2])
def test_validation_has_metrics_and_files_of_its_own(cfg, tmp_path: Path, period: int):
    """Under the true audio; with no period once, at the end."""
    cfg.TEST.EVAL_PERIOD = period
    output = Path(cfg.OUTPUT_DIR)
    trainer = AVSTrainer(cfg)
    trainer.train()
    rows = [row for row in read_metrics(output) if "val/sem_seg/J" in row]
    assert len(rows) == (2 if period else 1)
    assert not any(name.endswith("_silence") for row in rows for name in row if name.startswith("val/"))
    last = json.loads((output / "val/results.json").read_text())
    assert rows[-1]["val/sem_seg/J"] == pytest.approx(last["J"])
    assert (output / "val/figure.png").stat().st_size > 0
    kept = max(rows, key=lambda row: row["val/sem_seg/J"])  # the first of equals
    results = json.loads((output / "results.json").read_text())
    cfg.OUTPUT_DIR = str(tmp_path)
    assert results == results_of(cfg, output / "model_best.pth")
    cfg.DATASETS.TEST = cfg.DATASETS.VAL
    assert results_of(cfg, output / "model_best.pth")["J"] == pytest.approx(kept["val/sem_seg/J"])


@pytest.mark.parametrize("names", [("synthetic_avss_test",), ("synthetic_avss_test", "synthetic_avss_val")])
def test_several_classes_are_judged_by_miou_on_the_first_set(cfg, names: tuple[str, ...]):
    subset = {"DATASETS.TRAIN": ("synthetic_avss_train",), "DATASETS.VAL": names}
    subset |= {"DATASETS.TEST": ("synthetic_avss_test",), "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 7, "INPUT.NUM_FRAMES": 10}
    cfg.merge_from_list([part for pair in subset.items() for part in pair])
    cfg.SOLVER.MAX_ITER = 1
    trainer = AVSTrainer(cfg)
    trainer.train()
    (best,) = (hook for hook in trainer._hooks if type(hook).__name__ == "BestWeights")
    found = json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())  # the same set, the same weights
    assert best.best_metric == pytest.approx(found["mIoU"])
