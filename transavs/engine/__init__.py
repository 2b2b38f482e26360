"""Training and testing on detectron2's engine."""

from transavs.engine.registered import check_registered
from transavs.engine.trainer import AVSTrainer

__all__ = ["AVSTrainer", "check_registered"]
