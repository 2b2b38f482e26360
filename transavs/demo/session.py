"""One visitor's session: predictions kept so that they can be drawn again with another threshold."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from transavs.demo.loudness import is_silent, loudness_levels
from transavs.demo.outputs import CocoFile, MaskArchive, Output, OverlayVideo
from transavs.inference.prediction import FramePrediction, SoundingObject
from transavs.inference.predictor import AVSPredictor
from transavs.media.audio_stream import Noise, Silence, Sound, SoundFile
from transavs.media.video_reader import Video
from transavs.utils.errors import AVSInputError

OWN, MUTED, NOISY, ANOTHER = "its own sound", "muted", "white noise", "another sound"
SOUNDS = (OWN, MUTED, NOISY, ANOTHER)
EARLIER = 3  # results that stay in sight, to be compared
MEGABYTE = 10**6
LONGEST_STEM = 40  # characters of an upload's name that results keep: file systems take 255 bytes in all
DRAWN_SIDE = 854  # pixels; drawing is what a visitor waits for who moves the threshold
Progress = Callable[[float, str], None]  # share that is done, what is being done; raises to end the work


@dataclass(frozen=True)
class Limits:
    """Limits of what is taken from visitors.

    Attributes:
        seconds: of video.
        megabytes: of a file.
        kept_megabytes: of what is kept on disk of a video's predictions, see :class:`KeptPredictions`.
    """

    seconds: float = 60
    megabytes: int = 100
    kept_megabytes: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.seconds < np.inf or min(self.megabytes, self.kept_megabytes) <= 0:
            megabytes = f"{self.megabytes} and {self.kept_megabytes} MB"
            raise AVSInputError(f"the limits are {self.seconds} s, {megabytes}: give numbers above 0")

    def open(self, path: str | Path) -> Video:
        """The video, called by its file's name in messages.

        Raises:
            AVSInputError: it is larger or longer than the limits, or see :class:`transavs.media.video_reader.Video`.
        """
        name = Path(path).name
        if Path(path).is_file() and Path(path).stat().st_size > self.megabytes * MEGABYTE:
            raise AVSInputError(f"{name} is larger than the {self.megabytes} MB that are taken here: make it smaller")
        video = Video(path, name)
        self.check(video.duration, name)
        return video

    def check(self, seconds: float, name: str) -> None:
        """Raise an AVSInputError where a video is longer than the limit."""
        if seconds > self.seconds:
            raise AVSInputError(
                f"{name} is {seconds:.0f} s long, and {self.seconds:.0f} s are taken here: cut a piece out of it"
            )

    def check_kept(self, size: float, name: str) -> None:
        """Raise an AVSInputError where the predictions of a video take more bytes than the limit."""
        if size > self.kept_megabytes * MEGABYTE:
            raise AVSInputError(
                f"the masks of {name} would take more than the {self.kept_megabytes} MB that are kept here: choose "
                "fewer per second, or cut a piece out of it"
            )


def heard_with(video: Video, choice: str, another: str | Path | None, limits: Limits) -> Sound:
    """Choose what the model hears with ``video``; no longer than it, as far as it announces its length.

    Args:
        video: that is predicted.
        choice: one of SOUNDS.
        another: the file for ANOTHER.
        limits: how long a video is at most.

    Raises:
        AVSInputError: the other sound is missing or cannot be read.
    """
    seconds = video.duration or limits.seconds
    if choice in (MUTED, NOISY):
        return Silence(seconds) if choice == MUTED else Noise(seconds)
    if choice == OWN:
        return video
    if another is None:
        raise AVSInputError("there is no other sound yet: give an audio or a video file for it")
    return SoundFile(another, seconds, Path(another).name)


class KeptPredictions:
    """Predictions whose probabilities lie on disk, as float16, and are read one at a time; to be closed after the last.

    That is 2 K S^2 bytes each: 50 kB for the quickstart's model, 7 MB for AVSS with its 71 classes at 224 pixels.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._file = open(self._path, "wb")  # noqa: SIM115 (closed by close)
        self._kept: list[FramePrediction] = []
        self._shape: tuple[int, ...] = ()

    def add(self, prediction: FramePrediction) -> None:
        self._shape = tuple(prediction.probabilities.shape)
        self._file.write(prediction.probabilities.half().numpy().tobytes())
        self._kept.append(replace(prediction, probabilities=torch.empty(0)))

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._kept) * kept_size(self._shape)

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[FramePrediction]:
        with open(self._path, "rb") as file:
            for prediction in self._kept:
                probabilities = np.fromfile(file, np.float16, int(np.prod(self._shape))).reshape(self._shape)
                yield replace(prediction, probabilities=torch.from_numpy(probabilities.astype(np.float32)))


def kept_size(shape: Sequence[int]) -> int:
    """Bytes that a prediction takes whose probabilities have that shape."""
    return int(np.prod(shape)) * np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class MarkedFrame:
    """Marked share of one frame.

    Attributes:
        time: in seconds since the first frame.
        marked: share of its pixels, in [0, 1].
        names: of the classes that are marked.
    """

    time: float
    marked: float
    names: list[str]

    @classmethod
    def of(cls, time: float, objects: Sequence[SoundingObject]) -> "MarkedFrame":
        return cls(time, sum(float(found.mask.mean()) for found in objects), [found.name for found in objects])


@dataclass(frozen=True)
class Drawing:
    """Picture of a session with one threshold.

    Attributes:
        overlay: the video with what sounds in color, and what was heard.
        coco: the masks, see :class:`transavs.demo.outputs.CocoFile`.
        archive: the masks, see :class:`transavs.demo.outputs.MaskArchive`.
        frames: one per prediction.
    """

    overlay: Path
    coco: Path
    archive: Path
    frames: list[MarkedFrame]


class DemoSession:
    """A video as a model has segmented it, in a folder of its own."""

    def __init__(self, video: Video, heard: Sound, folder: Path):
        """
        Args:
            video: that is predicted.
            heard: what the model hears with it.
            folder: in which the run makes its own.
        """
        self.video = video
        self._heard = heard
        self._levels = loudness_levels(heard)
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._predictions = KeptPredictions(self._folder / "probabilities")
        self.class_names: Sequence[str] = ()
        self.seconds = 0.0  # of work

    @property
    def is_silent(self) -> bool:
        """Tell whether there is nothing to be heard."""
        return is_silent(self._levels)

    def predict(self, predictor: AVSPredictor, rate: float, limits: Limits, progress: Progress) -> None:
        """Run the network once over the video.

        Args:
            predictor: the model.
            rate: masks per second; 0 = every frame.
            limits: for a video that is longer than it announces, and of what is kept.
            progress: told as it goes on.

        Raises:
            AVSInputError: the video cannot be read, is longer than the limit after all, or its masks take too much.
        """
        started = time.perf_counter()
        self.class_names = predictor.format.class_names
        shape = (len(self.class_names), predictor.format.image_size, predictor.format.image_size)
        masks = self.video.duration * (rate or self.video.frame_rate)
        limits.check_kept(masks * kept_size(shape), self.video.name)
        with closing(self._predictions):
            sound = self._heard.sound(predictor.format.front_end.sample_rate)
            for clip in predictor.predict_video(self.video, rate, sound):
                for frame in clip.frames:
                    limits.check(frame.time, self.video.name)
                    self._predictions.add(frame)
                    limits.check_kept(self._predictions.size, self.video.name)
                progress(self._share(clip.frames[-1]), "listening and looking")
        self.seconds = time.perf_counter() - started

    def draw(self, threshold: float, progress: Progress) -> Drawing:
        """Draw what has been predicted, in place of the last drawing.

        Args:
            threshold: see :meth:`transavs.inference.prediction.FramePrediction.mask`.
            progress: told as it goes on.
        """
        stem = Path(self.video.name).stem[:LONGEST_STEM]
        overlay, coco, archive = (
            self._folder / f"{stem}_{ending}" for ending in ("sounding.mp4", "masks.json", "masks.zip")
        )
        frames = []
        with ExitStack() as stack:
            outputs: list[Output] = [
                stack.enter_context(
                    OverlayVideo(self.video, overlay, self._levels, self._heard, DRAWN_SIDE, frames=self.video.frames())
                ),
                stack.enter_context(CocoFile(self.video, coco, self._levels)),
                stack.enter_context(MaskArchive(archive)),
            ]
            for frame in self._predictions:
                objects = frame.objects(threshold)
                for output in outputs:
                    output.add(frame, objects)
                frames.append(MarkedFrame.of(frame.time, objects))
                progress(self._share(frame), "drawing")
        return Drawing(overlay, coco, archive, frames)

    def _share(self, frame: FramePrediction) -> float:
        return min(1.0, frame.time / (self.video.duration or frame.time or 1.0))

    def remove(self) -> None:
        """Remove everything that the run has written."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Visit:
    """Keeps the last run of a visitor, and which of SOUNDS was heard in it.

    Attributes:
        earlier: videos of the runs before, which others keep, with what was heard in them; the newest first.
    """

    def __init__(self) -> None:
        self.run: DemoSession | None = None
        self.choice = OWN
        self.earlier: list[tuple[str, str]] = []

    def keep(self, run: DemoSession, choice: str, last: str | None) -> None:
        """Take a run in place of the last one, which is removed but for its video ``last``."""
        self.remove()
        if last is not None:
            self.earlier = [(last, self.choice), *self.earlier][:EARLIER]
        self.run, self.choice = run, choice

    def remove(self) -> None:
        """Remove everything that is kept."""
        if self.run is not None:
            self.run.remove()
            self.run = None
