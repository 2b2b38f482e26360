"""Validation of configs before any work begins: sections of another type, values out of range."""

import math
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from transavs.data.audio_conditions import AUDIO_CONDITIONS, NEGATIVE_AUDIO
from transavs.evaluation.prediction_writer import FORMATS
from transavs.utils.errors import AVSInputError
from transavs.utils.limits import MAX_SIDE
from transavs.utils.precision import PRECISIONS

SMALLEST_IMAGE = 8  # side in pixels

# Key -> least and largest value, or of each entry of a list. Those that would fail late, or quietly do something else.
RANGES: dict[str, tuple[float, float]] = {
    "INPUT.NUM_FRAMES": (1, math.inf),
    "INPUT.IMAGE_SIZE": (SMALLEST_IMAGE, MAX_SIDE),
    "INPUT.TRAIN_FRAMES": (0, math.inf),
    "INPUT.COLOR_JITTER": (0, 1),
    "INPUT.NEGATIVE_AUDIO_PROB": (0, 1),
    "TEST.SCORE_SIZE": (0, MAX_SIDE),
    "TEST.FRAMES_PER_CHUNK": (1, math.inf),
    "TEST.EVAL_PERIOD": (0, math.inf),
    "SOLVER.IMS_PER_BATCH": (1, math.inf),
    "SOLVER.ACCUMULATE": (1, math.inf),
    "SOLVER.MAX_ITER": (1, math.inf),
    "SOLVER.CHECKPOINT_PERIOD": (1, math.inf),
    "TEST.AUG.MIN_SIZES": (SMALLEST_IMAGE, MAX_SIDE),
    "MODEL.EMA.DECAY": (0, 1),
    "MODEL.TIMM.LAYER_DECAY": (0, 1),
    "MODEL.AUDIO_BACKBONE.CONTEXT": (0, 10),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": (2, 2**16),
    "MODEL.MSDEFORMATTN.NHEADS": (1, math.inf),
    "MODEL.MSDEFORMATTN.NUM_POINTS": (1, math.inf),
    "MODEL.TRANSAVS.NUM_OBJECT_QUERIES": (1, math.inf),
    "MODEL.TRANSAVS.DEC_LAYERS": (1, math.inf),
    "MODEL.TRANSAVS.QUERY_BLOCKS": (1, math.inf),
    "MODEL.TRANSAVS.LOSS_STRIDE": (1, math.inf),
    "MODEL.TRANSAVS.THRESHOLD_STEPS": (1, math.inf),
    "MODEL.TRANSAVS.THRESHOLD_PERIOD": (0, math.inf),
    "MODEL.TRANSAVS.QUERIES_PER_OBJECT": (1, math.inf),
    "MODEL.TRANSAVS.ALIGNMENT_TEMPERATURE": (1e-3, math.inf),
}
# Key -> what its value, or each entry of the list that it is, may be.
CHOICES: dict[str, Collection[Any]] = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.NEGATIVE_AUDIO": NEGATIVE_AUDIO,
    "TEST.AUDIO_CONDITIONS": AUDIO_CONDITIONS,
    "TEST.SAVE_PREDICTIONS": FORMATS,
    "TEST.PRECISION": PRECISIONS,
    "DATALOADER.ON_BROKEN_CLIP": ("stop", "skip"),
    "MODEL.COMPILE": ("", "inductor", "cudagraphs", "aot_eager", "eager"),
    "SOLVER.AMP.PRECISION": ("", "bfloat16", "float16"),
    "SOLVER.ON_NON_FINITE": ("stop", "skip"),
    "SOLVER.ON_SILENT_BATCH": ("train", "skip", "stop"),
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
    """Raise an AVSInputError if a value of ``cfg`` is missing or out of its range.

    Args:
        cfg: the config.
        default: one with the same keys, where those are None that may be.
    """
    for key in _emptied(cfg, default):
        raise AVSInputError(f"{key} has no value: give one, or leave the key out")
    for key, (least, most) in RANGES.items():
        for value in _entries(value_of(cfg, key)):
            if not isinstance(value, int | float) or not least <= value <= most:
                wanted = f"{least} or more" if most == math.inf else f"{least} to {most}"
                raise AVSInputError(f"{key} is {reprlib.repr(value)}: give {wanted}")
    for key, choices in CHOICES.items():
        for entry in _entries(value_of(cfg, key)):
            if entry not in list(choices):
                listed = ", ".join(map(repr, choices))
                raise AVSInputError(f"{key} holds {reprlib.repr(entry)}: choose from {listed}")
    if cfg.MODEL.COMPILE and cfg.MODEL.ACTIVATION_CHECKPOINTING:
        raise AVSInputError(
            "MODEL.COMPILE and MODEL.ACTIVATION_CHECKPOINTING exclude each other: set the one to '' or the other to []"
        )


def _entries(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _emptied(cfg: CfgNode, default: CfgNode, path: str = "") -> Iterator[str]:
    """Yield keys whose value YAML left out, with what stands above them."""
    for key, value in default.items():
        found = cfg.get(key)
        if found is None and value is not None:
            yield path + key
        elif isinstance(value, CfgNode) and isinstance(found, CfgNode):
            yield from _emptied(found, value, f"{path}{key}.")


def value_of(cfg: CfgNode, key: str) -> Any:
    """Look up a key such as "SOLVER.BASE_LR"."""
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    return value
