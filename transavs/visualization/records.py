"""Choice of clips for figures, and of a name for each model or run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from transavs.data.audio_conditions import AUDIO_CONDITIONS, apply_audio_condition
from transavs.utils.errors import AVSInputError

Record = dict[str, Any]
EXAMPLES = 5  # in messages


def load_records(dataset: str, condition: str = "true") -> list[Record]:
    """The records of a registered data set with the audio that ``condition``, a key of AUDIO_CONDITIONS, says.

    Raises:
        AVSInputError: there is no such data set, its files are missing, or there is no such condition.
    """
    ours = [name for name in DatasetCatalog.list() if MetadataCatalog.get(name).get("evaluator_type") == "avs"]
    if dataset not in ours:
        raise AVSInputError(f"there is no data set '{dataset}': choose from {', '.join(sorted(ours))}")
    if condition not in AUDIO_CONDITIONS:
        raise AVSInputError(f"there is no audio condition '{condition}': choose from {', '.join(AUDIO_CONDITIONS)}")
    return apply_audio_condition(DatasetCatalog.get(dataset), condition)


def pick_records(records: Sequence[Record], clips: Sequence[str], number: int = 1) -> list[Record]:
    """The records with the ``video_id`` that ``clips`` name; where they name none, ``number`` of all, evenly spread.

    Data sets are sorted by category, so the first ones would show one category alone. The name of a clip's video does
    as well where no other clip has a video of that name.

    Raises:
        AVSInputError: there is no such clip, several clips have that name, or no clip is asked for.
    """
    if not clips and number < 1:
        raise AVSInputError(f"{number} clips make no figure: ask for one or more")
    if not clips:
        places = np.linspace(0, len(records) - 1, min(number, len(records))).round().astype(int)
        return [records[place] for place in places]
    by_id = {record["video_id"]: record for record in records}
    chosen = []
    for clip in clips:
        named = [by_id[clip]] if clip in by_id else [record for record in records if record.get("video") == clip]
        if not named:
            raise AVSInputError(f"there is no clip '{clip}': name others, such as {', '.join([*by_id][:EXAMPLES])}")
        if len(named) > 1:
            ids = ", ".join([record["video_id"] for record in named][:EXAMPLES])
            raise AVSInputError(f"{len(named)} clips are called '{clip}': name one of them, such as {ids}")
        chosen += named
    return chosen


def distinct_names(paths: Sequence[Path], given: Sequence[str], short: Callable[[Path], str]) -> list[str]:
    """A name for each path: those given, or else ``short`` of each where these differ, or else the whole paths.

    Raises:
        AVSInputError: not as many names as paths are given, or one of them twice.
    """
    if given and len(given) != len(paths):
        raise AVSInputError(f"{len(given)} names are given for {len(paths)} paths: give one for each")
    shortened = [short(path) for path in paths]
    names = list(given) or (shortened if len(set(shortened)) == len(paths) else [str(path) for path in paths])
    if len(set(names)) < len(names):
        raise AVSInputError(f"the names {', '.join(names)} are not all different: give each its own")
    return names
