"""Training and testing on detectron2's engine."""

from transavs.engine.trainer import AVSTrainer, check_registered

__all__ = ["AVSTrainer", "check_registered"]
