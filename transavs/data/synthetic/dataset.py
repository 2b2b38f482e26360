"""Writes a small data set of moving shapes and their sounds in AVSBench's own layouts.

Which objects sound is drawn after the scene and independently of it, so nothing but the audio tells. S4 clips hold
one source that sounds all along; in MS3 the set of sources changes from second to second and is now and then empty.
AVSS has clips of both kinds, long ones among them, and its masks tell the classes apart.

The easy set has six classes, each with a shape, a texture, a hue and a timbre that no other has. The hard one predicts
what photographs and recordings ask for: its 18 classes share all of them and differ by how they are combined.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import soundfile
import torch
from tqdm import tqdm

from transavs.data.audio import log_mel_pickle
from transavs.data.avsbench import COLUMNS_OF_OURS, LAYOUTS, SOURCES, Layout
from transavs.data.synthetic import sounds as synthetic_sounds
from transavs.data.synthetic.scenes import OUTLINES, TEXTURES, AnyScene, Look, Scene, Scenery, render_clip
from transavs.data.synthetic.sounds import Soundscape, Timbre
from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.mask_encodings import voc_palette
from transavs.utils.atomic_files import atomic_write, write_file, write_image
from transavs.utils.errors import AVSInputError, choose

FAMILIES: tuple[Callable[..., np.ndarray], ...] = (
    *(synthetic_sounds.violin, synthetic_sounds.bell, synthetic_sounds.siren),
    *(synthetic_sounds.motor, synthetic_sounds.surf, synthetic_sounds.bird),
)
HUES = (0.00, 0.15, 0.62, 0.33, 0.50, 0.82)
REGISTERS = {"low": 0.5, "middle": 1.0, "high": 2.0}  # pitch of a family's classes
EMPTY_SECOND = 0.06  # probability that nothing sounds in a second of MS3
SMALLEST, LARGEST = 16, 4096  # sides in pixels
FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class World(Protocol):
    """Material of clips: classes, and how they look and sound."""

    @property
    def mute(self) -> float:
        """Probability that an object of MS3 makes no sound in its whole clip."""

    @property
    def class_ids(self) -> dict[str, int]:
        """Number of each class, from 1 on."""

    def draw_kinds(self, rng: np.random.Generator) -> dict[str, Any]:
        """The classes of the objects of one clip, by name."""

    def draw_scene(self, kinds: Mapping[str, Any], frames: int, size: int, rng: np.random.Generator) -> AnyScene:
        """Place an object of each of these classes on a square image of ``size`` pixels for ``frames`` seconds."""

    def mix(self, kinds: Iterable[Any], sounding: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sound of one clip, float64 (samples,), where bool ``sounding`` (objects, T) says which sounds when."""


@dataclass(frozen=True)
class Kind:
    """A class: what it looks and sounds like."""

    look: Look
    timbre: Timbre


@dataclass(frozen=True)
class Difficulty:
    """Settings that make a data set easy or hard to learn.

    Attributes:
        kinds: classes by name.
        objects: least and most in a clip, each of another class.
        mute: probability that an object of MS3 makes no sound in its whole clip.
        scenery: what is seen.
        soundscape: what is heard beside the sources.
    """

    kinds: Mapping[str, Kind]
    objects: tuple[int, int]
    mute: float
    scenery: Scenery
    soundscape: Soundscape

    @property
    def class_ids(self) -> dict[str, int]:
        """Number of each class, from 1 on."""
        return {name: number for number, name in enumerate(sorted(self.kinds), start=1)}

    def draw_kinds(self, rng: np.random.Generator) -> dict[str, Kind]:
        """The classes of the objects of one clip."""
        least, most = self.objects
        names = rng.choice(sorted(self.kinds), size=rng.integers(least, most + 1), replace=False)
        return {str(name): self.kinds[name] for name in names}

    def draw_scene(self, kinds: Mapping[str, Kind], frames: int, size: int, rng: np.random.Generator) -> Scene:
        """Place an object of each of these classes on a square image of ``size`` pixels for ``frames`` seconds."""
        return Scene.draw([kind.look for kind in kinds.values()], self.scenery, frames, size, rng)

    def mix(self, kinds: Iterable[Kind], sounding: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sound of one clip, float64 (samples,), where bool ``sounding`` (objects, T) says which sounds when."""
        timbres = [kind.timbre for kind in kinds]
        return synthetic_sounds.mix(timbres, sounding, self.soundscape, SAMPLE_RATE, rng)


def _distinct_kinds() -> dict[str, Kind]:
    looks = (Look(*look) for look in zip(OUTLINES, TEXTURES, HUES, strict=True))
    return {timbre.__name__: Kind(look, timbre) for look, timbre in zip(looks, FAMILIES, strict=True)}


def _combined_kinds() -> dict[str, Kind]:
    """A class for each family and register: three share each outline, texture, hue and family, no two share two."""
    return {
        f"{register}-{timbre.__name__}": Kind(
            Look(
                OUTLINES[(family + step) % len(OUTLINES)],
                TEXTURES[(family + 2 * step) % len(TEXTURES)],
                HUES[(family + 3 * step) % len(HUES)],
            ),
            partial(timbre, pitch=pitch),
        )
        for family, timbre in enumerate(FAMILIES)
        for step, (register, pitch) in enumerate(REGISTERS.items())
    }


DIFFICULTIES = {
    "easy": Difficulty(
        kinds=_distinct_kinds(),
        objects=(2, 3),
        mute=0.0,
        scenery=Scenery(radius=(0.17, 0.26), min_visible=0.5, clutter=0, natural=False),
        soundscape=Soundscape(gaps=0.0, noise=(0.002, 0.002)),
    ),
    "hard": Difficulty(
        kinds=_combined_kinds(),
        objects=(2, 3),
        mute=0.2,
        scenery=Scenery(radius=(0.13, 0.28), min_visible=0.4, clutter=1, natural=True),
        soundscape=Soundscape(gaps=0.5, noise=(0.003, 0.05)),
    ),
}


@dataclass(frozen=True)
class ClipPlan:
    """Plan of one clip; everything in it follows from ``seed``."""

    root: Path  # of the subset
    subset: str
    split: str
    index: int
    size: int
    world: Callable[[str], World]  # of a split; pickled with each plan
    seed: int
    log_mel: bool = False  # whether pickles are wanted too, of subsets that have them

    @property
    def video(self) -> str:
        return f"{self.subset}_{self.split}_{self.index:04d}_0"

    @property
    def part(self) -> str:
        """The parts of a subset in turn."""
        parts = list(LAYOUTS[self.subset].num_frames)
        return parts[self.index % len(parts)]

    def generator(self) -> np.random.Generator:
        """Random numbers of this clip alone, the same whatever order or process the clips are made in."""
        return np.random.default_rng([self.seed, *self.subset.encode(), *self.split.encode(), self.index])


def one_source(objects: int, seconds: int, mute: float, rng: np.random.Generator) -> np.ndarray:
    """One object sounds all along, whatever ``mute`` says: bool (objects, T)."""
    return np.repeat(np.arange(objects)[:, None] == rng.integers(objects), seconds, axis=1)


def changing_sources(objects: int, seconds: int, mute: float, rng: np.random.Generator) -> np.ndarray:
    """Any set of objects in each second, now and then none, but those that are mute: bool (objects, T)."""
    can_sound = np.flatnonzero(rng.random(objects) >= mute)
    if not len(can_sound):
        can_sound = rng.integers(objects, size=1)
    sounding = np.zeros((objects, seconds), dtype=bool)
    sounding[can_sound] = rng.random((len(can_sound), seconds)) < 0.45
    for second in range(seconds):
        if not sounding[:, second].any() and rng.random() > EMPTY_SECOND:
            sounding[rng.choice(can_sound), second] = True
    return sounding


# By subset and part: which objects sound when.
SOUNDING = {
    ("s4", ""): one_source,
    ("ms3", ""): changing_sources,
    ("avss", "v1s"): one_source,
    ("avss", "v1m"): changing_sources,
    ("avss", "v2"): changing_sources,
}


def _prepare_folder(path: str | Path) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def write_clip(plan: ClipPlan) -> dict[str, str]:
    """Write frames, masks and wav of one clip; returns what the subset's csv may say of it."""
    rng = plan.generator()
    layout, world = LAYOUTS[plan.subset], plan.world(plan.split)
    frames = layout.num_frames[plan.part]
    kinds = world.draw_kinds(rng)
    images, visible = render_clip(world.draw_scene(kinds, frames, plan.size, rng), frames, rng)
    sounding = SOUNDING[plan.subset, plan.part](len(kinds), frames, world.mute, rng)
    wave = world.mix(kinds.values(), sounding, rng)
    heard = [name for name, seconds in zip(kinds, sounding, strict=True) if seconds.any()] or list(kinds)[:1]
    category = heard[0] if layout.mask_encoding == "binary" else "_".join(heard)

    names = {"video": plan.video, "category": category, "split": plan.split, "part": plan.part}
    record = layout.record(plan.root, **names)
    for path, image in zip(record["file_names"], images, strict=True):
        _write_image(path, image)
    numbers = world.class_ids
    ids = np.array([numbers[name] for name in kinds], dtype=np.uint8)
    labeled = record["labeled_frames"]
    masks = [(ids[:, None, None] * (visible[:, k] & sounding[:, k, None, None])).max(0) for k in labeled]
    for path, mask in zip(record["mask_file_names"], masks, strict=True):
        _write_image(path, np.where(mask > 0, 255, 0).astype(np.uint8) if layout.mask_encoding == "binary" else mask)
    if layout.color_masks:
        palette = voc_palette(len(numbers) + 1)
        for path, mask in zip(layout.frame_paths(plan.root, layout.color_masks, labeled, **names), masks, strict=True):
            _write_image(path, palette[mask])
    soundfile.write(_prepare_folder(record["audio_file"]), wave, SAMPLE_RATE, subtype="PCM_16")
    if plan.log_mel and record["log_mel_file"]:
        write_file(record["log_mel_file"], log_mel_pickle(record["audio_file"], frames))
    start = {"start": "0", "s_min": "0", "s_sec": "0"}
    named = {"name": plan.video, "video_id": plan.video, "vid": plan.video.removesuffix("_0"), "uid": plan.video}
    named |= {"category": category, "a_obj": category, "split": plan.split, "label": plan.part}
    return start | named | {"sounds": "_".join(heard), "in_view": "_".join(kinds)}


def _write_image(path: str, image: np.ndarray) -> None:
    """RGB (H, W, 3) or gray (H, W)."""
    options = FAST_PNG if path.endswith(".png") else []
    write_image(path, image[..., ::-1] if image.ndim == 3 else image, options)


def _write_meta(root: Path, layout: Layout, class_ids: dict[str, int], rows: list[dict[str, str]]) -> None:
    """The subset's csv, of each row the columns that the subset has; and where it has one, the file of class names."""
    if isinstance(layout.class_names, str):
        numbers = {"background": 0} | class_ids
        write_file(root / layout.class_names, json.dumps(numbers, indent=2) + "\n")
    path = _prepare_folder(root / layout.meta)
    with atomic_write(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*layout.columns, *COLUMNS_OF_OURS), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def difficulty_of_splits(difficulty: str, split: str) -> Difficulty:
    """The entry of DIFFICULTIES, the same for each split; a function, since the entries cannot be pickled."""
    return choose(DIFFICULTIES, difficulty, "difficulty")


def write_synthetic(
    datasets_root: str | Path,
    subsets: list[str],
    clips: dict[str, int],
    size: int,
    *,
    source: str = "synthetic",
    difficulty: str = "hard",
    seed: int = 0,
    log_mel: bool = False,
    workers: int = 1,
) -> None:
    """Write the data set of moving shapes; the same arguments give the same bytes.

    Args:
        datasets_root: what DETECTRON2_DATASETS is to name.
        subsets: keys of LAYOUTS.
        clips: clips per split.
        size: side of the square frames, in pixels.
        source: "synthetic", or "avsbench" to write where AVSBench itself is looked for, as a rehearsal.
        difficulty: key of DIFFICULTIES.
        seed: of every random choice.
        log_mel: write AVSBench's log-mel pickles too, beside the wavs of S4 and MS3.
        workers: processes that write at a time.

    Raises:
        AVSInputError: a number is out of its range, or there is no such difficulty.
    """
    world = partial(difficulty_of_splits, difficulty)
    write_clips(datasets_root, subsets, clips, size, world, source=source, seed=seed, log_mel=log_mel, workers=workers)


def write_clips(
    datasets_root: str | Path,
    subsets: list[str],
    clips: dict[str, int],
    size: int,
    world: Callable[[str], World],
    *,
    source: str,
    seed: int = 0,
    log_mel: bool = False,
    workers: int = 1,
) -> None:
    """Write a data set of any world, as :func:`write_synthetic` does.

    Args:
        datasets_root, subsets, clips, size, seed, log_mel, workers: see there.
        world: what the clips of a split are made of; can be pickled.
        source: key of SOURCES, whose folders are written.

    Raises:
        AVSInputError: a number is out of its range, or what ``world`` raises.
    """
    if not SMALLEST <= size <= LARGEST or min(clips.values()) < 0 or seed < 0 or workers < 1:
        raise AVSInputError(
            f"frames of {size} pixels, {list(clips.values())} clips, seed {seed}, {workers} workers: give "
            f"{SMALLEST} to {LARGEST} pixels, 0 clips or more, a seed from 0 on, and 1 worker or more"
        )
    class_ids = world(next(iter(clips))).class_ids
    # Threads of torch do not survive the fork of a worker.
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for subset in subsets:
            root = Path(datasets_root) / SOURCES[source][1][subset]
            plans = [
                ClipPlan(root, subset, split, index, size, world, seed, log_mel)
                for split, count in clips.items()
                for index in range(count)
            ]
            rows = list(tqdm(pool.map(write_clip, plans, chunksize=4), total=len(plans), unit="clip", desc=subset))
            # The csv comes last: a tree without it counts as not there, so an interrupted run is seen as such.
            _write_meta(root, LAYOUTS[subset], class_ids, rows)
