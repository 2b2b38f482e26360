"""One video or many -> overlays, masks and COCO files."""

import logging
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transavs.demo.loudness import is_silent, loudness_levels
from transavs.demo.outputs import CocoFile, MaskFiles, Output, OverlayVideo, mask_files
from transavs.inference.prediction import ClipPrediction, FramePrediction
from transavs.inference.predictor import AVSPredictor
from transavs.media.audio_stream import MUTE, NOISE, sound_named
from transavs.media.frames import VideoSource
from transavs.media.image_folder import IMAGE_SUFFIXES, SOUND_SUFFIXES, images_in
from transavs.media.live import LiveVideo
from transavs.media.sources import STANDARD_INPUT, VIDEO_SUFFIXES, is_live, open_source
from transavs.media.video_writer import check_video_path
from transavs.utils.command_line import check_outputs
from transavs.utils.errors import AVSInputError

NAMED = 5  # files of a folder that a message names


@dataclass(frozen=True)
class Targets:
    """Paths of the results of one video; None leaves one out."""

    overlay: Path | None = None
    masks: Path | None = None
    coco: Path | None = None

    def exist(self) -> bool:
        """Tell whether all of them are there, and whole."""
        if self.masks is not None and ((self.masks / MaskFiles.UNFINISHED).exists() or not any(mask_files(self.masks))):
            return False
        return all(path.is_file() for path in (self.overlay, self.coco) if path is not None)


def check_targets(targets: Sequence[Targets], inputs: Iterable[str | Path | None]) -> None:
    """Raise an AVSInputError where a result cannot be written, or would take the place of an input or another result.

    Args:
        targets: of all videos.
        inputs: everything that is read.
    """
    overlays, folders, coco_files = (
        [path for target in targets if (path := getattr(target, name)) is not None]
        for name in ("overlay", "masks", "coco")
    )
    for path in overlays:
        check_video_path(path)
    check_outputs([*overlays, *coco_files], inputs, folders=folders, makes_parents=True)


def find_videos(inputs: Sequence[str]) -> list[str]:
    """List what is given, with the files of a video's suffix in place of a folder, by name; hidden ones are left out.

    A folder without videos that holds images is one video. A warning names what else a folder holds.

    Raises:
        AVSInputError: a folder holds none, or two have the same name, and so would their results.
    """
    found: list[str] = []
    for name in inputs:
        if not name:
            raise AVSInputError("the name of an input is empty: name a video")
        found += [name] if is_live(name) or not Path(name).is_dir() else _videos_in(name)
    by_name: dict[str, str] = {}
    for name in found:
        if (other := by_name.setdefault(result_name(name), name)) is not name:
            raise AVSInputError(f"{other} and {name} would have results of the same name: rename one of them")
    return found


def _videos_in(folder: str) -> list[str]:
    files = sorted(file for file in Path(folder).iterdir() if not file.name.startswith("."))
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES and not file.is_dir()]
    if not videos and not images_in(Path(folder)):
        raise AVSInputError(
            f"the folder {folder} holds no video ({' '.join(VIDEO_SUFFIXES)}) and no images: name another"
        )
    used = videos or [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES | SOUND_SUFFIXES]
    if left_out := [file.name for file in files if file not in set(used)]:
        logging.getLogger(__name__).warning(
            "%s: %d of its files are left out by their suffix: %s%s",
            *(folder, len(left_out), ", ".join(left_out[:NAMED]), ", ..." if len(left_out) > NAMED else ""),
        )
    return [str(file) for file in videos] or [folder]


def result_name(source: str) -> str:
    """Name the results of a video, without a suffix: as its file or folder, or as its address without a password."""
    if source == STANDARD_INPUT:
        return "stdin"
    if is_live(source):
        return re.sub(r"\W+", "_", source.split("://")[-1].split("@")[-1]).strip("_")
    path = Path(os.path.abspath(source))
    return path.name if path.is_dir() else path.stem


def segment_video(
    predictor: AVSPredictor,
    source: str | Path,
    targets: Targets,
    *,
    rate: float,
    threshold: float | None = None,
    audio: str | None = None,
    **options: Any,
) -> str:
    """Predict a video and write what ``targets`` names, with a progress bar. What is live ends by Ctrl-C.

    Args:
        predictor: the model.
        source: the video, see :func:`transavs.media.sources.open_source`.
        targets: what to write.
        rate: masks per second; 0 = every frame.
        threshold: see :meth:`transavs.inference.prediction.FramePrediction.mask`.
        audio: to hear in place of the video's own, see :func:`transavs.media.audio_stream.sound_named`.
        options: of :func:`transavs.media.sources.open_source`.

    Returns:
        how it went, in a few words.

    Raises:
        AVSInputError: the video cannot be read or a target not be written.
    """
    started = time.perf_counter()
    check_targets([targets], [source, None if audio in (MUTE, NOISE) else audio])
    with ExitStack() as stack:
        video = stack.enter_context(open_source(str(source), needs_sound=audio is None, **options))
        live = video if isinstance(video, LiveVideo) else None
        heard = None if audio is None else sound_named(audio, float("inf") if live else video.duration)
        levels = None if live else loudness_levels(heard or video)
        if levels is not None and is_silent(levels):
            logging.getLogger(__name__).warning(
                "%s is silent: what is marked in it is a guess from the picture", source
            )
        outputs: list[Output] = []
        seen = None
        if targets.masks is not None:
            outputs.append(stack.enter_context(MaskFiles(targets.masks)))
        if targets.coco is not None:
            outputs.append(stack.enter_context(CocoFile(video, targets.coco, levels)))
        if targets.overlay is not None:  # the last: one of a live video replaces an earlier file at once
            overlay = OverlayVideo(video, targets.overlay, levels, heard)
            seen = overlay.keep
            outputs.append(stack.enter_context(overlay))
        masks, behind = 0, 0.0
        stack.enter_context(ended_by_interrupt(live))
        sound = None if heard is None else heard.sound(predictor.format.front_end.sample_rate)
        for frame in with_progress(predictor.predict_video(video, rate, sound, seen), video):
            objects = frame.objects(threshold)
            for output in outputs:
                output.add(frame, objects)
            masks += 1
            behind = max(behind, live.newest - frame.time) if live else 0.0
    if live is None:
        return f"done at {video.duration / (time.perf_counter() - started):.2f} x real time"
    return (
        f"{live.duration:.1f} s, {masks} masks, at most {behind:.1f} s behind, {live.dropped} frames came too late for "
        f"a mask, {live.lost} frames are lost"
    )


@contextmanager
def ended_by_interrupt(live: LiveVideo | None) -> Iterator[None]:
    """Let Ctrl-C end a live video, so that what is written of it is finished; a second one ends the program."""
    previous = signal.getsignal(signal.SIGINT)
    if live is not None:

        def end(*_: object) -> None:
            signal.signal(signal.SIGINT, previous)
            live.stop()

        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def with_progress(clips: Iterable[ClipPrediction], video: VideoSource) -> Iterator[FramePrediction]:
    """Give the frames of ``clips`` with a bar in seconds of ``video``, and its speed or how far it is behind."""
    live = video if isinstance(video, LiveVideo) else None
    known = 0.0 if live else video.duration
    form = "{desc}: {n:.1f} s [{elapsed}{postfix}]"
    if known:
        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]"
    started, done = time.perf_counter(), 0.0
    with tqdm(total=known or None, desc=Path(video.name).name, bar_format=form) as bar:
        for clip in clips:
            for frame in clip.frames:
                yield frame
                reached = min(frame.time, known or frame.time)  # a video may be longer than it announces
                bar.update(reached - done)
                done = reached
                told = f"{done / (time.perf_counter() - started):.2f} x real time"
                if live:
                    told = f"{live.newest - done:.1f} s behind, {live.dropped} too late, {live.lost} lost"
                bar.set_postfix_str(told, refresh=False)
        bar.update(max(0.0, known - done))


def segment_videos(
    predictor: AVSPredictor,
    videos: Sequence[str],
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
    for name, target in zip(videos, targets, strict=True):
        if target.exist():
            logger.info("%s is done already, whatever the options were; remove its results to do it again", name)
            continue
        try:
            told = segment_video(predictor, name, target, rate=rate, threshold=threshold, **options)
            logger.info("%s: %s", name, told)
        except AVSInputError as error:
            failed += 1
            logger.error("%s", error.summary)
    return failed
