"""One video or many -> overlays, masks and COCO files."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transavs.demo.loudness import is_silent, loudness_levels
from transavs.demo.outputs import CocoFile, MaskFiles, Output, OverlayVideo
from transavs.inference.prediction import ClipPrediction, FramePrediction
from transavs.inference.predictor import AVSPredictor
from transavs.media.audio_stream import sound_named
from transavs.media.video_reader import Video
from transavs.utils.errors import AVSInputError

VIDEO_SUFFIXES = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}


@dataclass(frozen=True)
class Targets:
    """Paths of the results of one video; None leaves one out."""

    overlay: Path | None = None
    masks: Path | None = None
    coco: Path | None = None

    def exist(self) -> bool:
        """Tell whether all of them are there, and whole."""
        if self.masks is not None and (self.masks / MaskFiles.UNFINISHED).exists():
            return False
        return all(path.exists() for path in (self.overlay, self.masks, self.coco) if path is not None)


def find_videos(inputs: Sequence[Path]) -> list[Path]:
    """The given files, and of folders the files with a video's suffix, by name; hidden ones are left out.

    Raises:
        AVSInputError: a folder holds none, or two have the same name, and so would their results.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            found.append(path)
            continue
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
        inside = [file for file in files if not file.name.startswith(".")]  # results of "...mp4" would lie elsewhere
        if not inside:
            raise AVSInputError(f"the folder {path} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))}): name another")
        found += inside
    by_name: dict[str, Path] = {}
    for path in found:
        if (other := by_name.setdefault(path.stem, path)) is not path:
            raise AVSInputError(f"{other} and {path} would have results of the same name: rename one of them")
    return found


def segment_video(
    predictor: AVSPredictor,
    path: Path,
    targets: Targets,
    *,
    rate: float,
    threshold: float | None = None,
    audio: str | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> float:
    """Predict a video and write what ``targets`` names, with a progress bar; returns the real-time factor.

    Args:
        predictor: the model.
        path: of the video.
        targets: what to write.
        rate: masks per second; 0 = every frame.
        threshold: see :meth:`transavs.inference.prediction.FramePrediction.mask`.
        audio: to hear in place of the video's own, see :func:`transavs.media.audio_stream.sound_named`.
        start, end: of the part of it to take, see :class:`transavs.media.video_reader.Video`.

    Returns:
        seconds of video per second of work.

    Raises:
        AVSInputError: the video cannot be read or a target not be written.
    """
    started = time.perf_counter()
    video = Video(path, start=start, end=end, needs_sound=audio is None)
    heard = None if audio is None else sound_named(audio, video.duration)
    levels = loudness_levels(heard or video)
    if is_silent(levels):
        logging.getLogger(__name__).warning("%s is silent: what is marked in it is a guess from the picture", path)
    with ExitStack() as stack:
        outputs: list[Output] = []
        seen = None
        if targets.overlay is not None:
            overlay = OverlayVideo(video, targets.overlay, levels, heard)
            seen = overlay.keep
            outputs.append(stack.enter_context(overlay))
        if targets.masks is not None:
            outputs.append(stack.enter_context(MaskFiles(targets.masks)))
        if targets.coco is not None:
            outputs.append(stack.enter_context(CocoFile(video, targets.coco, levels)))
        reached = 0.0
        sound = None if heard is None else heard.sound(predictor.format.front_end.sample_rate)
        for frame in with_progress(predictor.predict_video(video, rate, sound, seen), video):
            objects = frame.objects(threshold)
            for output in outputs:
                output.add(frame, objects)
            reached = frame.time
    return max(reached, video.duration) / (time.perf_counter() - started)


def with_progress(clips: Iterable[ClipPrediction], video: Video) -> Iterator[FramePrediction]:
    """The frames of ``clips`` with a bar in seconds of ``video`` and its speed in multiples of real time."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]"
    started, done = time.perf_counter(), 0.0
    with tqdm(total=video.duration or None, desc=video.path.name, bar_format=form if video.duration else None) as bar:
        for clip in clips:
            for frame in clip.frames:
                yield frame
                bar.update(frame.time - done)
                done = frame.time
                bar.set_postfix_str(f"{done / (time.perf_counter() - started):.2f} x real time", refresh=False)
        bar.update(max(0.0, video.duration - done))


def segment_videos(
    predictor: AVSPredictor,
    videos: Sequence[Path],
    targets: Sequence[Targets],
    *,
    rate: float,
    threshold: float | None = None,
    **options: Any,
) -> int:
    """:meth:`segment_video` of many, with its ``options``.

    Those whose targets exist are left out, a bad one does not stop the others.

    Returns:
        how many could not be done; each is logged in one line.
    """
    failed = 0
    logger = logging.getLogger(__name__)
    for path, target in zip(videos, targets, strict=True):
        if target.exist():
            logger.info("%s is done already; remove its results to do it again", path)
            continue
        try:
            speed = segment_video(predictor, path, target, rate=rate, threshold=threshold, **options)
            logger.info("%s: done at %.2f x real time", path, speed)
        except AVSInputError as error:
            failed += 1
            logger.error("%s", error.summary)
    return failed
