"""What is benchmarked: a config's model, and plain ResNet-50, which its costs are told in multiples of."""

from collections.abc import Callable
from dataclasses import dataclass
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

from transavs.analysis.timing import Step, seconds, timed_parts
from transavs.data.audio import fit_seconds, log_mel_examples
from transavs.data.synthetic.dataset import DIFFICULTIES
from transavs.data.synthetic.scenes import render_clip
from transavs.engine.solver import build_optimizer
from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.images import connected_objects
from transavs.modeling.activation_checkpoint import checkpoint_activations
from transavs.modeling.optimize import optimize_for_inference


@dataclass(frozen=True)
class Workload:
    """What models are given to do, and how they do it.

    Attributes:
        clips: in a batch.
        labeled: frames per clip with ground truth in training.
        amp: under autocast: on GPUs in float16 with a scaled loss, as detectron2's AMPTrainer does it, on CPUs in
            bfloat16.
        compiler: backend of torch.compile, "" for none.
    """

    clips: int = 1
    labeled: int = 1
    amp: bool = False
    compiler: str = ""


def generated_clips(cfg: CfgNode, number: int, labeled: int) -> list[dict[str, Any]]:
    """Clips of the synthetic data set's shapes as the mapper would make them, with the first frames labeled."""
    frames, size = cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE
    rng = np.random.default_rng(0)
    difficulty = DIFFICULTIES["hard"]
    clips = []
    for _ in range(number):
        kinds = difficulty.draw_kinds(rng).values()
        images, visible = render_clip([kind.look for kind in kinds], difficulty.scenery, frames, size, rng)
        sounding = np.ones((len(kinds), frames), dtype=bool)
        wave = difficulty.mix(kinds, sounding, rng)
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


class BenchmarkModel:
    """A model with the two steps that are measured, each on the same clips."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, clips: list[dict[str, Any]], workload: Workload
    ):
        self.model, self.optimizer, self.clips = model, optimizer, clips
        self.device = next(model.parameters()).device
        self.run: Callable[..., Any] = model
        self.autocast = torch.autocast(self.device.type, enabled=workload.amp)
        # bfloat16 has float32's range and needs no scaling; switched off, it hands everything on as it is.
        scaled = workload.amp and torch.get_autocast_dtype(self.device.type) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)

    @classmethod
    def from_config(cls, cfg: CfgNode, workload: Workload) -> "BenchmarkModel":
        """The model of ``cfg`` with random weights."""
        model = build_model(cfg)
        checkpoint_activations(model, cfg.MODEL.ACTIVATION_CHECKPOINTING)
        return cls(model, build_optimizer(cfg, model), generated_clips(cfg, workload.clips, workload.labeled), workload)

    def deploy(self) -> None:
        """From now on the model is as the tools use it for inference, and not to be trained."""
        self.model = self.run = optimize_for_inference(self.model)

    def compile(self, backend: str) -> None:
        """From now on both steps run what a backend of torch.compile makes of the model."""
        self.run = torch.compile(self.model, backend=backend)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def predict(self) -> object:
        return self.run(self.clips)

    @torch.inference_mode()
    def infer(self) -> None:
        self.model.eval()
        with self.autocast:
            self.predict()

    def train(self) -> None:
        """One iteration."""
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def loss(self) -> Tensor:
        """The sum of the weighted losses, in training mode."""
        self.model.train()
        with EventStorage(), self.autocast:
            return torch.stack(list(self.run(self.clips).values())).sum()

    def flops(self) -> int:
        """Floating point operations of :meth:`infer`, a multiplication and an addition counted as two.

        To be called before :meth:`compile`, since compiled code is not seen into; :meth:`parts` likewise.
        """
        self.model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:  # it cannot follow inference mode
            self.predict()
        return counter.get_total_flops()

    def parts(self, step: Step, rounds: int = 1) -> dict[str, float]:
        """Seconds of each part of the model in the forward pass of a step, and "rest", all that is in none.

        Means of some rounds, after one that warms up.
        """
        step()
        with timed_parts(self.model, self.device) as taken:
            whole = sum(seconds(step, self.device) for _ in range(rounds))
        parts = dict(taken) | {"rest": whole - sum(taken.values())}
        return {name: value / rounds for name, value in parts.items()}


class PlainResNet50(BenchmarkModel):
    """torchvision's ResNet-50 on the frames of the same clips, with its 1000 classes."""

    @classmethod
    def from_config(cls, cfg: CfgNode, workload: Workload) -> "PlainResNet50":
        """On the frames of the clips that the model of ``cfg`` gets."""
        model = torchvision.models.resnet50().to(cfg.MODEL.DEVICE)
        clips = generated_clips(cfg, workload.clips, workload.labeled)
        return cls(model, torch.optim.AdamW(model.parameters()), clips, workload)

    def deploy(self) -> None:
        """It stays as torchvision has it."""

    def frames(self) -> Tensor:
        return torch.cat([clip["images"] for clip in self.clips]).to(self.device).float() / 255

    def predict(self) -> object:
        return self.run(self.frames())

    def loss(self) -> Tensor:
        self.model.train()
        frames = self.frames()
        with self.autocast:
            return F.cross_entropy(self.run(frames), torch.arange(len(frames), device=self.device))
