"""Metrics and detectron2 evaluators."""

from transavs.evaluation.avs_evaluator import AVSEvaluator
from transavs.evaluation.clip_scores import ClipScores, score_clip, summarize
from transavs.evaluation.metrics import clip_fscore, clip_jaccard

__all__ = ["AVSEvaluator", "ClipScores", "clip_fscore", "clip_jaccard", "score_clip", "summarize"]
