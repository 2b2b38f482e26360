"""Evaluation of a model on one test set, and a look at the test sets before any work."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset
from torch import nn

from transavs.data.audio_conditions import apply_audio_condition
from transavs.data.build import load_records
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.modeling.test_time_augmentation import AVSWithTTA
from transavs.utils.precision import autocast, find_precision


def check_test_sets(cfg: CfgNode, names: Sequence[str], conditions: Sequence[str]) -> None:
    """Read the list of each data set, its audio conditions and its first clip, so that faults show before long work.

    Raises:
        AVSInputError: a data set is missing or does not have a condition, or its first clip cannot be read.
    """
    mapper = AVSDatasetMapper(cfg, is_train=False)
    for name in names:
        records = load_records([name])
        for condition in conditions:
            first = apply_audio_condition(records, condition)[0]
            if cfg.DATALOADER.ON_BROKEN_CLIP == "stop":
                mapper.decode(first)


def evaluate(cfg: CfgNode, model: nn.Module, loader: Any, evaluator: DatasetEvaluator) -> dict[str, Any]:
    """detectron2's evaluation of a network that computes in TEST.PRECISION, and of what evaluators do in no other."""
    precision = find_precision(cfg.TEST.PRECISION, cfg.MODEL.DEVICE)
    network = AVSWithTTA(cfg, model) if cfg.TEST.AUG.ENABLED else model

    def predict(clips: list[dict[str, Any]]) -> Any:
        with autocast(precision, cfg.MODEL.DEVICE):
            return network(clips)

    with inference_context(model):  # which detectron2 enters for modules alone
        return dict(inference_on_dataset(predict, loader, evaluator))
