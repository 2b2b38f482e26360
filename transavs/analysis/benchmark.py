"""Costs of models, measured in turns with plain ResNet-50 on the same frames in the same run."""

import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from transavs.analysis.timing import Step, interleaved_times, part_shares, peak_memory
from transavs.data.avsbench import load_avsbench
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.data.front_ends import find_front_end
from transavs.data.synthetic.dataset import write_synthetic
from transavs.engine.launch import prepare_cpu
from transavs.engine.solver import build_optimizer
from transavs.evaluation.avs_evaluator import AVSEvaluator
from transavs.inference.backends import ClipFormat, OnnxBackend, PyTorchBackend
from transavs.inference.export import export_model
from transavs.modeling.activation_checkpoint import checkpoint_activations
from transavs.modeling.compilation import compile_network
from transavs.modeling.meta_arch import AVSModel
from transavs.modeling.optimize import optimize_for_inference
from transavs.utils.precision import autocast

REFERENCE = "torchvision ResNet-50"
STEPS = ("train", "inference")  # in this order: a model that is optimized for inference cannot be trained
PIPELINE_CLIPS = 4  # that loading and scoring are measured on
Costs = dict[str, dict[str, Any]]  # what compare returns


@dataclass(frozen=True)
class Workload:
    """Work that models are given, and how they do it.

    Attributes:
        clips: in a batch.
        labeled: frames per clip with ground truth in training.
        precision: that the network computes in, under autocast, as in training.
        compiler: backend of torch.compile, "" for none.
        exported: whether models predict as ONNX graphs besides.
    """

    clips: int = 1
    labeled: int = 1
    precision: torch.dtype = torch.float32
    compiler: str = ""
    exported: bool = False


@META_ARCH_REGISTRY.register()
class PlainResNet50(nn.Module):
    """torchvision's ResNet-50 with its 1000 classes, called as the meta-architectures are."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.net = torchvision.models.resnet50()

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Tensor | dict[str, Tensor]:
        device = self.net.fc.weight.device
        logits: Tensor = self.net(torch.cat([clip["images"] for clip in batched_inputs]).to(device).float() / 255)
        if not self.training:
            return logits
        return {"loss": F.cross_entropy(logits, torch.arange(len(logits), device=device))}


def reference_config(cfg: CfgNode) -> CfgNode:
    """Return the config of plain ResNet-50 on the clips and the device of ``cfg``."""
    reference = cfg.clone()
    reference.defrost()
    reference.MODEL.META_ARCHITECTURE = PlainResNet50.__name__
    reference.MODEL.ACTIVATION_CHECKPOINTING = []
    return reference


def random_clips(cfg: CfgNode, workload: Workload) -> list[dict[str, Any]]:
    """Make clips of noise as the mapper would give them, the left half of each of the first frames sounding."""
    frames, size, front_end = cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE, find_front_end(cfg)
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(workload.labeled, size, size, dtype=torch.int64)
    masks[..., : size // 2] = 1
    truth = {"labeled_frames": torch.arange(workload.labeled), "masks": masks, "objects": masks}
    return [
        {
            "images": torch.randint(256, (frames, 3, size, size), dtype=torch.uint8, generator=rng),
            "log_mel": torch.randn(frames, *front_end.shape, generator=rng),
            "height": size,
            "width": size,
            **truth,
        }
        for _ in range(workload.clips)
    ]


class BenchmarkModel:
    """The model of a config, with random weights, and the steps that are measured, all on the same clips."""

    def __init__(self, cfg: CfgNode, workload: Workload):
        self.model = build_model(cfg)
        checkpoint_activations(self.model, cfg.MODEL.ACTIVATION_CHECKPOINTING)
        self.run: Callable[..., Any] = self.model
        self.optimizer = build_optimizer(cfg, self.model)
        self.clips = random_clips(cfg, workload)
        self.compiler = workload.compiler
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.precision = workload.precision
        # Switched off, it hands everything on as it is.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def optimize_for_inference(self) -> None:
        """Make the model what the tools use for inference; plain ResNet-50 stays as torchvision has it."""
        self.run = self.model if isinstance(self.model, PlainResNet50) else optimize_for_inference(self.model)

    def compile(self, step: str) -> None:
        """Let a step run what the workload's backend of torch.compile makes of the model, if there is one.

        In training that is the network, as ``MODEL.COMPILE`` has it.
        """
        if not self.compiler:
            return
        torch.compiler.reset()  # after code for another size, this one's would be made for variable shapes
        if step == "train" and isinstance(self.model, AVSModel):
            compile_network(self.model, self.compiler)
        else:
            self.run = torch.compile(self.model, backend=self.compiler)

    def prepare(self, step: str) -> Step:
        """Make the model what a step of :data:`STEPS` runs, and return the step."""
        if step == "inference":
            self.optimize_for_inference()
        self.compile(step)
        run: Step = getattr(self, step)
        return run

    def exported(self, cfg: CfgNode) -> tuple[str, Step]:
        """Return what runs the model, which ``cfg`` made, as an ONNX graph, and the step that predicts the clips so."""
        classes = [str(number) for number in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
        own = PyTorchBackend(self.model, ClipFormat.from_config(cfg, classes, self.model))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_model(own, path)
            graph = OnnxBackend.from_file(path, self.device)
        images, log_mel = (torch.stack([clip[key] for clip in self.clips]) for key in ("images", "log_mel"))
        return graph.provider, partial(graph, images, log_mel)

    @torch.inference_mode()
    def inference(self) -> None:
        """Predict the clips."""
        self.model.eval()
        with autocast(self.precision, self.device):
            self.run(self.clips)

    def loss(self) -> Tensor:
        """Sum the weighted losses, in training mode."""
        self.model.train()
        with EventStorage(), autocast(self.precision, self.device):
            return torch.stack(list(self.run(self.clips).values())).sum()

    def train(self) -> None:
        """Run one iteration."""
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def flops(self, step: str = "inference") -> int:
        """Count the floating point operations of a step of :data:`STEPS`, a multiplication and an addition as two."""
        with FlopCounterMode(display=False) as counter:
            if step == "train":
                self.loss().backward()
                return counter.get_total_flops()
            self.model.eval()
            with torch.no_grad():  # it cannot follow inference mode
                self.model(self.clips)
        return counter.get_total_flops()


def step_peak(cfg: CfgNode, workload: Workload, step: str) -> int:
    """Measure the most bytes that this process, or its GPU, holds during a step of :data:`STEPS`."""
    prepare_cpu()
    model = BenchmarkModel(cfg, workload)
    run = model.prepare(step)
    run()  # makes the optimizer's state, and compiles
    return peak_memory(run, model.device)


def compare(configs: Mapping[str, CfgNode], workload: Workload, rounds: int) -> Costs:
    """Measure the costs of models, and as multiples of plain ResNet-50 on the same frames in the same run.

    Args:
        configs: by name, of one size of clips and one device.
        workload: the same for all.
        rounds: measurements of each step.

    Returns:
        by name, that of ResNet-50 first: ``parameters``, ``flops`` of inference, median seconds ``inference`` and
        ``train`` of a batch, ``inference_ratio`` and ``train_ratio``, ``clips_per_second`` of inference,
        ``inference_peak_mb`` and ``train_peak_mb`` (10^6 bytes, of :func:`step_peak` in a fresh process), and by step
        ``parts``: shares in inference and in the training iteration's forward pass, never compiled. Of ONNX graphs,
        whose names end in what runs them, nothing of training and no peak.
    """
    configs = {REFERENCE: reference_config(next(iter(configs.values()))), **configs}
    costs = _costs_in_turns(configs, workload, rounds)
    context = multiprocessing.get_context("forkserver")  # imports once, and every process starts from there
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh_processes:
        for name, cfg in configs.items():
            for step in STEPS:
                costs[name][f"{step}_peak_mb"] = fresh_processes.submit(step_peak, cfg, workload, step).result() / 1e6
    return costs


def _costs_in_turns(configs: Mapping[str, CfgNode], workload: Workload, rounds: int) -> Costs:
    """Measure all that :func:`compare` returns but the peaks, of models with the reference among them."""
    models = {name: BenchmarkModel(cfg, workload) for name, cfg in configs.items()}
    costs: Costs = {
        name: {"parameters": sum(p.numel() for p in model.model.parameters()), "flops": model.flops(), "parts": {}}
        for name, model in models.items()
    }
    for step in STEPS:
        for name, model in models.items():
            if step == "inference":
                model.optimize_for_inference()
            forward_pass = model.inference if step == "inference" else model.loss
            if name != REFERENCE:
                costs[name]["parts"][step] = part_shares(model.model, forward_pass, rounds, model.device)
            model.compile(step)
        steps: dict[str, Step] = {name: getattr(model, step) for name, model in models.items()}
        if step == "inference" and workload.exported:
            graphs = {name: models[name].exported(cfg) for name, cfg in configs.items() if name != REFERENCE}
            for name, (runtime, predict) in graphs.items():
                steps[f"{name}, {runtime}"] = predict
                unchanged = {key: costs[name][key] for key in ("parameters", "flops")}
                costs[f"{name}, {runtime}"] = unchanged | {"parts": {}}
        times = interleaved_times(steps, rounds, models[REFERENCE].device)
        reference = statistics.median(times[REFERENCE])
        for name, values in times.items():
            median = statistics.median(values)
            costs[name] |= {step: median, f"{step}_ratio": median / reference}
    return {name: found | {"clips_per_second": workload.clips / found["inference"]} for name, found in costs.items()}


def pipeline(cfg: CfgNode, rounds: int) -> dict[str, float]:
    """Measure the seconds per clip (medians) of ``loading`` before the network and of ``scoring`` after it.

    Args:
        cfg: that generated MS3 clips are loaded for, as in training and in this process, and random probabilities
            scored.
        rounds: measurements of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(folder, ["ms3"], {"test": PIPELINE_CLIPS}, size=cfg.INPUT.IMAGE_SIZE)
        records = load_avsbench(Path(folder) / "synthetic", "ms3", "test")
        load, load_for_test = AVSDatasetMapper(cfg, is_train=True), AVSDatasetMapper(cfg, is_train=False)
        clips = [load_for_test(record) for record in records]
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        sizes = [clip["masks"].shape for clip in clips]
        outputs = [{"sem_seg": torch.rand(frames, classes, *size).softmax(1)} for frames, *size in sizes]
        evaluator = AVSEvaluator([str(number) for number in range(classes)])
        steps: dict[str, Step] = {
            "loading": lambda: [load(record) for record in records],
            "scoring": lambda: evaluator.process(clips, outputs),
        }
        times = interleaved_times(steps, rounds)
    return {name: statistics.median(values) / len(records) for name, values in times.items()}
