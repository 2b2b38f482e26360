"""Scores of a data set: metrics by name, and those of its parts with what they are parts by."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transavs.data.audio_conditions import AUDIO_CONDITIONS

FRAMES, CATEGORY, CLASS = "frames", "category", "class"  # kinds of groups


@dataclass(frozen=True)
class GroupScore:
    """A metric of a part of a data set.

    Attributes:
        kind: FRAMES of one size or number of objects, clips of one CATEGORY, or pixels of one CLASS.
        group: which part, such as "small" or "dog".
        metric: "J", "F" or "IoU".
        value: in percent.
        audio: key of AUDIO_CONDITIONS.
    """

    kind: str
    group: str
    metric: str
    value: float
    audio: str = "true"


class Scores(dict[str, float]):
    """Metrics in percent by name, as detectron2 logs them: "J", "J_silence", "J-dog", "J-dog_silence".

    Names of groups are for reading. What belongs to which group stands in ``groups``, so that no name is taken apart:
    "dog_silence" may be a category too.

    Attributes:
        groups: the metrics of all groups.
    """

    def __init__(self, values: Mapping[str, float], groups: Sequence[GroupScore]):
        super().__init__(values)
        self.groups = list(groups)

    def under(self, suffix: str) -> "Scores":
        """The same scores as those of the audio condition whose metrics end in ``suffix``."""
        conditions = {ending: name for name, ending in AUDIO_CONDITIONS.items()}
        audio = conditions.get(suffix, suffix)
        values = {f"{name}{suffix}": value for name, value in self.items()}
        return Scores(values, [replace(score, audio=audio) for score in self.groups])

    @classmethod
    def merged(cls, parts: Sequence[Mapping[str, float]]) -> "Scores":
        """Put the scores of several audio conditions together.

        A name that groups of two conditions share is left out; ``groups`` has both.
        """
        counts = Counter(name for part in parts for name in part)
        values = {name: value for part in parts for name, value in part.items() if counts[name] == 1}
        return cls(values, [score for part in parts if isinstance(part, Scores) for score in part.groups])
