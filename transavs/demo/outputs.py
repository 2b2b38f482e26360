"""Outputs written as predictions come: an overlay video, mask files, a COCO file.

Each is used in a ``with`` statement and given the predictions of a video in order.
"""

import json
import re
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import cv2
import numpy as np

from transavs.demo.loudness import LoudnessStrip, RunningStrip, loudness_per_second
from transavs.evaluation.prediction_writer import WHITE
from transavs.inference.prediction import FramePrediction, SoundingObject
from transavs.media.audio_stream import Sound
from transavs.media.frames import VideoFrame, VideoSource
from transavs.media.images import coco_annotation, coco_categories
from transavs.media.pixels import open_image, readable
from transavs.media.video_writer import VideoWriter, sound_of
from transavs.utils.atomic_files import finish_partial, partial_path, write_image
from transavs.utils.errors import AVSInputError
from transavs.visualization.clips import overlay, write_names

STRIP_SHARE, STRIP_PIXELS = 0.1, 24  # height of the loudness strip: of the frame's, and at least
HELD_BYTES = 2**29  # of frames that wait for their prediction; 370 of 720p
MASK_NAME = r"\d{6}\.png|[1-9]\d{6,}\.png"  # of MaskFiles
QUEUED = 32  # frames that wait for the encoder


class Output:
    """One thing that is made of the predictions of a video."""

    def add(self, prediction: FramePrediction, objects: Sequence[SoundingObject]) -> None:
        """Take the next prediction, and what of it is to be shown."""
        raise NotImplementedError

    def close(self, complete: bool) -> None:
        """Finish; or, where the predictions broke off, leave nothing half-written."""

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)


def class_map(objects: Sequence[SoundingObject], size: tuple[int, int]) -> np.ndarray:
    """The classes of the objects of a frame of (H, W) pixels, uint8 (H, W), 0 = nothing."""
    classes = np.zeros(size, dtype=np.uint8)
    for found in objects:
        classes[found.mask] = found.category_id
    return classes


def mask_name(prediction: FramePrediction) -> str:
    """Name of the file of a frame's mask."""
    return f"{prediction.index:06d}.png"


def mask_image(prediction: FramePrediction, objects: Sequence[SoundingObject]) -> np.ndarray:
    """The mask of a frame as files show it, uint8 (H, W): 0 and 255, or class ids where there are several."""
    mask = class_map(objects, prediction.size)
    return mask * np.uint8(WHITE) if len(prediction.class_names) == 2 else mask


class OverlayVideo(Output):
    """The video with what sounds in color, a strip of its loudness below, and the sound.

    Where there are several classes their names are written into the picture. Frames are drawn and encoded in a thread
    of their own, while the network runs.
    """

    def __init__(
        self,
        video: VideoSource,
        path: str | Path,
        levels: np.ndarray | None,
        heard: Sound | None = None,
        max_side: int | None = None,
        frames: Iterator[VideoFrame] | None = None,
    ):
        """
        Args:
            video: that is predicted.
            path: of the file, see :class:`transavs.media.video_writer.VideoWriter`.
            levels: see :func:`transavs.demo.loudness.loudness_levels`; None of a live video, which can be watched as it
                is written, above the loudness of the last seconds.
            heard: to be played in place of the video's own sound.
            max_side: larger frames are drawn smaller, with their longer side so many pixels long.
            frames: of the video; None where they are given to :meth:`keep`.
        """
        shrink = min(1.0, (max_side or np.inf) / max(video.height, video.width))
        height, width = (max(1, round(shrink * side)) for side in (video.height, video.width))
        self._drawn_size = (width, height)  # in OpenCV's order
        strip_height = max(STRIP_PIXELS, round(STRIP_SHARE * height))
        strip_size = (strip_height, width)
        self._strip = RunningStrip(strip_size) if levels is None else LoudnessStrip(levels, video.duration, strip_size)
        self._is_live = levels is None
        self._writer = VideoWriter(
            path,
            (height + strip_height, width),
            video.frame_rate,
            **sound_of(heard or video),
            pixel_aspect=video.pixel_aspect,
            live=self._is_live,
        )
        self._video, self._frames = video, frames
        self._held: deque[VideoFrame] = deque()  # that no prediction has decided yet
        self._last: tuple[float, np.ndarray] | None = None  # time and mask of the last prediction
        self._names: Sequence[str] = ()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._drawing: deque[Future[None]] = deque()  # frames on their way to the file

    def keep(self, frame: VideoFrame) -> None:
        """Take the next frame of the video, to be drawn when the prediction has come that decides what it shows.

        Where those that wait take too much memory they are read again from the video; of a live one the oldest go.
        """
        if self._frames is not None:
            return
        self._held.append(frame)
        if len(self._held) * frame.num_bytes <= HELD_BYTES:
            return
        if self._is_live:
            self._held.popleft()
        else:
            first = self._held[0].index
            self._held.clear()
            self._frames = (again for again in self._video.frames() if again.index >= first)

    def add(self, prediction: FramePrediction, objects: Sequence[SoundingObject]) -> None:
        if self._last is not None:  # a frame between two predictions shows the nearer one
            self._draw_until((self._last[0] + prediction.time) / 2, self._last[1])
        self._names = prediction.class_names
        if isinstance(self._strip, RunningStrip):
            self._strip.hear(prediction.time, prediction.loudness)
        mask = class_map(objects, prediction.size)
        self._last = prediction.time, cv2.resize(mask, self._drawn_size, interpolation=cv2.INTER_NEAREST)

    def _draw_until(self, time: float, mask: np.ndarray) -> None:
        while (frame := self._next_before(time)) is not None:
            self._drawing.append(self._thread.submit(self._draw, frame, mask, self._names))
            while self._drawing and (self._drawing[0].done() or len(self._drawing) > QUEUED):
                self._drawing.popleft().result()  # what it raises is raised here

    def _next_before(self, time: float) -> VideoFrame | None:
        if not self._held and self._frames is not None:
            self._held.extend(islice(self._frames, 1))
        return self._held.popleft() if self._held and self._held[0].time < time else None

    def _draw(self, frame: VideoFrame, mask: np.ndarray, names: Sequence[str]) -> None:
        pixels = frame.pixels()
        if pixels.shape[1::-1] != self._drawn_size:
            pixels = cv2.resize(pixels, self._drawn_size, interpolation=cv2.INTER_AREA)
        picture = overlay(pixels, mask)
        if len(names) > 2:
            write_names(picture, mask, names)
        self._writer.write(np.concatenate([picture, self._strip.at(frame.time)]), frame.time)

    def close(self, complete: bool) -> None:
        try:
            if complete and self._last is not None:
                self._draw_until(float("inf"), self._last[1])
                for drawn in self._drawing:
                    drawn.result()
        except BaseException:
            complete = False
            raise
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._writer.close(complete)


def mask_files(folder: Path) -> list[Path]:
    """The files in a folder that are named as :class:`MaskFiles` names them."""
    return [file for file in folder.iterdir() if re.fullmatch(MASK_NAME, file.name)] if folder.is_dir() else []


class MaskFiles(Output):
    """A PNG per prediction, named by the frame's index: 0 and 255, or class ids where there are several.

    Masks of an earlier call are removed when the first new one is there; other files stay. Until the last mask is
    written the folder holds a file of the name ``UNFINISHED``.
    """

    UNFINISHED = ".unfinished"

    def __init__(self, folder: str | Path):
        """
        Args:
            folder: to write into; made where there is none.

        Raises:
            AVSInputError: it cannot be made, or holds other images of such names.
        """
        self._folder = Path(folder)
        self._earlier = mask_files(self._folder)
        for file in self._earlier:
            with readable(file, "a mask", "name another folder for the masks"), open_image(file) as image:
                if image.mode != "L":
                    raise AVSInputError(f"{file} is an image and no mask, and would be replaced: name another folder")
        self._mark = self._folder / self.UNFINISHED
        self._keeps_earlier = bool(self._earlier) and not self._mark.exists()  # as long as there is no new mask
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mark.touch()
        except OSError as error:
            raise AVSInputError(f"{folder} cannot be made a folder ({error.strerror}): name another") from error

    def add(self, prediction: FramePrediction, objects: Sequence[SoundingObject]) -> None:
        self._remove_earlier()
        write_image(self._folder / mask_name(prediction), mask_image(prediction, objects))

    def _remove_earlier(self) -> None:
        for file in self._earlier:
            file.unlink(missing_ok=True)
        self._earlier, self._keeps_earlier = [], False

    def close(self, complete: bool) -> None:
        if complete:
            self._remove_earlier()
        if complete or self._keeps_earlier:
            self._mark.unlink(missing_ok=True)


class MaskArchive(Output):
    """A zip of the PNGs of :class:`MaskFiles`, whose names carry the frame's time too: ``000012_0.500s.png``."""

    def __init__(self, path: str | Path):
        """
        Args:
            path: of the file, in a folder that is there.
        """
        self._path = Path(path)
        self._partial = partial_path(self._path)
        self._archive = zipfile.ZipFile(self._partial, "w")  # not compressed: PNGs are

    def add(self, prediction: FramePrediction, objects: Sequence[SoundingObject]) -> None:
        _, encoded = cv2.imencode(".png", mask_image(prediction, objects))
        name = Path(mask_name(prediction))
        self._archive.writestr(f"{name.stem}_{prediction.time:.3f}s{name.suffix}", encoded.tobytes())

    def close(self, complete: bool) -> None:
        try:
            self._archive.close()
        except BaseException:
            complete = False
            raise
        finally:
            finish_partial(self._partial, self._path, complete)


class CocoFile(Output):
    """A COCO data set with run-length code, times, scores and loudness; written as predictions come.

    Its images are called as :class:`MaskFiles` calls masks: by the frame's index.
    """

    def __init__(self, video: VideoSource, path: str | Path, levels: np.ndarray | None):
        """
        Args:
            video: that is predicted.
            path: of the file.
            levels: see :func:`transavs.demo.loudness.loudness_levels`; None of a live video.
        """
        self._path = Path(path)
        self._partial = partial_path(self._path)
        self._video, self._levels = video, levels
        self._images: list[dict[str, Any]] = []
        self._categories: list[dict[str, Any]] = []
        self._annotations = 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = open(self._partial, "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise AVSInputError(f"{path} cannot be written ({error.strerror}): name another file") from error
        self._file.write('{"annotations": [')

    def add(self, prediction: FramePrediction, objects: Sequence[SoundingObject]) -> None:
        height, width = prediction.size
        self._categories = coco_categories(prediction.class_names)
        about = {"id": prediction.index, "file_name": mask_name(prediction), "height": height, "width": width}
        self._images.append(about | {"time": prediction.time, "loudness_db": prediction.loudness})
        for found in objects:
            self._annotations += 1
            annotation = coco_annotation(self._annotations, prediction.index, found.category_id, found.mask)
            annotation["score"] = found.score
            self._file.write(("," if self._annotations > 1 else "") + "\n" + json.dumps(annotation))

    def close(self, complete: bool) -> None:
        about = {"video": self._video.name, "duration": self._video.duration, "frame_rate": self._video.frame_rate}
        if self._levels is not None:
            about["loudness_db"] = loudness_per_second(self._levels)
        rest = {"images": self._images, "categories": self._categories, "info": about}
        try:
            with self._file:
                self._file.write("],\n" + json.dumps(rest)[1:] + "\n")
        except BaseException:
            complete = False
            raise
        finally:
            finish_partial(self._partial, self._path, complete)
