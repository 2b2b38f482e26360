"""WANDB.ENABLED: what Weights & Biases is sent, by a stand-in that keeps it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from detectron2.utils.events import EventStorage, JSONWriter
from helpers.repository import read_metrics

from transavs import AVSInputError
from transavs.engine import AVSTrainer
from transavs.engine.writers import WandbWriter


class Service(SimpleNamespace):
    """wandb's functions that are used, with the runs that they were told of."""

    def __init__(self) -> None:
        self.runs: dict[str, SimpleNamespace] = {}
        super().__init__()

    def init(self, *, id: str | None, resume: str, **settings: Any) -> SimpleNamespace:
        assert resume == "allow"
        run = self.runs.setdefault(id or f"run{len(self.runs)}", SimpleNamespace(rows=[], ended=0))
        run.id = next(name for name, known in self.runs.items() if known is run)
        run.settings = settings

        def log(values: dict[str, float], step: int) -> None:
            assert not run.rows or step > run.rows[-1]["iteration"], "wandb drops what is sent for an earlier step"
            run.rows.append(values | {"iteration": step})

        def finish() -> None:
            run.ended += 1

        run.log, run.finish = log, finish
        return run


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    found = Service()
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


def write_run(cfg, iterations: range) -> None:
    """A loss in each iteration, a score in some; written every third one and at the end, where a test's is added."""
    writers = [WandbWriter(cfg), JSONWriter(str(Path(cfg.OUTPUT_DIR, "metrics.json")))]
    with EventStorage(iterations.start) as storage:
        for iteration in iterations:
            storage.iter = iteration
            storage.put_scalar("total_loss", 1 / (1 + iteration))
            if iteration % 2:
                storage.put_scalar("val/sem_seg/J", 10.0 * iteration, smoothing_hint=False)
            if iteration % 3 == 2:
                for writer in writers:
                    writer.write()
        storage.iter = iterations.stop
        storage.put_scalar("sem_seg/J", 50.0, smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()


def test_each_number_is_sent_once_with_its_iteration(tiny_cfg, tmp_path: Path, service: Service):
    tiny_cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "WANDB.PROJECT", "sounds", "SOLVER.BASE_LR", 0.25])
    write_run(tiny_cfg, range(7))
    (run,) = service.runs.values()
    # detectron2's own file of the same numbers, in which those of one writing stand in any order.
    assert run.rows == sorted(read_metrics(tmp_path), key=lambda row: row["iteration"])
    assert run.rows[-1] == {"sem_seg/J": 50.0, "iteration": 7}
    assert run.ended == 1
    assert (run.settings["project"], run.settings["name"]) == ("sounds", tmp_path.name)
    assert run.settings["config"] == yaml.safe_load(tiny_cfg.dump())
    assert run.settings["config"]["SOLVER"]["BASE_LR"] == 0.25


def test_a_run_that_goes_on_is_the_same_there_and_one_that_begins_anew_is_not(
    tiny_cfg, tiny_catalog: None, tmp_path: Path, service: Service
):
    tiny_cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "WANDB.ENABLED", True])
    write_run(tiny_cfg, range(4))
    write_run(tiny_cfg, range(5, 9))
    assert [row["iteration"] for row in service.runs["run0"].rows] == [1, 2, 3, 4, 5, 7, 8, 9]
    trainer = AVSTrainer(tiny_cfg)
    assert sum(isinstance(writer, WandbWriter) for writer in trainer.build_writers()) == 1
    trainer.resume_or_load(resume=True)  # there is no checkpoint
    write_run(tiny_cfg, range(4))
    assert list(service.runs) == ["run0", "run1"]


def test_without_wandb_it_says_so(tiny_cfg, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AVSInputError, match=r'^WANDB.ENABLED is True .* pip install "transavs\[wandb\]"$'):
        WandbWriter(tiny_cfg)
