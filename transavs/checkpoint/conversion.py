"""Converted weights, and the rules by which names of other projects become ours."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

VISUAL_PREFIX = "backbone."  # of the visual backbone in both meta-architectures
# RGB, each channel to mean 0 and deviation 1.
IMAGENET_INPUT = (
    *("INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
)


@dataclass(frozen=True)
class Conversion:
    """The converted weights and what to do with them.

    Attributes:
        state: tensors by our names.
        unused: names in the file that nothing was made of.
        weights_key: of the config, which is to name the converted file.
        settings: KEY VALUE pairs that fit the rest of the config to these weights.
        remarks: on what was made of what.
    """

    state: State
    unused: list[str]
    weights_key: str
    settings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def rename(name: str, rules: Rules) -> str:
    """Replace, rule by rule, what each pattern finds in a name."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
