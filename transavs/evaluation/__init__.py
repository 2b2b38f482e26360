"""Metrics and detectron2 evaluators."""

from transavs.evaluation.avs_evaluator import AVSEvaluator
from transavs.evaluation.clip_metrics import ClipMetrics, evaluate_clip, summarize
from transavs.evaluation.metrics import clip_fscore, clip_jaccard

__all__ = ["AVSEvaluator", "ClipMetrics", "clip_fscore", "clip_jaccard", "evaluate_clip", "summarize"]
