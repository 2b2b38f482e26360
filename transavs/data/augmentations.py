"""detectron2 augmentations that one draw decides for all frames of a clip."""

import numpy as np
from detectron2.data import transforms as T

LUMA = {"RGB": (0.299, 0.587, 0.114), "BGR": (0.114, 0.587, 0.299)}
PADDING = 128  # of images, near the mean of ImageNet's


class RandomSaturation(T.RandomSaturation):
    """detectron2's, which blends each frame with its own gray image.

    The original keeps the one of the frame that it was drawn on, which would shine through all others.
    """

    def __init__(self, intensity_min: float, intensity_max: float, image_format: str):
        """
        Args:
            intensity_min, intensity_max: as detectron2's; 1 leaves the image as it is.
            image_format: order of the channels, "RGB" or "BGR".
        """
        super().__init__(intensity_min, intensity_max)
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> T.Transform:
        weight, luma = self._rand_range(self.intensity_min, self.intensity_max), np.array(LUMA[self.image_format])

        def blend(frame: np.ndarray) -> np.ndarray:
            gray = (frame @ luma)[..., None]
            return T.BlendTransform(gray, src_weight=1 - weight, dst_weight=weight).apply_image(frame)

        return T.ColorTransform(blend)


def scale_jitter(size: int, smallest: float, largest: float) -> list[T.Augmentation]:
    """Scaling of square images of side ``size`` by a factor from ``smallest`` to ``largest``, and back to that side.

    A larger image is cropped at a random place; a smaller one is padded on the right and below, with ``PADDING`` and,
    in masks, with the background.
    """
    pad = T.FixedSizeCrop((size, size), pad_value=PADDING)  # its own crops lie on the diagonal
    pad.seg_pad_value = 0  # as in v0.6, which has no such option; main's is 255
    return [T.ResizeScale(smallest, largest, size, size), T.RandomCrop("absolute", (size, size)), pad]


def color_jitter(strength: float, image_format: str) -> list[T.Augmentation]:
    """Change of brightness, contrast and saturation, each by a factor that differs from 1 by ``strength`` at most."""
    low, high = 1 - strength, 1 + strength
    return [T.RandomBrightness(low, high), T.RandomContrast(low, high), RandomSaturation(low, high, image_format)]
