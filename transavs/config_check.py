"""What no run could do with a config, told before any work begins: values out of range, and names that nothing has."""

import math
import reprlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from transavs.data.audio_conditions import AUDIO_CONDITIONS, NEGATIVE_AUDIO
from transavs.errors import AVSInputError
from transavs.evaluation.prediction_writer import FORMATS
from transavs.limits import MAX_SIDE
from transavs.modeling.audio_backbone import AUDIO_BACKBONE_REGISTRY
from transavs.modeling.query_decoder import TRANSFORMER_DECODER_REGISTRY
from transavs.precision import PRECISIONS

SMALLEST_IMAGE = 8  # side in pixels
LARGEST_SEED = 2**32 - 1 - 2**16  # NumPy's, with room for a rank to be added
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")

# Key -> least and largest value of a number.
RANGES: dict[str, tuple[float, float]] = {
    "VERSION": (2, 2),
    "SEED": (-1, LARGEST_SEED),
    "INPUT.NUM_FRAMES": (1, math.inf),
    "INPUT.IMAGE_SIZE": (SMALLEST_IMAGE, MAX_SIDE),
    "INPUT.TRAIN_FRAMES": (0, math.inf),
    "INPUT.MAX_OBJECTS": (1, math.inf),
    "INPUT.COLOR_JITTER": (0, 1),
    "INPUT.NEGATIVE_AUDIO_PROB": (0, 1),
    "TEST.SCORE_SIZE": (0, MAX_SIDE),
    "TEST.FRAMES_AT_ONCE": (1, math.inf),
    "TEST.FIGURE_CLIPS": (0, math.inf),
    "TEST.EVAL_PERIOD": (0, math.inf),
    "DATALOADER.NUM_WORKERS": (0, math.inf),
    "SOLVER.IMS_PER_BATCH": (1, math.inf),
    "SOLVER.MAX_ITER": (0, math.inf),
    "SOLVER.BASE_LR": (0, math.inf),
    "SOLVER.BACKBONE_MULTIPLIER": (0, math.inf),
    "SOLVER.WEIGHT_DECAY": (0, math.inf),
    "SOLVER.WARMUP_ITERS": (0, math.inf),
    "SOLVER.CHECKPOINT_PERIOD": (1, math.inf),
    "SOLVER.POLY_LR_POWER": (0, math.inf),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (0, math.inf),
    "SOLVER.MAX_SKIPPED_BATCHES": (0, math.inf),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": (2, 2**16),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": (1, math.inf),
    "MODEL.AUDIO_BACKBONE.EMBED_DIM": (1, math.inf),
    "MODEL.TIMM.DROP_PATH_RATE": (0, 1),
    "MODEL.TIMM.FROZEN_STAGES": (0, math.inf),
    "MODEL.TRANSAVS.NUM_OBJECT_QUERIES": (1, math.inf),
    "MODEL.TRANSAVS.HIDDEN_DIM": (1, math.inf),
    "MODEL.TRANSAVS.ENC_LAYERS": (0, math.inf),
    "MODEL.TRANSAVS.DEC_LAYERS": (1, math.inf),
    "MODEL.TRANSAVS.NHEADS": (1, math.inf),
    "MODEL.TRANSAVS.DIM_FEEDFORWARD": (1, math.inf),
    "MODEL.TRANSAVS.DROPOUT": (0, 1),
    "MODEL.TRANSAVS.AUDIO_CONTEXT": (0, math.inf),
    "MODEL.TRANSAVS.QUERY_CONTENT_STD": (0, math.inf),
    "MODEL.TRANSAVS.LOSS_STRIDE": (1, math.inf),
    "MODEL.TRANSAVS.QUERIES_PER_OBJECT": (1, math.inf),
    "MODEL.TRANSAVS.ALIGNMENT_WEIGHT": (0, math.inf),
    "MODEL.TRANSAVS.ALIGNMENT_TEMPERATURE": (1e-3, math.inf),
    "MODEL.TRANSAVS.DELTA_STEPS": (1, math.inf),
    "MODEL.TRANSAVS.DELTA_PERIOD": (1, math.inf),
    "MODEL.TPAVI.WINDOW": (1, math.inf),
}
# Key -> what its value, or each entry of the list that it is, may be.
CHOICES: dict[str, Collection[Any]] = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.RANDOM_FLIP": ("none", "horizontal", "vertical"),
    "INPUT.NEGATIVE_AUDIO": NEGATIVE_AUDIO,
    "TEST.AUDIO_CONDITIONS": AUDIO_CONDITIONS,
    "TEST.SAVE_PREDICTIONS": FORMATS,
    "TEST.PRECISION": PRECISIONS,
    "DATALOADER.ON_BROKEN_CLIP": ("stop", "skip"),
    "SOLVER.AMP.PRECISION": ("", "bfloat16", "float16"),
    "SOLVER.ON_NON_FINITE": ("stop", "skip"),
    "SOLVER.ON_SILENT_BATCH": ("train", "skip", "stop"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupPolyLR", "WarmupCosineLR", "WarmupMultiStepLR"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("full_model", "value", "norm"),  # transavs/engine/solver.py
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "MODEL.RESNETS.NORM": NORMS,
    "MODEL.TIMM.OUT_NORM": ("", "LN"),
    "MODEL.SEM_SEG_HEAD.NORM": NORMS,
    "MODEL.AUDIO_BACKBONE.SMALL_NORM": NORMS,
}
# Key -> how many numbers it lists (None: one or more), and the least of them.
LISTS: dict[str, tuple[int | None, float]] = {
    "INPUT.SCALE_JITTER": (2, 0.1),
    "MODEL.PIXEL_MEAN": (3, -math.inf),
    "MODEL.PIXEL_STD": (3, 1e-6),
    "MODEL.RESNETS.BASIC_CHANNELS": (4, 1),
    "MODEL.AUDIO_BACKBONE.SMALL_CHANNELS": (None, 1),
    "MODEL.TRANSAVS.DELTA_1": (2, 0),
    "MODEL.TRANSAVS.DELTA_2": (2, 0),
    "MODEL.TPAVI.DILATIONS": (None, 1),
    "MODEL.TPAVI.HEAD_CHANNELS": (2, 1),
}
REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.AUDIO_BACKBONE.NAME": AUDIO_BACKBONE_REGISTRY,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.TRANSAVS.TRANSFORMER_DECODER_NAME": TRANSFORMER_DECODER_REGISTRY,
}


def check_sections(values: Mapping[str, Any], default: CfgNode, path: str = "") -> None:
    """Raise an AVSInputError if what a file holds has a plain value, or none, where keys belong.

    Args:
        values: of the file, perhaps with other faults.
        default: a config with every key.
        path: of the section, with a dot at its end.
    """
    for key, value in values.items():
        section = default.get(key)
        if isinstance(section, CfgNode):
            if not isinstance(value, dict):
                raise AVSInputError(f"{path}{key} is {reprlib.repr(value)}: give keys below it, or leave it out")
            check_sections(value, section, f"{path}{key}.")


def check_values(cfg: CfgNode, default: CfgNode) -> None:
    """Raise an AVSInputError if a value of ``cfg`` is missing or out of its range, whatever runs it where.

    Args:
        cfg: the config.
        default: one with the same keys, where those are None that may be.
    """
    for key in _emptied(cfg, default):
        raise AVSInputError(f"{key} has no value: give one, or leave the key out")
    for key, (least, most) in RANGES.items():
        value = _value(cfg, key)
        if not _is_number(value) or not least <= value <= most:
            wanted = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise AVSInputError(f"{key} is {reprlib.repr(value)}: give {wanted}")
    for key, choices in CHOICES.items():
        value = _value(cfg, key)
        for entry in value if isinstance(value, list | tuple) else [value]:
            if entry not in list(choices):
                listed = ", ".join(map(repr, choices))
                raise AVSInputError(f"{key} holds {reprlib.repr(entry)}: choose from {listed}")
    for key, (length, least) in LISTS.items():
        values = _value(cfg, key)
        if len(values) != (length or max(1, len(values))) or not all(_is_number(n) and n >= least for n in values):
            raise AVSInputError(
                f"{key} is {reprlib.repr(values)}: give {length or 'one or more'} numbers from {least} on"
            )
    channels, heads = cfg.MODEL.TRANSAVS.HIDDEN_DIM, cfg.MODEL.TRANSAVS.NHEADS
    if channels % heads:
        raise AVSInputError(f"MODEL.TRANSAVS.HIDDEN_DIM is {channels}: give a multiple of NHEADS, which is {heads}")


def check_names(cfg: CfgNode) -> None:
    """Raise an AVSInputError if ``cfg`` names a part or data set that is not registered, or no folder to write into.

    What it names must be registered by then; where a model alone is used, data sets need not be.
    """
    for key, registry in REGISTRIES.items():
        if _value(cfg, key) not in registry:
            names = ", ".join(sorted(name for name, _ in registry))
            raise AVSInputError(f"{key} is {_value(cfg, key)!r}, which is not registered: choose from {names}")
    if not cfg.DATASETS.TRAIN:
        raise AVSInputError("DATASETS.TRAIN is empty: name a data set to train on")
    known = DatasetCatalog.list()
    ours = sorted(name for name in known if MetadataCatalog.get(name).get("evaluator_type") == "avs")
    for key in ("DATASETS.TRAIN", "DATASETS.VAL", "DATASETS.TEST"):
        for name in _value(cfg, key):
            if name not in known:
                raise AVSInputError(f"{key} holds {name!r}, which is not registered: choose from {', '.join(ours)}")
    for folder in (Path(cfg.OUTPUT_DIR), *Path(cfg.OUTPUT_DIR).parents):
        if folder.exists() and not folder.is_dir():
            raise AVSInputError(f"OUTPUT_DIR is {cfg.OUTPUT_DIR!r} and {folder} is a file: name a folder")


def _emptied(cfg: CfgNode, default: CfgNode, path: str = "") -> Iterator[str]:
    """Keys whose value YAML left out, with what stands above them."""
    for key, value in default.items():
        found = cfg.get(key)
        if found is None and value is not None:
            yield path + key
        elif isinstance(value, CfgNode) and isinstance(found, CfgNode):
            yield from _emptied(found, value, f"{path}{key}.")


def _value(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
