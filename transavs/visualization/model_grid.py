"""Several models on the same clips, a row per model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from transavs.checkpoint.load import load_model
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.utils.errors import AVSInputError
from transavs.utils.weight_files import read_checkpoint
from transavs.visualization.clip_figure import Clip, clip_picture, jaccard_label
from transavs.visualization.clips import ClipPicture
from transavs.visualization.records import Record


@dataclass(frozen=True)
class Source:
    """Source of a model; see :func:`transavs.checkpoint.load.load_model`."""

    weights: Path
    config_file: Path | None = None


def model_sources(weights: Sequence[Path], config_files: Sequence[Path]) -> list[Source]:
    """Each checkpoint with its own config, or with the next of ``config_files`` where it carries none.

    Raises:
        AVSInputError: a checkpoint cannot be read, or there are not as many configs as checkpoints without.
    """
    bare = [path for path in weights if "config" not in read_checkpoint(path)]
    if len(bare) != len(config_files):
        listed = f" ({', '.join(map(str, bare))})" if bare else ""
        raise AVSInputError(
            f"{len(bare)} checkpoints carry no config{listed}, {len(config_files)} configs are given: give one for each"
        )
    remaining = iter(config_files)
    return [Source(path, next(remaining) if path in bare else None) for path in weights]


def compare_models(
    sources: Mapping[str, Source], records: Sequence[Record], device: str, note: str = ""
) -> list[ClipPicture]:
    """Run one model after the other on the same clips, with a progress bar.

    Args:
        sources: by the name of the row.
        records: of a data set.
        device: to run on.
        note: to stand in each title after the clip's name.

    Returns:
        a picture per record; its rows are named by the model and its J on the clip, its ground truth is the first's,
        should they be scored at different sizes.

    Raises:
        AVSInputError: a checkpoint cannot be loaded, or a model does not fit the clips.
    """
    clips: list[Clip] = []
    rows: list[dict[str, np.ndarray]] = [{} for _ in records]
    with tqdm(total=len(sources) * len(records), unit="clip") as progress, torch.inference_mode():
        for name, source in sources.items():
            model, cfg, _ = load_model(source.weights, device, source.config_file)
            mapper = AVSDatasetMapper(cfg, is_train=False)
            for index, record in enumerate(records):
                clip = mapper(record)
                sem_seg = model([clip])[0]["sem_seg"].cpu()
                rows[index][f"{name}\n{jaccard_label(clip, sem_seg)}"] = sem_seg.argmax(1).numpy()
                if len(clips) <= index:
                    clips.append(clip)
                progress.update()
    return [clip_picture(clip, f"{clip['video_id']}{note}", found) for clip, found in zip(clips, rows, strict=True)]
