"""Writers of a training run's numbers beside detectron2's own."""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, configurable
from detectron2.utils.events import EventWriter, get_event_storage

from transavs.utils.errors import AVSInputError

RUN_ID = "wandb_run_id.txt"  # in OUTPUT_DIR


class WandbWriter(EventWriter):
    """Sends every scalar once to Weights & Biases, smoothed as in metrics.json, with its iteration as the step.

    A run that goes on from a checkpoint goes on there too.
    """

    @configurable
    def __init__(self, *, folder: str, project: str, name: str, config: dict[str, Any], window_size: int = 20):
        """
        Args:
            folder: keeps the id of the run, and what wandb writes.
            project, name: of the run.
            config: shown beside it.
            window_size: iterations that scalars are smoothed over.

        Raises:
            AVSInputError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise AVSInputError(
                'WANDB.ENABLED is True and wandb is not installed: pip install "transavs[wandb]"'
            ) from error
        self._start = partial(wandb.init, project=project, name=name, config=config, dir=folder, resume="allow")
        self._run: Any = None
        self._folder, self._window_size = folder, window_size
        self._last_write = -1

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "folder": cfg.OUTPUT_DIR,
            "project": cfg.WANDB.PROJECT,
            "name": cfg.WANDB.NAME or Path(cfg.OUTPUT_DIR).name,
            "config": yaml.safe_load(cfg.dump()),
        }

    def write(self) -> None:
        if self._run is None:  # not before: only now is it settled whether the run goes on from another
            path = Path(self._folder, RUN_ID)
            self._run = self._start(id=path.read_text() if path.exists() else None)
            path.write_text(self._run.id)
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                rows[iteration][name] = value
        for iteration in sorted(rows):
            self._run.log(rows[iteration], step=iteration)
            self._last_write = iteration

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def forget_wandb_run(folder: str) -> None:
    """Let the next run in ``folder`` be another one at Weights & Biases."""
    Path(folder, RUN_ID).unlink(missing_ok=True)
