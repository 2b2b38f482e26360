"""Metrics and detectron2 evaluators."""

from transavs.evaluation.avs_evaluator import AVSEvaluator
from transavs.evaluation.metrics import clip_fscore, clip_jaccard, semantic_frame_scores

__all__ = ["AVSEvaluator", "clip_fscore", "clip_jaccard", "semantic_frame_scores"]
