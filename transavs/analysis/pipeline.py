"""What surrounds a network in training and evaluation: loading before it, metrics and files after it."""

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MapDataset
from detectron2.data.build import trivial_batch_collator
from torch.nn import functional as F
from torch.utils.data import DataLoader

from transavs.analysis.timing import Step, interleaved_times
from transavs.analysis.workload import Workload, generated_clips
from transavs.data.audio import load_log_mel
from transavs.data.avsbench import load_avsbench
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.data.synthetic.dataset import write_synthetic
from transavs.evaluation.avs_evaluator import AVSEvaluator
from transavs.evaluation.prediction_writer import FORMATS, PredictionWriter

LOADED_CLIPS = 8  # that loading is measured on
WORKERS = 2
COARSE = (
    7  # side of the random probabilities before they are enlarged: predictions are smooth, and noise is long to write
)


def surroundings(cfg: CfgNode, rounds: int) -> dict[str, float]:
    """Seconds per clip (medians) of what surrounds the network.

    Args:
        cfg: that clips are loaded and scored for; the clips are generated.
        rounds: measurements of each.

    Returns:
        ``loading`` in this process, of which ``log_mel``; ``loading_two_workers``, with a loader of two processes;
        ``metrics`` of the whole clip; and ``mask_files``, its predictions written in all forms of PredictionWriter.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps = loading_steps(cfg, folder) | evaluation_steps(cfg, Path(folder))
        times = interleaved_times({name: step for name, (step, _) in steps.items()}, rounds)
    return {name: statistics.median(times[name]) / clips for name, (_, clips) in steps.items()}


def loading_steps(cfg: CfgNode, folder: str) -> dict[str, tuple[Step, int]]:
    """Steps with the number of clips that each takes."""
    write_synthetic(folder, ["s4"], {"train": LOADED_CLIPS}, size=cfg.INPUT.IMAGE_SIZE)
    records = load_avsbench(Path(folder) / "synthetic", "s4", "train")
    mapper = AVSDatasetMapper(cfg, is_train=True)
    audio = [(record["audio_file"], None, cfg.INPUT.NUM_FRAMES) for record in records]
    # The processes outlast a pass over the clips, so their start falls into the round that warms up.
    loader = DataLoader(
        MapDataset(records, mapper), num_workers=WORKERS, persistent_workers=True, collate_fn=trivial_batch_collator
    )
    return {
        "loading": (lambda: [mapper(record) for record in records], len(records)),
        "loading_two_workers": (lambda: list(loader), len(records)),
        "log_mel": (lambda: [load_log_mel(*names) for names in audio], len(records)),
    }


def evaluation_steps(cfg: CfgNode, folder: Path) -> dict[str, tuple[Step, int]]:
    """The same, on one clip with random probabilities; what is written goes to ``folder``/predictions."""
    frames, size, classes = cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    coarse = torch.rand(frames, classes, COARSE, COARSE, generator=torch.Generator().manual_seed(0))
    outputs = [{"sem_seg": F.interpolate(8 * coarse, (size, size), mode="bilinear").softmax(1)}]
    truth = folder / "masks"
    about: dict[str, Any] = {
        "video_id": "clip",
        "mask_root": str(truth),
        "mask_file_names": [str(truth / f"clip/{frame}.png") for frame in range(frames)],
    }
    inputs = [generated_clips(cfg, 1, frames)[0] | about]
    evaluator = AVSEvaluator([str(number) for number in range(classes)])
    writer = PredictionWriter(folder / "predictions", FORMATS, classes)

    def score() -> None:
        evaluator.reset()
        evaluator.process(inputs, outputs)

    def write() -> None:
        writer.reset()
        writer.process(inputs, outputs)
        writer.evaluate()  # writes the run-length codes

    return {"metrics": (score, 1), "mask_files": (write, 1)}


def shares(around: Mapping[str, float], costs: Mapping[str, float], workload: Workload) -> dict[str, float]:
    """What surrounds a network as shares of its own time.

    Args:
        around: of :func:`surroundings`.
        costs: seconds ``inference`` and ``train`` of a batch.
        workload: that they were measured with.

    Returns:
        ``loading_of_training``: loading a batch with two workers, of a training iteration;
        ``evaluation_of_inference``: metrics, masks and files of a batch, of its inference.
    """
    evaluation = around["metrics"] + around["mask_files"]
    return {
        "loading_of_training": workload.clips * around["loading_two_workers"] / costs["train"],
        "evaluation_of_inference": workload.clips * evaluation / costs["inference"],
    }
