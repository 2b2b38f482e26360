"""Photographs and recordings, cut and cleaned, that clips are composed of: an album.

Which files they are, and of which class, stands in a table (:func:`read_table`); nothing here knows a class by name.
The clips of training are made of some of the photographs, backgrounds and seconds of the recordings, those of val and
test of the others, as far as there are others.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from transavs.data.avsbench import CLASS_SEPARATOR
from transavs.data.synthetic import sounds as synthetic_sounds
from transavs.data.synthetic.photos import Cutout, PhotoScene, PhotoScenery
from transavs.data.synthetic.sounds import Soundscape
from transavs.media.audio_file import SAMPLE_RATE, load_audio, resample
from transavs.media.pixels import open_image, readable, rgb_pixels, rgba_pixels
from transavs.utils.errors import AVSInputError
from transavs.utils.text_files import read_csv

COLUMNS = ("role", "class", "size", "split", "package", "file", "recording")
ROLES = ("source", "mute", "background")
TABLE_SPLITS = ("train", "test", "")
SIZE = re.compile(r"(?![0.]+$)[0-9](\.[0-9]+)?|")  # a number above 0, or nothing
CUTOUT_SIDE, BACKGROUND_SIDE = 512, 640  # pixels that are kept: of the longest side, and of the shortest
OPAQUE = 250  # alpha from which a color is the object's own and not mixed with what was behind it
TRAIN_SHARE = 0.7  # of a recording; the rest is for val and test
SHORTEST_CUT = 2.0  # seconds; shorter recordings are for all splits
PAUSE = 10 ** (-28 / 20)  # of the loudest: what is softer counts as a pause and is left out
BLOCK = SAMPLE_RATE // 20  # samples in which loudness is measured
LEVEL, PEAK = 0.2, 0.95  # root mean square that recordings are brought to, unless their peaks get higher than that
SCENERY = PhotoScenery(size=(0.42, 0.72), longest=0.95, min_visible=0.65, mutes=1)
SOUNDSCAPE = Soundscape(gaps=0.3, noise=(0.002, 0.02))


@dataclass(frozen=True)
class Entry:
    """A row of the table: a photograph, what it is for, and where it is from.

    Attributes:
        role: one of ROLES.
        name: of the class, "" unless it is a source.
        size: what its size is multiplied with, "" for 1; the things of the world are not of one size.
        split: "train" or "test" where only those clips show it, "test" with those of val; else "".
        package: that has the files.
        file: the photograph, below the folder of all photographs.
        recording: the sound, likewise; "" for a source that sounds as the others of its class do.
    """

    role: str
    name: str
    size: str
    split: str
    package: str
    file: str
    recording: str

    def used_in(self, split: str) -> bool:
        """Tell whether the clips of a split (train, val or test) may show it."""
        return self.split in ("", "train" if split == "train" else "test")

    def cutout(self, folder: Path) -> Cutout:
        """Read its photograph from below ``folder``."""
        return read_cutout(folder / self.file, float(self.size or 1))


def read_table(path: str | Path) -> list[Entry]:
    """Read a csv of COLUMNS, a row for each photograph; see :class:`Entry`.

    A ``source`` is something that sounds and ``mute`` something that does not, both cut out by an alpha channel; a
    ``background`` fills the image.

    Raises:
        AVSInputError: the file is missing, no such table, or names no two classes.
    """
    entries = []
    for line, row in read_csv(path)[1].items():
        row |= {column: row.get(column, "").lower() for column in ("role", "split")}
        entry = Entry(*(row.get(column, "") for column in COLUMNS))
        good = entry.role in ROLES and entry.split in TABLE_SPLITS and entry.file and SIZE.fullmatch(entry.size)
        if not good or CLASS_SEPARATOR in entry.name or (entry.role == "source") != bool(entry.name):
            raise AVSInputError(
                f"{path} line {line}: give a role of {', '.join(ROLES)}, a class without {CLASS_SEPARATOR!r} to "
                "sources alone, a size such as 1.2 or none, a split of train, test or none, and a file"
            )
        entries.append(entry)
    if len({entry.name for entry in entries} - {""}) < 2:
        raise AVSInputError(f"{path} names fewer than two classes that sound: add rows of role source")
    return entries


def _read_image(path: Path, pixels_of: Callable[[Image.Image], np.ndarray], draft_side: int) -> np.ndarray:
    """uint8 (H, W, channels) of a photograph; a large JPEG is decoded at a fraction of its size."""
    if not path.is_file():
        raise AVSInputError(f"{path} does not exist: name the folder of the photographs with --stamps")
    with readable(path, "a photograph", "unpack its package again"), open_image(path) as image:
        image.draft("RGB", (draft_side, draft_side))
        return pixels_of(image)


def read_cutout(path: Path, size: float) -> Cutout:
    """Read a photograph whose alpha channel cuts its object out; ``size`` is what is to be multiplied with.

    Raises:
        AVSInputError: it is missing, no image, or nothing of it is transparent or opaque.
    """
    pixels = _read_image(path, rgba_pixels, CUTOUT_SIDE)
    opaque = pixels[..., 3] >= OPAQUE
    if opaque.all() or not opaque.any():
        raise AVSInputError(f"{path} is not cut out: name a photograph with an alpha channel")
    rows, columns = (np.flatnonzero((pixels[..., 3] > 127).any(axis)) for axis in (1, 0))
    where = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pixels, opaque = pixels[where].copy(), opaque[where]
    # Pixels of the rim are mixed with what was once behind the object, which would show as a halo.
    _, nearest = cv2.distanceTransformWithLabels(
        (~opaque).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((nearest.max() + 1, 3), dtype=np.uint8)
    colors[nearest[opaque]] = pixels[opaque, :3]
    pixels[..., :3] = colors[nearest]
    return Cutout.of(_shrunk(pixels, CUTOUT_SIDE / max(pixels.shape[:2])), size)


def read_background(path: Path) -> np.ndarray:
    """Float32 (H, W, 3), RGB in [0, 1], of a photograph that fills the image; see :func:`read_cutout` for errors."""
    pixels = _read_image(path, rgb_pixels, 2 * BACKGROUND_SIDE)
    return _shrunk(pixels, BACKGROUND_SIDE / min(pixels.shape[:2])).astype(np.float32) / 255


def _shrunk(pixels: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels


def without_pauses(wave: np.ndarray) -> np.ndarray:
    """Leave out the blocks of a sound (n,) that are near silent, with short ramps where it was cut."""
    blocks = np.pad(wave, (0, -len(wave) % BLOCK)).reshape(-1, BLOCK)
    loudness = np.sqrt((blocks**2).mean(1))
    kept = loudness > PAUSE * loudness.max()
    edges = np.diff(kept, prepend=False, append=False)
    blocks, ramp = blocks.copy(), np.linspace(0, 1, BLOCK // 5)
    for block in np.flatnonzero(edges[:-1] & kept):
        blocks[block, : len(ramp)] *= ramp
    for block in np.flatnonzero(edges[1:] & kept):
        blocks[block, -len(ramp) :] *= ramp[::-1]
    return blocks[kept].ravel()


def read_recording(path: Path, split: str) -> np.ndarray:
    """The part of a recording that a split may use, float64 (n,) at SAMPLE_RATE, at a common level.

    Raises:
        AVSInputError: it is missing, no audio, or silent.
    """
    channels, sample_rate = load_audio(path)
    wave = resample(channels.mean(0), sample_rate).numpy().astype(np.float64)
    wave = without_pauses(wave)
    if not len(wave):
        raise AVSInputError(f"{path} is silent: name another recording in the table")
    if len(wave) >= SHORTEST_CUT * SAMPLE_RATE:
        cut = int(TRAIN_SHARE * len(wave))
        wave = wave[:cut] if split == "train" else wave[cut:]
    return wave * min(LEVEL / np.sqrt((wave**2).mean()), PEAK / np.abs(wave).max())


@dataclass(frozen=True)
class Subject:
    """A class as one split has it.

    Attributes:
        cutouts: its photographs.
        recordings: float64 (n,) each.
    """

    cutouts: tuple[Cutout, ...]
    recordings: tuple[np.ndarray, ...]

    def timbre(self, rng: np.random.Generator, n: int, sample_rate: int) -> np.ndarray:
        """Play a recording over and over, from anywhere on, a little faster or slower; see synthetic/sounds.py."""
        recording = self.recordings[rng.integers(len(self.recordings))]
        pace = np.exp(rng.uniform(-0.05, 0.05)) * SAMPLE_RATE / sample_rate
        times = (rng.integers(len(recording)) + pace * np.arange(n)) % len(recording)
        return np.interp(times, np.arange(len(recording) + 1), np.append(recording, recording[0]))


@dataclass(frozen=True)
class Album:
    """The world of photographs that clips of one split are made of; a :class:`transavs.data.synthetic.dataset.World`.

    Attributes:
        class_ids: number of each class, from 1 on.
        subjects: classes by name.
        mutes: photographs of what never sounds.
        backgrounds: float32 (H, W, 3) each, RGB in [0, 1]; without any, surfaces are made up.
        objects: least and most in a clip, each of another class.
        mute: probability that an object of MS3 makes no sound in its whole clip.
        scenery: how they are placed.
        soundscape: what is heard beside the sources.
    """

    class_ids: dict[str, int]
    subjects: dict[str, Subject]
    mutes: tuple[Cutout, ...]
    backgrounds: tuple[np.ndarray, ...]
    objects: tuple[int, int] = (2, 3)
    mute: float = 0.1
    scenery: PhotoScenery = SCENERY
    soundscape: Soundscape = SOUNDSCAPE

    def draw_kinds(self, rng: np.random.Generator) -> dict[str, Subject]:
        """The classes of the objects of one clip."""
        least, most = self.objects
        count = min(int(rng.integers(least, most + 1)), len(self.subjects))
        names = rng.choice(sorted(self.subjects), size=count, replace=False)
        return {str(name): self.subjects[name] for name in names}

    def draw_scene(self, kinds: Mapping[str, Subject], frames: int, size: int, rng: np.random.Generator) -> PhotoScene:
        """Place a photograph of each of these classes, and now and then a mute one, over a background."""
        sources = [kind.cutouts[rng.integers(len(kind.cutouts))] for kind in kinds.values()]
        count = rng.integers(self.scenery.mutes + 1) if self.mutes else 0
        others = [self.mutes[rng.integers(len(self.mutes))] for _ in range(count)]
        behind = self.backgrounds[rng.integers(len(self.backgrounds))] if self.backgrounds else None
        return PhotoScene.draw(sources, others, behind, self.scenery, frames, size, rng)

    def mix(self, kinds: Iterable[Subject], sounding: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sound of one clip, float64 (samples,), where bool ``sounding`` (objects, T) says which sounds when."""
        timbres = [kind.timbre for kind in kinds]
        return synthetic_sounds.mix(timbres, sounding, self.soundscape, SAMPLE_RATE, rng)


def _subject(name: str, entries: list[Entry], folder: Path, split: str) -> Subject:
    recordings = [folder / entry.recording for entry in entries if entry.recording]
    shown = [entry for entry in entries if entry.used_in(split)]
    if not recordings or not shown:
        what = "recording" if shown else f"photograph for the split {split}"
        raise AVSInputError(f"the class {name!r} has no {what}: add it to the table")
    return Subject(
        tuple(entry.cutout(folder) for entry in shown), tuple(read_recording(path, split) for path in recordings)
    )


@lru_cache(maxsize=3)
def load_album(table: Path, folder: Path, split: str) -> Album:
    """Read what the clips of a split are made of; kept, since every clip asks for it.

    Args:
        table: see :func:`read_table`.
        folder: that its files lie below; backgrounds that are not there are left out.
        split: train, val or test.

    Raises:
        AVSInputError: the table or a file in it is not usable, or a class lacks a photograph or a recording.
    """
    entries = read_table(table)
    names = sorted({entry.name for entry in entries} - {""})
    sources = {name: [entry for entry in entries if entry.name == name] for name in names}
    used = [entry for entry in entries if entry.used_in(split)]
    backgrounds = [folder / entry.file for entry in used if entry.role == "background"]
    return Album(
        class_ids={name: number for number, name in enumerate(names, start=1)},
        subjects={name: _subject(name, rows, folder, split) for name, rows in sources.items()},
        mutes=tuple(entry.cutout(folder) for entry in used if entry.role == "mute"),
        backgrounds=tuple(read_background(path) for path in backgrounds if path.is_file()),
    )
