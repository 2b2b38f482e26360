"""One record -> the tensors of one clip, with the same augmentation for all of its frames.

Shape legend: T frames, L labelled frames, H x W the size that masks are scored at, S x S the network's input size.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from transavs.data.audio import load_log_mel
from transavs.data.audio_conditions import NegativeAudio
from transavs.data.images import connected_objects, read_frame, read_mask
from transavs.errors import AVSInputError


class AVSDatasetMapper:
    """The mapper of every subset, for training and testing.

    Adds to a copy of the record:

    * ``images``: uint8 (T, 3, S, S);
    * ``log_mel``: float32 (T, 1, 96, 64);
    * ``masks``: int64 class ids (L, S, S) when training, (L, H, W) when testing; 0 = background;
    * ``objects``: int64 (L, S, S), when training: the connected parts of each class, numbered; 0 = none;
    * ``labeled_frames``: int64 (L,), indices into T;
    * ``height``, ``width``: H and W, the frames' own unless ``score_size`` is given.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        is_train: bool,
        num_classes: int,
        max_objects: int,
        score_size: int,
        negative_audio: NegativeAudio | None = None,
    ):
        """
        Args:
            augmentations: drawn on the first frame of a clip and applied to all; they end at S x S.
            image_format: channel order of the model, "RGB" or "BGR".
            is_train: transform the masks with the frames and find the objects in them.
            num_classes: K; masks with other class ids are refused.
            max_objects: see :func:`transavs.data.images.connected_objects`.
            score_size: H and W when testing; 0 = the clip's own.
            negative_audio: replaces the audio of some clips, and empties their masks.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.is_train = is_train
        self.num_classes = num_classes
        self.max_objects = max_objects
        self.score_size = score_size
        self.negative_audio = negative_audio

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool = True, negative_audio: NegativeAudio | None = None
    ) -> dict[str, Any]:
        size = cfg.INPUT.IMAGE_SIZE
        augmentations: list[T.Augmentation] = [T.Resize((size, size))]
        if is_train and cfg.INPUT.RANDOM_FLIP != "none":
            augmentations.append(T.RandomFlip(horizontal=cfg.INPUT.RANDOM_FLIP == "horizontal"))
        return {
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "is_train": is_train,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "max_objects": cfg.INPUT.MAX_OBJECTS,
            "score_size": cfg.TEST.SCORE_SIZE,
            "negative_audio": negative_audio,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        clip = copy.deepcopy(dataset_dict)
        frames = [read_frame(path, self.image_format) for path in clip["file_names"]]
        height, width = frames[0].shape[:2]
        for frame, path in zip(frames, clip["file_names"], strict=True):
            if frame.shape != frames[0].shape:
                raise AVSInputError(
                    f"{path} is {frame.shape[1]} x {frame.shape[0]} pixels and the first frame of its clip "
                    f"{width} x {height}: extract the frames again at one size"
                )
        masks = [self._read_mask(path, clip["mask_encoding"], height, width) for path in clip["mask_file_names"]]

        transforms = self.augmentations(T.AugInput(frames[0]))
        images = np.stack([transforms.apply_image(frame) for frame in frames])
        if not self.is_train and self.score_size:
            transforms = T.ResizeTransform(height, width, self.score_size, self.score_size)
            height = width = self.score_size
        if self.is_train or self.score_size:
            masks = [transforms.apply_segmentation(mask.astype(np.uint8)).astype(np.int64) for mask in masks]
        replaced = self.negative_audio.draw(clip) if self.negative_audio is not None else None
        if replaced is not None:
            clip |= replaced
            masks = [np.zeros_like(mask) for mask in masks]
        if self.is_train:
            objects = [connected_objects(mask, self.max_objects) for mask in masks]
            clip["objects"] = torch.from_numpy(np.stack(objects))
        clip["images"] = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        clip["masks"] = torch.from_numpy(np.stack(masks))
        clip["labeled_frames"] = torch.tensor(clip["labeled_frames"], dtype=torch.int64)
        clip["log_mel"] = load_log_mel(
            clip["audio_file"], clip.get("log_mel_file"), len(frames), clip.get("noise_seed")
        )
        return clip | {"height": height, "width": width}

    def _read_mask(self, path: str, encoding: str, height: int, width: int) -> np.ndarray:
        mask = read_mask(path, encoding)
        if mask.shape != (height, width):
            raise AVSInputError(
                f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels and its frame {width} x {height}: "
                "restore the mask at its frame's size"
            )
        if mask.max() >= self.num_classes:
            raise AVSInputError(
                f"{path} holds class {mask.max()} and the model knows 0 to {self.num_classes - 1}: "
                "restore the mask, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES"
            )
        return mask
