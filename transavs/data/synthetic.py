"""Writes a small data set of moving shapes and their sounds in AVSBench-object's own layout.

Which objects sound is drawn after the scene and independently of it, so nothing but the audio tells. S4 clips hold
one source that sounds all along; in MS3 the set of sources changes from second to second and is now and then empty.
"""

import csv
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import soundfile
from tqdm import tqdm

from transavs.data import synthetic_sounds
from transavs.data.avsbench import LAYOUTS, Layout
from transavs.data.synthetic_scenes import LOOKS, render_clip

TIMBRES: dict[str, synthetic_sounds.Timbre] = {name: getattr(synthetic_sounds, name) for name in LOOKS}
SAMPLE_RATE = 16000
MASK_VALUE = 255
EMPTY_SECOND = 0.06  # probability that nothing sounds in a second of MS3
FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True)
class ClipPlan:
    """What one clip is made of; everything in it follows from ``seed``."""

    root: Path
    subset: str
    split: str
    index: int
    size: int
    seed: int

    @property
    def video(self) -> str:
        return f"{self.subset}_{self.split}_{self.index:04d}_0"

    def generator(self) -> np.random.Generator:
        """Random numbers of this clip alone, the same whatever order or process the clips are made in."""
        return np.random.default_rng([self.seed, *self.subset.encode(), *self.split.encode(), self.index])


def one_source(objects: int, seconds: int, rng: np.random.Generator) -> np.ndarray:
    """One object sounds all along: bool (objects, T)."""
    return np.repeat(np.arange(objects)[:, None] == rng.integers(objects), seconds, axis=1)


def changing_sources(objects: int, seconds: int, rng: np.random.Generator) -> np.ndarray:
    """Any set of objects in each second, now and then none: bool (objects, T)."""
    sounding = rng.random((objects, seconds)) < 0.45
    for second in range(seconds):
        if not sounding[:, second].any() and rng.random() > EMPTY_SECOND:
            sounding[rng.integers(objects), second] = True
    return sounding


SOURCES = {"s4": one_source, "ms3": changing_sources}


def _prepare_folder(path: str | Path) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def write_clip(plan: ClipPlan) -> str:
    """Write frames, masks and wav of one clip; returns the category of its first source."""
    rng = plan.generator()
    layout = LAYOUTS[plan.subset]
    classes = rng.choice(sorted(LOOKS), size=rng.integers(2, 4), replace=False)
    images, visible = render_clip([LOOKS[name] for name in classes], layout.num_frames, plan.size, rng)
    sounding = SOURCES[plan.subset](len(classes), layout.num_frames, rng)
    wave = synthetic_sounds.mix([TIMBRES[name] for name in classes], sounding, SAMPLE_RATE, rng)
    category = str(classes[sounding.any(1).argmax()])

    record = layout.record(plan.root, plan.video, category, plan.split)
    for path, image in zip(record["file_names"], images, strict=True):
        cv2.imwrite(_prepare_folder(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), FAST_PNG)
    for path, frame in zip(record["mask_file_names"], record["labeled_frames"], strict=True):
        mask = (visible[:, frame] & sounding[:, frame, None, None]).any(0)
        cv2.imwrite(_prepare_folder(path), mask.astype(np.uint8) * MASK_VALUE, FAST_PNG)
    soundfile.write(_prepare_folder(record["audio_file"]), wave, SAMPLE_RATE, subtype="PCM_16")
    return category


def _write_meta(path: Path, layout: Layout, rows: list[dict[str, str]]) -> None:
    """The subset's csv; of each row the columns that the subset has."""
    with open(_prepare_folder(path), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, layout.columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_synthetic(
    root: str | Path, subsets: list[str], clips: dict[str, int], size: int, seed: int = 0, workers: int = 1
) -> None:
    """Write the data set; the same arguments give the same bytes.

    Args:
        root: folder to write ``Single-source`` and ``Multi-sources`` into.
        subsets: keys of LAYOUTS.
        clips: clips per split.
        size: side of the square frames, in pixels.
        seed: of every random choice.
        workers: processes that write at a time.
    """
    with ProcessPoolExecutor(workers) as pool:
        for subset in subsets:
            plans = [
                ClipPlan(Path(root), subset, split, index, size, seed)
                for split, count in clips.items()
                for index in range(count)
            ]
            written = tqdm(pool.map(write_clip, plans, chunksize=4), total=len(plans), unit="clip", desc=subset)
            rows = [
                {"name": plan.video, "video_id": plan.video, "start": "0", "category": category, "split": plan.split}
                for plan, category in zip(plans, written, strict=True)
            ]
            # The csv comes last: a tree without it counts as not there, so an interrupted run is seen as such.
            _write_meta(Path(root) / LAYOUTS[subset].meta, LAYOUTS[subset], rows)
