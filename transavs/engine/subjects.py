"""What is benchmarked: a config's model, and plain ResNet-50, which its costs are told in multiples of."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from transavs.data.audio import SAMPLE_RATE, fit_seconds, log_mel_examples
from transavs.data.images import connected_objects
from transavs.data.synthetic import TIMBRES
from transavs.data.synthetic_scenes import LOOKS, render_clip
from transavs.data.synthetic_sounds import mix
from transavs.engine.solver import build_optimizer

PARTS = ("forward", "forward_features")  # methods by which the parts of a model are called


def generated_clips(cfg: CfgNode, number: int, labeled: int) -> list[dict[str, Any]]:
    """Clips of the synthetic data set's shapes as the mapper would make them, with the first frames labelled."""
    frames, size = cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(number):
        names = rng.choice(sorted(LOOKS), size=2, replace=False)
        images, visible = render_clip([LOOKS[name] for name in names], frames, size, rng)
        wave = mix([TIMBRES[name] for name in names], np.ones((len(names), frames), dtype=bool), SAMPLE_RATE, rng)
        masks = visible[:, :labeled].max(0).astype(np.int64)
        objects = np.stack([connected_objects(mask, cfg.INPUT.MAX_OBJECTS) for mask in masks])
        clips.append(
            {
                "images": torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
                "log_mel": fit_seconds(log_mel_examples(wave, SAMPLE_RATE), frames),
                "labeled_frames": torch.arange(labeled),
                "masks": torch.from_numpy(masks),
                "objects": torch.from_numpy(objects),
                "height": size,
                "width": size,
            }
        )
    return clips


class Subject:
    """A model with the two steps that are measured, each on the same clips."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, clips: list[dict[str, Any]]):
        self.model, self.optimizer, self.clips = model, optimizer, clips

    @classmethod
    def from_config(cls, cfg: CfgNode, clips: int, labeled: int) -> "Subject":
        """
        Args:
            cfg: of the model.
            clips: in a batch.
            labeled: frames per clip with ground truth in training.
        """
        model = build_model(cfg)
        return cls(model, build_optimizer(cfg, model), generated_clips(cfg, clips, labeled))

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def predict(self) -> object:
        return self.model(self.clips)

    @torch.inference_mode()
    def infer(self) -> None:
        self.model.eval()
        self.predict()

    def train(self) -> None:
        """One iteration."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def loss(self) -> Tensor:
        """The sum of the weighted losses, in training mode."""
        self.model.train()
        with EventStorage():
            return torch.stack(list(self.model(self.clips).values())).sum()

    def flops(self) -> int:
        """Floating point operations of :meth:`infer`, a multiplication and an addition counted as two."""
        self.model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:  # it cannot follow inference mode
            self.predict()
        return counter.get_total_flops()

    def parts(self, step: Callable[[], object]) -> dict[str, float]:
        """Seconds that each part of the model takes in the forward pass of a step, and "rest", all that is in none."""
        with timed_parts(self.model) as taken:
            start = time.perf_counter()
            step()
            synchronize()
            whole = time.perf_counter() - start
        return dict(taken) | {"rest": whole - sum(taken.values())}


class PlainResNet50(Subject):
    """torchvision's ResNet-50 on the frames of the same clips, with its 1000 classes."""

    @classmethod
    def on(cls, clips: list[dict[str, Any]], device: str) -> "PlainResNet50":
        model = torchvision.models.resnet50().to(device)
        return cls(model, torch.optim.AdamW(model.parameters()), clips)

    def frames(self) -> Tensor:
        device = next(self.model.parameters()).device
        return torch.cat([clip["images"] for clip in self.clips]).to(device).float() / 255

    def predict(self) -> object:
        return self.model(self.frames())

    def loss(self) -> Tensor:
        self.model.train()
        frames = self.frames()
        return F.cross_entropy(self.model(frames), torch.arange(len(frames), device=frames.device))


@contextmanager
def timed_parts(model: nn.Module) -> Iterator[dict[str, float]]:
    """Within it, the seconds spent in each child of ``model`` add up in the dict; a list of modules is one part."""
    taken: dict[str, float] = defaultdict(float)
    wrapped: list[tuple[nn.Module, str]] = []

    def wrap(module: nn.Module, method: str, part: str) -> None:
        original = getattr(module, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            synchronize()
            start = time.perf_counter()
            result = original(*args, **kwargs)
            synchronize()
            taken[part] += time.perf_counter() - start
            return result

        setattr(module, method, timed)
        wrapped.append((module, method))

    for part, child in model.named_children():
        for module in child.children() if isinstance(child, nn.ModuleList | nn.ModuleDict) else (child,):
            for method in PARTS:
                if hasattr(module, method):
                    wrap(module, method, part)
    try:
        yield taken
    finally:
        for module, method in wrapped:
            delattr(module, method)  # the class's own is seen again


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
