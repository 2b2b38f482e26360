"""One record -> the tensors of one clip, with the same augmentation for all of its frames.

Shape legend: T frames, L labelled frames, H x W the clip's own size, S x S the network's input size.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from PIL import Image, UnidentifiedImageError

from transavs.data.audio import load_log_mel
from transavs.errors import AVSInputError


def read_frame(path: str, image_format: str) -> np.ndarray:
    """uint8 (H, W, 3) in ``image_format`` ("RGB" or "BGR").

    Raises:
        AVSInputError: the file is missing or no image.
    """
    if not Path(path).is_file():
        raise AVSInputError(f"{path} does not exist: extract the frames of this clip, or remove the clip from the csv")
    try:
        return detection_utils.read_image(path, format=image_format)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # PIL raises each of these on broken files
        raise AVSInputError(f"{path} cannot be read as an image ({error}): extract the frame again") from error


def read_binary_mask(path: str) -> np.ndarray:
    """int64 (H, W): 1 where the mask is not black. Reads binary, grey, palette and colour files alike.

    Raises:
        AVSInputError: the file is missing or no image.
    """
    if not Path(path).is_file():
        raise AVSInputError(f"{path} does not exist: restore the mask, or remove the clip from the csv")
    try:
        with Image.open(path) as image:
            if image.mode in ("1", "L"):
                return (np.asarray(image) > 0).astype(np.int64)
            return np.any(np.asarray(image.convert("RGB")) > 0, axis=-1).astype(np.int64)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise AVSInputError(f"{path} cannot be read as an image ({error}): restore the mask") from error


class AVSDatasetMapper:
    """The mapper of every subset, for training and testing.

    Adds to a copy of the record:

    * ``images``: uint8 (T, 3, S, S);
    * ``log_mel``: float32 (T, 1, 96, 64);
    * ``masks``: int64 (L, S, S) when training, (L, H, W) when testing; 0 = background;
    * ``labeled_frames``: int64 (L,), indices into T;
    * ``height``, ``width``: H and W.
    """

    @configurable
    def __init__(self, *, augmentations: Sequence[T.Augmentation], image_format: str, resize_masks: bool):
        """
        Args:
            augmentations: drawn on the first frame of a clip and applied to all; they end at S x S.
            image_format: channel order of the model, "RGB" or "BGR".
            resize_masks: transform the masks with the frames, as training needs; otherwise they keep H x W.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.resize_masks = resize_masks

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        size = cfg.INPUT.IMAGE_SIZE
        augmentations: list[T.Augmentation] = [T.Resize((size, size))]
        if is_train and cfg.INPUT.RANDOM_FLIP != "none":
            augmentations.append(T.RandomFlip(horizontal=cfg.INPUT.RANDOM_FLIP == "horizontal"))
        return {"augmentations": augmentations, "image_format": cfg.INPUT.FORMAT, "resize_masks": is_train}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        clip = copy.deepcopy(dataset_dict)
        frames = [read_frame(path, self.image_format) for path in clip["file_names"]]
        height, width = frames[0].shape[:2]
        masks = [read_binary_mask(path) for path in clip["mask_file_names"]]
        for frame, path in zip(frames, clip["file_names"], strict=True):
            if frame.shape != frames[0].shape:
                raise AVSInputError(
                    f"{path} is {frame.shape[1]} x {frame.shape[0]} pixels and the first frame of its clip "
                    f"{width} x {height}: extract the frames again at one size"
                )
        for mask, path in zip(masks, clip["mask_file_names"], strict=True):
            if mask.shape != (height, width):
                raise AVSInputError(
                    f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels and its frame {width} x {height}: "
                    "restore the mask at its frame's size"
                )

        transforms = self.augmentations(T.AugInput(frames[0]))
        images = np.stack([transforms.apply_image(frame) for frame in frames])
        if self.resize_masks:
            masks = [transforms.apply_segmentation(mask.astype(np.uint8)) for mask in masks]
        clip["images"] = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        clip["masks"] = torch.from_numpy(np.stack(masks).astype(np.int64))
        clip["labeled_frames"] = torch.tensor(clip["labeled_frames"], dtype=torch.int64)
        clip["log_mel"] = load_log_mel(clip["audio_file"], clip.get("log_mel_file"), len(frames))
        return clip | {"height": height, "width": width}
