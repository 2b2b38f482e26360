"""Audio that is not the clip's own: what a model is tested with, and what it may be trained to answer with nothing.

All of it reaches the model through :mod:`transavs.data.front_ends`, so nothing but the sound itself gives it away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transavs.utils.errors import AVSInputError

Record = dict[str, Any]
AUDIO_KEYS = ("audio_file", "log_mel_file", "noise_seed")
DONOR_DRAWS = 50  # before all clips are looked through for one that fits


def _silence(record: Record, records: Sequence[Record], rng: np.random.Generator) -> Record:
    return {"audio_file": None, "log_mel_file": None}


def _noise(record: Record, records: Sequence[Record], rng: np.random.Generator) -> Record:
    return {"audio_file": None, "log_mel_file": None, "noise_seed": int(rng.integers(2**31))}


def _offscreen(record: Record, records: Sequence[Record], rng: np.random.Generator) -> Record:
    """The audio of a clip in which nothing sounds that is in view here."""
    in_view = set(record.get("in_view", ()))

    def fits(other: Record) -> bool:
        return bool(other.get("sounds")) and in_view.isdisjoint(other["sounds"])

    if in_view:
        for index in rng.integers(len(records), size=DONOR_DRAWS):
            if fits(records[index]):
                return _audio_of(records[index])
        fitting = [other for other in records if fits(other)]
        if fitting:
            return _audio_of(fitting[rng.integers(len(fitting))])
    raise _no_offscreen(record, len(records))


def check_offscreen(records: Sequence[Record]) -> None:
    """Raise an AVSInputError if some clip has no off-screen sound among the others, or it is not known.

    What is in view is compared once per distinct set of classes, so thousands of clips take no time.
    """
    heard = {frozenset(record.get("sounds", ())) for record in records} - {frozenset()}
    seen: dict[frozenset[str], Record] = {}
    for record in records:
        seen.setdefault(frozenset(record.get("in_view", ())), record)
    for in_view, record in seen.items():
        if not in_view or not any(in_view.isdisjoint(sounds) for sounds in heard):
            raise _no_offscreen(record, len(records))


def _no_offscreen(record: Record, clips: int) -> AVSInputError:
    return AVSInputError(
        f"clip {record['video_id']} has no 'offscreen' audio among {clips} clips: the csv must tell what sounds, in a "
        "column 'sounds' of class names joined by '_', and clips must differ in it; or leave 'offscreen' out"
    )


def _audio_of(record: Record) -> Record:
    return {key: record.get(key) for key in AUDIO_KEYS}


Replacement = Callable[[Record, Sequence[Record], np.random.Generator], Record]
NEGATIVE_AUDIO: dict[str, Replacement] = {"silence": _silence, "noise": _noise, "offscreen": _offscreen}

# Audio condition of an evaluation -> suffix of its metrics. "shuffled" gives each clip the audio of another clip, which
# may hold the same sounds; with negative audio nothing that is seen sounds.
AUDIO_CONDITIONS = {
    "true": "",
    "shuffled": "_shuffled",
    "silence": "_silence",
    "noise": "_noise",
    "offscreen": "_offscreen",
}


def apply_audio_condition(records: list[Record], condition: str, seed: int = 0) -> list[Record]:
    """Copies of the records whose audio is replaced as ``condition`` (a key of AUDIO_CONDITIONS) says.

    ``shuffled`` is one cycle through all clips in random order: each clip gets another clip's audio, each once.

    Raises:
        AVSInputError: the condition is unknown, there is a single clip to shuffle, or no off-screen sound.
    """
    if condition == "true":
        return records
    rng = np.random.default_rng(seed)
    if condition in NEGATIVE_AUDIO:
        replace = NEGATIVE_AUDIO[condition]
        return [record | replace(record, records, rng) for record in records]
    if condition != "shuffled":
        raise AVSInputError(f"TEST.AUDIO_CONDITIONS holds '{condition}': choose from {', '.join(AUDIO_CONDITIONS)}")
    if len(records) < 2:
        raise AVSInputError("TEST.AUDIO_CONDITIONS holds 'shuffled', which needs a test split of two clips or more")
    order = rng.permutation(len(records))
    donors = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [record | _audio_of(records[donors[i]]) for i, record in enumerate(records)]


@dataclass(frozen=True)
class NegativeAudio:
    """Now and then another audio for a clip in training, with which nothing sounds.

    Attributes:
        records: of the training set, where off-screen sounds come from.
        kinds: keys of NEGATIVE_AUDIO, drawn alike.
        probability: of a replacement.
    """

    records: Sequence[Record]
    kinds: Sequence[str]
    probability: float

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(NEGATIVE_AUDIO)
        if unknown or not self.kinds:
            raise AVSInputError(f"INPUT.NEGATIVE_AUDIO is {list(self.kinds)}: choose from {', '.join(NEGATIVE_AUDIO)}")
        if "offscreen" in self.kinds:
            check_offscreen(self.records)

    def draw(self, record: Record) -> Record | None:
        """The audio keys to replace, or None to leave the record as it is.

        Random numbers follow from torch's, which detectron2's loader seeds in each worker.
        """
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        if rng.random() >= self.probability:
            return None
        replace = NEGATIVE_AUDIO[self.kinds[int(rng.integers(len(self.kinds)))]]
        return replace(record, self.records, rng)
