"""AVSBench's raw videos, or any folder of clips with such a csv -> frames, wavs and log-mel pickles in its own trees.

The frames are chosen by AVSBench's published rule, see :func:`frame_numbers`. Masks are not made: they come with
AVSBench, as ``label2idx.json`` does.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
import torch
from tqdm import tqdm

from transavs.data.audio import log_mel_pickle
from transavs.data.avsbench import LAYOUTS, Layout, check_row, read_rows
from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.sources import VIDEO_SUFFIXES
from transavs.media.video_reader import Video
from transavs.utils.atomic_files import write_file, write_image
from transavs.utils.errors import AVSInputError, choose, one_line
from transavs.utils.limits import MAX_SIDE

INSTANTS = 16  # that AVSBench names in each second, of which it keeps the last
# Side of the frames in AVSBench's own trees; 0 where they have the size of the video.
FRAME_SIZES = {"s4": 224, "ms3": 224, "avss": 0}
# Folders, in the one of the raw videos, to look for a video in, AVSBench's own place first.
RAW_FOLDERS = {
    "s4": ("{split}/{category}", "{category}", "{split}", ""),
    "ms3": ("", "{split}"),
    "avss": ("", "{part}", "{split}", "{part}/{video}"),
}
SOURCE_COLUMN = "vid"  # of AVSS: the video that a clip was cut from
AUDIBLE = 2.0**-15  # least peak, of full scale 1, that 16 bits tell from silence


@dataclass(frozen=True)
class RawClip:
    """A clip to extract.

    Attributes:
        record: see :mod:`transavs.data.avsbench`; names the files to write.
        video_file: its video, or where there is none the likeliest path of it.
        size: side of the frames in pixels, 0 for that of the video.
        log_mel: whether a pickle is wanted.
    """

    record: dict[str, Any]
    video_file: str
    size: int
    log_mel: bool

    @property
    def missing(self) -> list[str]:
        """Files that are wanted and not there."""
        pickles = [self.record["log_mel_file"]] if self.log_mel else []
        wanted = [*self.record["file_names"], self.record["audio_file"], *pickles]
        return [path for path in wanted if not os.path.isfile(path)]


@dataclass(frozen=True)
class Outcome:
    """Result for one clip: what is wrong with its video, "" for nothing, and what is worth a word."""

    fault: str
    warnings: tuple[str, ...]


@dataclass
class Extracted:
    """Numbers of clips that were extracted, were there already, and could not be extracted."""

    done: int = 0
    skipped: int = 0
    broken: int = 0

    def __str__(self) -> str:
        return f"{self.done} clips done, {self.skipped} skipped because they were there, {self.broken} broken"


class _BrokenClipError(AVSInputError):
    """A clip cannot be extracted, and the others can: unlike a full disk."""


def frame_numbers(frame_rate: float, seconds: int) -> list[int]:
    """Numbers, from 0, of the decoded frames that AVSBench keeps.

    Its preprocessing (preprocess_s4.py, preprocess_ms3.py of github.com/OpenNLPLab/AVSBench) rounds the frame rate to a
    whole number F, halves to even, names 16 instants i + j / 16 in second i, j = 0 ... 15, takes frame int(F (i + j /
    16)) for each, and keeps j = 15. That is int(F (i + 15 / 16)), in the count of frames and not by their times: in a
    video of 7.3 frames a second F = 7 and the frames run ahead of the seconds. For AVSS no rule is published, and the
    same is used.

    Args:
        frame_rate: frames per second on average.
        seconds: T.

    Returns:
        T numbers; those past the end of the video stand for its last frame.
    """
    whole = round(frame_rate)
    return [whole * (INSTANTS * second + INSTANTS - 1) // INSTANTS for second in range(seconds)]


def read_frames(video: Video, seconds: int, size: int) -> list[np.ndarray]:
    """The frames that AVSBench keeps of a video.

    Args:
        video: to read; past its end its last frame is repeated.
        seconds: T.
        size: side in pixels that frames are resized to, whatever their shape; 0 leaves them.

    Returns:
        T images, uint8 (H, W, 3) in RGB, upright.

    Raises:
        AVSInputError: the video cannot be read.
    """
    numbers = frame_numbers(video.frame_rate, seconds)
    images, last = dict[int, np.ndarray](), None
    # To the end, though the rest is not needed: what is damaged is told there.
    for last in video.frames():
        if last.index in numbers:
            images[last.index] = _resized(last.pixels(), size)
    if last is None:
        raise AVSInputError(f"{video.name} holds no frame that can be decoded: copy it again")
    if last.index < numbers[-1]:
        final = _resized(last.pixels(), size)
        images |= {number: final for number in numbers if number > last.index}
    return [images[number] for number in numbers]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size)) if size else image


def read_wave(video: Video) -> np.ndarray:
    """The whole sound of a video at 16 kHz, float32 (n,) in [-1, 1].

    Channels are averaged, as AVSBench's front-end does; FFmpeg's own "mono" makes two equal channels louder by 3 dB,
    and clips them.

    Raises:
        AVSInputError: there is no sound, or it cannot be read.
    """
    blocks = [block.mean(0) for block in video.sound(SAMPLE_RATE)]
    wave = np.concatenate([np.zeros(0, dtype=np.float32), *blocks])
    if not len(wave):
        raise AVSInputError(f"{video.name} holds no sound that can be decoded: copy it again")
    if np.abs(wave).max() < AUDIBLE:
        logging.getLogger(__name__).warning("%s is silent from beginning to end: look at its source", video.name)
    return wave


def _as_wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn whatever reading a file raises within the context into one error that names it."""
    try:
        yield
    except AVSInputError as error:
        raise _BrokenClipError(error.summary) from error
    except Exception as error:  # a broken file can raise nearly anything
        raise _BrokenClipError(f"{path} cannot be read ({one_line(error)}): copy it again") from error


class _Keeper(logging.Handler):
    """Keeps what transavs warns of within a context, for the process that draws the progress bar to tell."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "_Keeper":
        logging.getLogger("transavs").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("transavs").removeHandler(self)


def extract_clip(clip: RawClip) -> Outcome:
    """Write what is missing of one clip, each file whole or not at all.

    Raises:
        AVSInputError: a file cannot be written. What is wrong with the video is returned.
    """
    fault = ""
    with _Keeper() as warnings:
        try:
            _write_missing(clip)
        except _BrokenClipError as error:
            fault = str(error)
    return Outcome(fault, tuple(warnings.lines))


def _write_missing(clip: RawClip) -> None:
    record, missing = clip.record, set(clip.missing)
    frames, audio, pickle_file = record["file_names"], record["audio_file"], record["log_mel_file"]
    if missing - {pickle_file}:
        if not os.path.isfile(clip.video_file):
            raise _BrokenClipError(f"{clip.video_file} does not exist: put the video there, or remove it from the csv")
        with _reading(clip.video_file):
            video = Video(clip.video_file)
            images = read_frames(video, len(frames), clip.size) if missing.intersection(frames) else []
            wave = read_wave(video) if audio in missing else None
        for path, image in zip(frames, images, strict=False):  # none where they are there
            write_image(path, np.ascontiguousarray(image[..., ::-1]))
        if wave is not None:
            write_file(audio, _as_wav(wave))
    if pickle_file in missing:
        with _reading(audio):
            pickled = log_mel_pickle(audio, len(frames))
        write_file(pickle_file, pickled)


def _places(raw: Path, subset: str, names: dict[str, str], is_only_clip: bool) -> list[tuple[Path, str]]:
    """Folders and names of a clip's video; by the name of its source too, unless several clips are cut from that."""
    called = [names["video"], *([names["source"]] if names["source"] and is_only_clip else [])]
    return [(raw / folder.format(**names), name) for name in called for folder in RAW_FOLDERS[subset]]


def _files_by_name(folder: Path) -> dict[str, str]:
    """Paths of the files in a folder by their names, and of videos by their names without the suffix of any case."""
    files = [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    by_name = {file.name: str(file) for file in files}
    suffixed = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    # The first of VIDEO_SUFFIXES comes last, and replaces the others.
    for file in sorted(suffixed, key=lambda file: (-VIDEO_SUFFIXES.index(file.suffix.lower()), file.suffix)):
        by_name[file.stem] = str(file)
    return by_name


def list_raw_clips(
    raw: str | Path, csv_file: str | Path, root: str | Path, subset: str, *, size: int | None, log_mel: bool
) -> list[RawClip]:
    """The clips that a csv names, each once; see :func:`extract_avsbench`."""
    layout, raw, csv_file = choose(LAYOUTS, subset, "subset"), Path(raw), Path(csv_file)
    rows = read_rows(csv_file, layout, source=SOURCE_COLUMN)
    clips_of: dict[str, set[str]] = {}
    clips_at: dict[tuple[Path, str], set[str]] = {}
    for line, names in rows.items():
        check_row(csv_file, line, layout, names)
        check_row(csv_file, line, layout, names | {"video": names["source"] or names["video"]})
        clips_of.setdefault(names["source"], set()).add(names["video"])
    listed = [
        (names, _places(raw, subset, names, len(clips_of[names["source"]]) == 1), layout.clip_id(names))
        for names in rows.values()
    ]
    for _, places, clip in listed:
        for place in places:
            clips_at.setdefault(place, set()).add(clip)
    side = FRAME_SIZES[subset] if size is None else size
    clips, listing = {}, cache(_files_by_name)
    for names, places, _ in listed:
        # A video that lies where several clips of one name look for theirs may be any clip's.
        own_places = [(folder, name) for folder, name in places if len(clips_at[folder, name]) == 1]
        found = next(filter(None, (listing(folder).get(name) for folder, name in own_places)), None)
        folder, name = places[0]
        video_file = found or str(folder / f"{name}{VIDEO_SUFFIXES[0]}")
        record = layout.record(Path(root), **{name: names[name] for name in ("video", "category", "split", "part")})
        clips[record["audio_file"]] = RawClip(record, video_file, side, log_mel)
    return list(clips.values())


def _check_arguments(raw: Path, csv_file: Path, root: Path, layout: Layout, size: int | None, log_mel: bool) -> None:
    if not raw.is_dir():
        raise AVSInputError(f"{raw} is no folder: name the one that holds the raw videos")
    if not csv_file.is_file():
        raise AVSInputError(f"{csv_file} does not exist: name the csv that lists the videos")
    if root.exists() and not root.is_dir():
        raise AVSInputError(f"{root} is no folder: name another to write to")
    if size is not None and not 0 <= size <= MAX_SIDE:
        raise AVSInputError(f"frames of {size} pixels: give 1 to {MAX_SIDE}, or 0 for the size of the video")
    if log_mel and not layout.log_mel:
        raise AVSInputError("AVSS has no log-mel pickles: leave --log-mel out")
    meta = root / layout.meta
    if meta.is_file() and meta.read_bytes() != csv_file.read_bytes():
        raise AVSInputError(f"{meta} is there and differs from {csv_file}: remove it, or name it as the csv")


def extract_avsbench(
    raw: str | Path,
    csv_file: str | Path,
    root: str | Path,
    subset: str,
    *,
    size: int | None = None,
    log_mel: bool = False,
    workers: int = 1,
) -> Extracted:
    """Turn raw videos into AVSBench's tree, without masks; called again it goes on where it was stopped.

    A clip whose files are all there is skipped, whatever they hold; of the others what is missing is written. One line
    on stderr tells of each video that is broken or worth a word.

    Args:
        raw: folder of the videos, ``<split>/<category>/<video>.mp4`` in S4, ``<video>.mp4`` in MS3, ``<uid>.mp4`` in
            AVSS, or ``<vid>.mp4`` where one clip alone has that vid; cut to the clips. See RAW_FOLDERS, VIDEO_SUFFIXES.
        csv_file: AVSBench's, or one with its columns; copied to its place in the end.
        root: of the subset, the folder that its layout's paths begin in.
        subset: key of LAYOUTS.
        size: side of the frames in pixels, whatever the shape of the video; 0 = the size of the video, None = as
            AVSBench has it, see FRAME_SIZES.
        log_mel: write AVSBench's log-mel pickles too, of S4 and MS3.
        workers: processes; 1 = this one.

    Returns:
        the numbers of clips done, skipped and broken.

    Raises:
        AVSInputError: an argument or the csv is of no use, another csv is in place, or a file cannot be written.
    """
    raw, csv_file, root, layout = Path(raw), Path(csv_file), Path(root), choose(LAYOUTS, subset, "subset")
    _check_arguments(raw, csv_file, root, layout, size, log_mel)
    clips = list_raw_clips(raw, csv_file, root, subset, size=size, log_mel=log_mel)
    todo = [clip for clip in clips if clip.missing]
    counts = Extracted(skipped=len(clips) - len(todo))
    with tqdm(total=len(clips), initial=counts.skipped, unit="clip", desc=subset) as progress:
        for outcome in _extract(todo, workers):
            for line in (*outcome.warnings, *([f"broken: {outcome.fault}"] if outcome.fault else [])):
                tqdm.write(line, file=sys.stderr)
            counts.broken += bool(outcome.fault)
            counts.done += not outcome.fault
            progress.update()
    # The csv comes last: a tree without it counts as not there, so an interrupted run is seen as such.
    if not (root / layout.meta).is_file():
        write_file(root / layout.meta, csv_file.read_bytes())
    return counts


def _extract(clips: list[RawClip], workers: int) -> Iterator[Outcome]:
    if workers <= 1:
        yield from map(extract_clip, clips)
        return
    try:
        # Threads of torch do not survive the fork of a worker. To set OpenCV's would hang, and is not needed.
        with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(extract_clip, clips)
    except BrokenProcessPool as error:
        raise AVSInputError("a worker process has died, maybe of memory: call this again with fewer workers") from error
