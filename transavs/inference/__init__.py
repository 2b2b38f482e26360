"""Videos and arrays in, masks out; models written to files that run elsewhere."""

from transavs.inference.predictor import AVSPredictor

__all__ = ["AVSPredictor"]
