"""Models as the predictor sees them: clips of tensors in, scores out, whether from a checkpoint or an exported file."""

import json
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import Tensor

from transavs.checkpoint import load_model
from transavs.errors import AVSInputError
from transavs.limits import MAX_SIDE
from transavs.modeling.base import AVSModel
from transavs.precision import autocast, find_precision


@dataclass(frozen=True)
class ClipFormat:
    """What a model takes and gives.

    Attributes:
        num_frames: T, frames of a clip, one per second.
        image_size: S, side of the square frames in pixels.
        image_format: order of their channels, "RGB" or "BGR".
        class_names: K names, the background first.
        sees_other_seconds: whether what is predicted for a frame depends on the other seconds of its clip.
    """

    num_frames: int
    image_size: int
    image_format: str
    class_names: tuple[str, ...]
    sees_other_seconds: bool

    def __post_init__(self) -> None:
        """
        Raises:
            AVSInputError: a value is none that a model can have; files bring their own.
        """
        numbers = (self.num_frames, self.image_size)
        if not all(isinstance(number, int) and 1 <= number <= MAX_SIDE for number in numbers):
            raise AVSInputError(f"a model of {numbers} frames and pixels: name another model")
        if self.image_format not in ("RGB", "BGR"):
            raise AVSInputError(f"a model of images in {reprlib.repr(self.image_format)}: name another model")
        if len(self.class_names) < 2 or not all(isinstance(name, str) for name in self.class_names):
            raise AVSInputError(f"a model of the classes {reprlib.repr(self.class_names)}: name another model")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ClipFormat":
        values = json.loads(text)
        return cls(**values | {"class_names": tuple(values["class_names"])})

    @classmethod
    def from_config(cls, cfg: CfgNode, class_names: Sequence[str], model: AVSModel) -> "ClipFormat":
        return cls(
            num_frames=cfg.INPUT.NUM_FRAMES,
            image_size=cfg.INPUT.IMAGE_SIZE,
            image_format=cfg.INPUT.FORMAT,
            class_names=tuple(class_names),
            sees_other_seconds=model.sees_other_seconds,
        )


class ClipScorer:
    """A model in the form that :class:`transavs.predictor.AVSPredictor` runs."""

    format: ClipFormat

    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        """
        Args:
            images: uint8 (B, T, 3, S, S).
            log_mel: float32 (B, T, 1, 96, 64), the second of sound around each frame.

        Returns:
            float32 scores in [0, 1] on the CPU, (B, T, K, S, S), summing to 1 over K.
        """
        raise NotImplementedError


class ModelScorer(ClipScorer):
    """A model in PyTorch."""

    def __init__(self, model: AVSModel, clip_format: ClipFormat, precision: torch.dtype = torch.float32):
        """
        Args:
            model: in evaluation mode.
            clip_format: what it takes and gives.
            precision: that it computes in, under autocast; scores are float32 all the same.
        """
        self.model, self.format, self.precision = model, clip_format, precision

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device,
        config_file: str | Path | None = None,
        precision: str = "float32",
    ) -> "ModelScorer":
        """See :func:`transavs.checkpoint.load_model` and :func:`transavs.precision.find_precision`."""
        model, cfg, class_names = load_model(path, device, config_file)
        if not isinstance(model, AVSModel):
            raise AVSInputError(f"{path} is a {type(model).__name__}, no AVSModel: name a model of transavs")
        return cls(model, ClipFormat.from_config(cfg, class_names, model), find_precision(precision, device))

    @torch.inference_mode()
    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        with autocast(self.precision, self.model.device):
            scores = self.model.score_clips(images.float(), log_mel)
        return scores.float().cpu()
