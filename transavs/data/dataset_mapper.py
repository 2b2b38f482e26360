"""One record -> the tensors of one clip, with the same augmentation for all of its frames.

Shape legend: T frames, L labeled frames, H x W the size that masks are scored at, S x S the network's input size.
"""

import copy
import os
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from transavs.data.audio import VGGishLogMel
from transavs.data.audio_conditions import NegativeAudio
from transavs.data.augmentations import color_jitter, scale_jitter
from transavs.data.avsbench import IGNORED_ID
from transavs.data.clip_cache import build_clip_cache, clip_key
from transavs.data.front_ends import AudioFrontEnd, find_front_end
from transavs.data.repairs import ClipRepairs, RepairLog, kinds_of
from transavs.media.images import connected_objects, read_frame, read_mask
from transavs.utils.errors import AVSInputError
from transavs.utils.tensor_cache import TensorCache


class AVSDatasetMapper:
    """The mapper of every subset, for training and testing.

    Adds to a copy of the record:

    * ``images``: uint8 (T, 3, S, S);
    * ``log_mel``: float32 (T, ...), the examples of the audio front-end: (T, 1, 96, 64) for VGGish;
    * ``masks``: int64 class ids (L, S, S) when training, (L, H, W) when testing; 0 = background, IGNORED_ID = to be
      left out;
    * ``objects``: int64 (L, S, S), when training: the connected parts of each class, numbered; 0 = none;
    * ``labeled_frames``: int64 (L,), indices into T;
    * ``repairs``: keys of :data:`transavs.data.repairs.REPAIRS`, what was not as it should be;
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
        train_frames: int = 0,
        strict: bool = False,
        negative_audio: NegativeAudio | None = None,
        cache: TensorCache | None = None,
        front_end: AudioFrontEnd | None = None,
    ):
        """
        Args:
            augmentations: drawn on the first frame of a clip and applied to all; they end at S x S. The resizing
                that they begin with, if any, does not depend on chance and is done before clips are cached.
            image_format: channel order of the model, "RGB" or "BGR".
            is_train: transform the masks with the frames and find the objects in them.
            num_classes: K; masks with other class ids than these and IGNORED_ID are refused.
            max_objects: see :func:`transavs.media.images.connected_objects`.
            score_size: H and W when testing; 0 = the clip's own.
            train_frames: L when training, drawn from the frames that have masks; 0 = all of them.
            strict: refuse what would be repaired, see :mod:`transavs.data.repairs`.
            negative_audio: replaces the audio of some clips, and empties their masks. What replaces it is not
                cached: noise is never the same again.
            cache: keeps what does not depend on chance, see :meth:`decode`; nothing else changes with it.
            front_end: makes examples of the sound; None for VGGish's.
        """
        fixed = list(takewhile(lambda augmentation: type(augmentation) is T.Resize, augmentations))
        self.resize = T.AugmentationList(fixed)
        self.augmentations = T.AugmentationList(augmentations[len(fixed) :])
        self.image_format = image_format
        self.is_train = is_train
        self.num_classes = num_classes
        self.max_objects = max_objects
        self.score_size = score_size
        self.front_end = front_end or VGGishLogMel()
        self.train_frames = train_frames
        self.repairs = RepairLog(strict)
        self.negative_audio = negative_audio
        self.cache = cache
        mask_size = "resized" if is_train else score_size
        self._decoding_settings = [*map(repr, fixed), image_format, num_classes, mask_size, strict]

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool = True, negative_audio: NegativeAudio | None = None
    ) -> dict[str, Any]:
        size = cfg.INPUT.IMAGE_SIZE
        augmentations: list[T.Augmentation] = [T.Resize((size, size))]
        if is_train and list(cfg.INPUT.SCALE_JITTER) != [1.0, 1.0]:
            augmentations += scale_jitter(size, *cfg.INPUT.SCALE_JITTER)
        if is_train and cfg.INPUT.COLOR_JITTER:
            augmentations += color_jitter(cfg.INPUT.COLOR_JITTER, cfg.INPUT.FORMAT)
        if is_train and cfg.INPUT.RANDOM_FLIP != "none":
            augmentations.append(T.RandomFlip(horizontal=cfg.INPUT.RANDOM_FLIP == "horizontal"))
        return {
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "is_train": is_train,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "max_objects": cfg.INPUT.MAX_OBJECTS,
            "score_size": cfg.TEST.SCORE_SIZE,
            "front_end": find_front_end(cfg),
            "train_frames": cfg.INPUT.TRAIN_FRAMES,
            "strict": cfg.DATALOADER.STRICT,
            "negative_audio": negative_audio,
            "cache": build_clip_cache(cfg),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        clip = copy.deepcopy(dataset_dict)
        replaced = self.negative_audio.draw(clip) if self.negative_audio is not None else None
        decoded = self._cached(clip, with_audio=replaced is None)
        frames, masks = decoded["frames"].numpy(), decoded["masks"].numpy()
        transforms = self.augmentations(T.AugInput(frames[0]))
        images = np.stack([transforms.apply_image(frame) for frame in frames])
        if self.is_train:
            # As bytes, which PIL resizes; they have been such in decode.
            masks = np.stack([transforms.apply_segmentation(mask) for mask in masks.astype(np.uint8)])
        masks = masks.astype(np.int64)
        clip["labeled_frames"] = np.take(clip["labeled_frames"], decoded["labeled"].numpy())
        if replaced is not None:
            clip |= replaced
            masks = np.zeros_like(masks)
        if self.is_train:
            if 0 < self.train_frames < len(masks):
                drawn = torch.randperm(len(masks))[: self.train_frames].sort().values.numpy()
                masks, clip["labeled_frames"] = masks[drawn], np.take(clip["labeled_frames"], drawn)
            objects = [connected_objects(np.where(mask == IGNORED_ID, 0, mask), self.max_objects) for mask in masks]
            clip["objects"] = torch.from_numpy(np.stack(objects))
        clip["images"] = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        clip["masks"] = torch.from_numpy(masks)
        clip["labeled_frames"] = torch.as_tensor(clip["labeled_frames"], dtype=torch.int64)
        clip["log_mel"] = decoded["log_mel"] if replaced is None else self._load_audio(clip)
        height, width = decoded["size"].tolist()
        return clip | {"height": height, "width": width, "repairs": kinds_of(decoded["repairs"])}

    def _cached(self, record: dict[str, Any], with_audio: bool) -> dict[str, torch.Tensor]:
        """:meth:`decode`, from the cache or, where the clip is decoded with its own audio, into it."""
        if self.cache is None:
            return self.decode(record, with_audio)
        # Before decoding: a file that changes meanwhile is seen later.
        key = clip_key(record, self._decoding_settings, self.front_end)
        found = self.cache.read(key)
        if found is None:
            found = self.decode(record, with_audio)
            if with_audio:
                self.cache.write(key, found)
        return found

    def decode(self, record: dict[str, Any], with_audio: bool = True) -> dict[str, torch.Tensor]:
        """Decode what of a clip does not depend on chance.

        Returns:
            * ``frames``: uint8 (T, S, S, 3) in the model's channel order;
            * ``masks``: class ids, (L, S, S) when training, (L, H, W) when testing; uint8 where K allows;
            * ``labeled``: int64 (L,), places in the record's ``labeled_frames`` of those that have a mask;
            * ``repairs``: see :meth:`transavs.data.repairs.ClipRepairs.to_tensor`;
            * ``size``: int64 (2,), H and W;
            * ``log_mel``: the examples of the sound, if ``with_audio``.

        Raises:
            AVSInputError: a file is missing or broken, or a frame of another size than its clip; or, taken strictly,
                anything would be repaired.
        """
        repairs = ClipRepairs(self.repairs)
        paths = self._frames_there_are(record["file_names"], repairs)
        frames = [read_frame(path, self.image_format) for path in paths]
        height, width = frames[0].shape[:2]
        for frame, path in zip(frames, paths, strict=True):
            if frame.shape != frames[0].shape:
                raise AVSInputError(
                    f"{path} is {frame.shape[1]} x {frame.shape[0]} pixels and the first frame of its clip "
                    f"{width} x {height}: extract the frames again at one size"
                )
        labeled = self._masks_there_are(record["mask_file_names"], repairs)
        masks = [
            self._read_mask(record["mask_file_names"][place], record["mask_encoding"], (width, height), repairs)
            for place in labeled
        ]

        transforms = self.resize(T.AugInput(frames[0]))
        resized = np.stack([transforms.apply_image(frame) for frame in frames])
        if not self.is_train and self.score_size:
            transforms = T.ResizeTransform(height, width, self.score_size, self.score_size)
            height = width = self.score_size
        if self.is_train or self.score_size:
            masks = [transforms.apply_segmentation(mask.astype(np.uint8)) for mask in masks]
        decoded = {
            "frames": torch.from_numpy(resized),
            "masks": torch.from_numpy(np.stack(masks).astype(np.uint8 if self.num_classes <= 256 else np.int64)),
            "size": torch.tensor([height, width]),
            "labeled": torch.tensor(labeled),
        }
        if with_audio:
            decoded["log_mel"] = self._load_audio(record, repairs)
        return decoded | {"repairs": repairs.to_tensor()}

    def _frames_there_are(self, paths: Sequence[str], repairs: ClipRepairs) -> list[str]:
        """Put the frame before it, or the first there is, in place of each one that is missing in training."""
        there = [path for path in paths if not self.is_train or os.path.isfile(path)]
        if len(there) == len(paths) or not there:  # reading tells of the first that is missing
            return list(paths)
        filled, last = [], there[0]
        for path in paths:
            if path in there:
                last = path
            else:
                repairs.add("frame-missing", f"{path} does not exist")
            filled.append(last)
        return filled

    def _masks_there_are(self, paths: Sequence[str], repairs: ClipRepairs) -> list[int]:
        """Places of the masks to read: all, but in training those that are missing, unless all are."""
        there = [place for place, path in enumerate(paths) if not self.is_train or os.path.isfile(path)]
        if not there:
            return list(range(len(paths)))
        for place in sorted(set(range(len(paths))) - set(there)):
            repairs.add("mask-missing", f"{paths[place]} does not exist")
        return there

    def _read_mask(self, path: str, encoding: str, size: tuple[int, int], repairs: ClipRepairs) -> np.ndarray:
        mask = read_mask(path, encoding)
        if mask.shape[::-1] != size:
            found = f"{mask.shape[1]} x {mask.shape[0]}"
            repairs.add("mask-size", f"{path} is {found} pixels and its frame {size[0]} x {size[1]}")
            mask = cv2.resize(mask.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int64)
        ids = mask[mask != IGNORED_ID] if self.num_classes <= IGNORED_ID else mask
        if ids.size < mask.size:
            repairs.add("mask-ignored", f"{path} holds the class {IGNORED_ID}")
        if ids.size and ids.max() >= self.num_classes:
            raise AVSInputError(
                f"{path} holds class {ids.max()} and the model knows 0 to {self.num_classes - 1}: "
                "restore the mask, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES"
            )
        return mask

    def _load_audio(self, record: dict[str, Any], repairs: ClipRepairs | None = None) -> torch.Tensor:
        """Make the examples of the audio that a record names."""
        files = record["audio_file"], record.get("log_mel_file")
        repair = repairs.add if repairs else None
        return self.front_end.load(*files, len(record["file_names"]), record.get("noise_seed"), repair)
