"""Predictions: the pixels that sound, frame by frame.

Shape legend: S x S the network's output, H x W a frame's own size, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F


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

    def _at_full_size(self) -> Tensor:
        # Not kept: the frames of a clip together would take gigabytes.
        return F.interpolate(self.probabilities[None], size=self.size, mode="bilinear", align_corners=False)[0]

    def foreground(self) -> np.ndarray:
        """float32 (H, W): the probability of anything that sounds, in [0, 1]."""
        return (1 - self._at_full_size()[0]).numpy()

    def mask(self, threshold: float | None = None) -> np.ndarray:
        """uint8 (H, W): the class that sounds at each pixel, 0 = nothing.

        Args:
            threshold: a pixel sounds where :meth:`foreground` exceeds it; None takes the best of all K classes, which
                for K = 2 is a threshold of 0.5.
        """
        return _best_classes(self._at_full_size(), threshold).numpy()

    def objects(self, threshold: float | None = None) -> list[SoundingObject]:
        """One per class that sounds in the frame; ``threshold`` as of :meth:`mask`."""
        probabilities = self._at_full_size()
        classes = _best_classes(probabilities, threshold)
        return [
            SoundingObject(number, self.class_names[number], float(probabilities[number][found].mean()), found.numpy())
            for number in range(1, len(probabilities))
            if (found := classes == number).any()
        ]


def _best_classes(probabilities: Tensor, threshold: float | None) -> Tensor:
    """(K, H, W) -> uint8 (H, W), see :meth:`FramePrediction.mask`."""
    if threshold is None:
        return probabilities.max(0).indices.byte()  # many times faster than argmax over this dimension
    return ((1 + probabilities[1:].max(0).indices) * (1 - probabilities[0] > threshold)).byte()


@dataclass(frozen=True)
class ClipPrediction:
    """Consecutive frames whose prediction is final.

    Attributes:
        frames: in order.
    """

    frames: list[FramePrediction]
