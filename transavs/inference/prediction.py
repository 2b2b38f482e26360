"""Predictions: the pixels that sound, frame by frame.

Shape legend: S x S the network's output, H x W a frame's own size, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-6


@dataclass(frozen=True)
class SoundingObject:
    """All pixels of one class that sound in a frame.

    Attributes:
        category_id: from 1; 0 is the background.
        name: of the class.
        score: mean score of the class over its pixels, in [0, 1].
        mask: bool (H, W).
    """

    category_id: int
    name: str
    score: float
    mask: np.ndarray


@dataclass(frozen=True)
class FramePrediction:
    """Prediction for one frame.

    Attributes:
        index: of the frame in the video, from 0.
        time: of the frame, in seconds since the first one.
        loudness: root mean square of the second of sound around it, in dB of full scale; -100 is silence.
        size: (H, W).
        class_names: K names, the background first.
        probabilities: float32 (K, S, S) in [0, 1], summing to 1 over K.
    """

    index: int
    time: float
    loudness: float
    size: tuple[int, int]
    class_names: Sequence[str]
    probabilities: Tensor

    def foreground(self) -> np.ndarray:
        """float32 (H, W): the probability of anything that sounds, in [0, 1]."""
        return (1 - self._upsample([0])[0]).numpy()

    def mask(self, threshold: float | None = None) -> np.ndarray:
        """uint8 (H, W): the class that sounds at each pixel, 0 = nothing.

        Args:
            threshold: a pixel sounds where :meth:`foreground` exceeds it; None takes the best of all K classes, which
                for K = 2 is a threshold of 0.5.
        """
        candidates = self._candidates(threshold)
        return np.array(candidates, dtype=np.uint8)[_best(self._upsample(candidates), threshold).numpy()]

    def objects(self, threshold: float | None = None) -> list[SoundingObject]:
        """One per class that sounds in the frame; ``threshold`` as of :meth:`mask`."""
        candidates = self._candidates(threshold)
        probabilities = self._upsample(candidates)
        best = _best(probabilities, threshold)
        return [
            SoundingObject(number, self.class_names[number], float(values[found].mean()), found.numpy())
            for place, (number, values) in enumerate(zip(candidates, probabilities, strict=True))
            if place and (found := best == place).any()
        ]

    def _candidates(self, threshold: float | None) -> list[int]:
        """The background and, in order, the classes that can be best at some pixel of full size.

        A class is best only where it has an equal share at least of what all classes, or those that sound, have
        together; and upsampling gives no pixel more than the pixels around it have.
        """
        peaks = self.probabilities.flatten(1).amax(1)
        least = 1 / len(peaks) if threshold is None else threshold / max(1, len(peaks) - 1)
        return [0, *(number for number in range(1, len(peaks)) if peaks[number] >= least - ROUNDING)]

    def _upsample(self, classes: Sequence[int]) -> Tensor:
        """The probabilities of some classes at full size, (len(classes), H, W)."""
        # Not kept: the frames of a clip together would take gigabytes.
        some = self.probabilities[list(classes)][None]
        return F.interpolate(some, size=self.size, mode="bilinear", align_corners=False)[0]


def _best(probabilities: Tensor, threshold: float | None) -> Tensor:
    """(C, H, W), the background first -> int64 (H, W), see :meth:`FramePrediction.mask`."""
    if len(probabilities) == 1:
        return torch.zeros(probabilities.shape[1:], dtype=torch.int64)
    if threshold is None:
        return probabilities.max(0).indices  # many times faster than argmax over this dimension
    return (1 + probabilities[1:].max(0).indices) * (1 - probabilities[0] > threshold)


@dataclass(frozen=True)
class ClipPrediction:
    """Consecutive frames whose prediction is final.

    Attributes:
        frames: in order.
    """

    frames: list[FramePrediction]
