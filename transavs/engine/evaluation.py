"""Evaluation of a model on one test set."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset
from torch import nn

from transavs.modeling.test_time_augmentation import AVSWithTTA
from transavs.utils.precision import autocast, find_precision


def evaluate(cfg: CfgNode, model: nn.Module, loader: Any, evaluator: DatasetEvaluator) -> dict[str, Any]:
    """detectron2's evaluation of a network that computes in TEST.PRECISION, and of what evaluators do in no other."""
    precision = find_precision(cfg.TEST.PRECISION, cfg.MODEL.DEVICE)
    network = AVSWithTTA(cfg, model) if cfg.TEST.AUG.ENABLED else model

    def predict(clips: list[dict[str, Any]]) -> Any:
        with autocast(precision, cfg.MODEL.DEVICE):
            return network(clips)

    with inference_context(model):  # which detectron2 enters for modules alone
        return dict(inference_on_dataset(predict, loader, evaluator))
