"""Any video file -> upright frames with times and sound without gaps, both read as streams.

Times are seconds since the first frame. Frames and sound are read by two passes over the file, so that memory depends
neither on the length of the video nor on how its tracks are interleaved.
"""

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.audio_stream import like_frames
from transavs.media.container import check_sound, open_media
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.limits import MAX_PIXELS

ROUNDING = 1e-6  # seconds, of time stamps
SEEK_MARGIN = 1.0  # seconds: in some containers a seek lands a little late
CUT_SHORT_SECONDS = 1.0  # a track that ends earlier than announced by more than this is worth a word
QUARTER = 90


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video.

    Attributes:
        index: from 0.
        time: in seconds since the first frame.
    """

    index: int
    time: float
    _decoded: av.VideoFrame

    @property
    def num_bytes(self) -> int:
        """Memory that it takes as it was decoded."""
        return sum(plane.buffer_size for plane in self._decoded.planes)

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) in RGB, turned as the file asks for; converted when called."""
        image = self._decoded.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(image, round(self._decoded.rotation / QUARTER)))


class Video:
    """A video file with a sound track, or a part of one; opened anew for each pass.

    Attributes:
        name: for messages.
        height, width: of the upright frames in pixels.
        frame_rate: frames per second on average.
        duration: in seconds as the file announces it, or where it does not, as its packets tell.
        sample_rate: of the sound, in Hz.
        channels: of the sound.
    """

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
        needs_sound: bool = True,
    ):
        """
        Args:
            path: of the file.
            name: for messages.
            start, end: of the part that is read, in seconds since the file's first frame, as if it were cut out; what
                comes before is not decoded where the file can be sought in.
            needs_sound: whether a file without a sound track is refused; else it is silent.

        Raises:
            AVSInputError: the file is missing, empty, an image, no video, damaged at its start, without sound, or
                beyond transavs/utils/limits.py; or the part is empty.
        """
        self.path, self.name = Path(path), name or str(path)
        self._complained_of: set[str] = set()
        self.duration = 0.0
        self._seek: float | None = None  # time stamp to begin at
        self._end = float("inf")  # time stamp to end before
        if not 0 <= start < (self._end if end is None else end):
            raise AVSInputError(f"{self.name} from {start} s to {end} s: give a start from 0 on, and a later end")
        if not self.path.is_file():
            raise AVSInputError(f"{self.name} does not exist: name a video file")
        if not self.path.stat().st_size:
            raise AVSInputError(f"{self.name} is empty: copy or record it again")
        self._read_header(needs_sound)
        if not self.duration:
            self._measure()
        # Rotation and the time of the first frame are known once it is decoded, and surely then.
        first = next(self._decoded("video"), None)
        if first is None or first.time is None:
            raise AVSInputError(
                f"{self.name} holds no frame that can be decoded: it is damaged, copy it again; or its frames have "
                f"more than {MAX_PIXELS} pixels, make it smaller"
            )
        self._start: float = first.time
        self._end = float("inf") if end is None else first.time + end
        if start:
            self._cut_off(start)
        self.duration = min(self.duration, self._end - self._start)
        is_turned = round(first.rotation / QUARTER) % 2
        self.height, self.width = (first.width, first.height) if is_turned else (first.height, first.width)

    def _read_header(self, needs_sound: bool) -> None:
        with self._opened() as container:
            if container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise AVSInputError(f"{self.name} is an image: name a video with sound")
            picture, sound = _streams(container)
            if picture is None:
                raise AVSInputError(f"{self.name} holds no moving picture: name a video with sound")
            if sound is None and needs_sound:
                raise AVSInputError(f"{self.name} holds no sound track, and nothing in it can be heard: name one with")
            self.sample_rate, self.channels = SAMPLE_RATE, 1
            if sound is not None:
                check_sound(self.name, sound.codec_context)
                self.sample_rate, self.channels = sound.codec_context.sample_rate, sound.codec_context.channels
            self.frame_rate = float(picture.average_rate or picture.guessed_rate or 1)
            self._announced: float = container.duration / av.time_base if container.duration else 0.0
            self.duration = self._announced

    def _cut_off(self, start: float) -> None:
        """Begin with the first frame that is shown at ``start`` seconds or after."""
        self._seek = self._start + start
        first = next((frame for frame in self._decoded("video") if (frame.time or 0.0) >= self._seek - ROUNDING), None)
        if first is None:
            raise AVSInputError(f"{self.name} has no frame after {start} s: give a start before its end")
        self.duration = max(0.0, self.duration - (first.time - self._start))
        self._start = first.time

    def _measure(self) -> None:
        """Take length and frame rate from the packets: what a browser records of a camera announces neither."""
        first, last, count = float("inf"), 0.0, 0
        with self._opened() as container, suppress(av.FFmpegError):  # a damaged file is used as far as it goes
            picture, _ = _streams(container)
            for packet in container.demux(picture):
                if packet.pts is not None:
                    time = float(packet.pts * packet.time_base)
                    first, last, count = min(first, time), max(last, time), count + 1
        if count > 1 and last > first:
            self.frame_rate = (count - 1) / (last - first)
            self.duration = count / self.frame_rate

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with open_media(self.path) as container:
                yield container
        except (av.FFmpegError, ValueError) as error:  # FFmpegError is none of OSError's for all codes
            if isinstance(error, AVSInputError):
                raise
            raise AVSInputError(
                f"{self.name} cannot be read as a video ({one_line(error)}): it is damaged or cut short, copy it again"
            ) from error

    def _decoded(self, kind: str) -> Iterator[Any]:
        """Decoded frames of the "video" or "audio" track; what is damaged is left out with one warning."""
        damaged, end = 0, 0.0
        with self._opened() as container:
            stream = dict(zip(("video", "audio"), _streams(container), strict=True))[kind]
            if stream is None:
                return
            if self._seek is not None and container.format.name != "mpegts":  # FFmpeg guesses the place there
                with suppress(av.FFmpegError):  # what cannot be sought in is read from its start
                    container.seek(round(max(0.0, self._seek - SEEK_MARGIN) * av.time_base))
            if kind == "video":
                stream.thread_type = "AUTO"
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                    frames = packet.decode() if packet is not None else []
                except av.FFmpegError:
                    damaged += 1
                    continue
                if packet is None:
                    break
                for frame in frames:
                    end = frame.time if frame.time is not None else end
                    if end >= self._end - ROUNDING:
                        return
                    yield frame
            announced = float(stream.duration * stream.time_base) if stream.duration else self._announced
            start = float((stream.start_time or 0) * stream.time_base)
        if kind not in self._complained_of and (damaged or announced - (end - start) > CUT_SHORT_SECONDS):
            self._complained_of.add(kind)
            logging.getLogger(__name__).warning(
                "%s is damaged or cut short: its %s track announces %.1f s and ends at %.1f s, %d packets are broken",
                *(self.name, kind, announced, end - start, damaged),
            )

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in the order and at the times at which they are shown."""
        last = -1.0
        index = 0
        for decoded in self._decoded("video"):
            time = decoded.time - self._start if decoded.time is not None else last + 1 / self.frame_rate
            if time > last and time >= 0:  # broken files repeat times; before a part others may be decoded
                yield VideoFrame(index, time, decoded)
                index, last = index + 1, time

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        """The sound from the first frame's time on, with silence in place of gaps.

        Args:
            sample_rate: in Hz, of what is returned.
            layout: FFmpeg's name of the channel layout, such as "stereo"; None keeps the track's own.

        Returns:
            blocks of float32 (channels, n) in [-1, 1].
        """
        start, given = round(self._start * sample_rate), 0
        left = round((self._end - self._start) * sample_rate) if self._end < float("inf") else sys.maxsize
        for run in like_frames(self._decoded("audio")):
            first = next(run)
            resample = _resampler(first, sample_rate, layout or first.layout.name, start + given)
            for frame in chain([first], run, [None]):
                for block in resample(frame):
                    given += block.shape[1]
                    yield block[:, : left - given + block.shape[1]]


def _streams(container: Any) -> tuple[Any, Any]:
    """The first moving picture, which a cover is not, and the best sound track; None where there is none."""
    pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    sounds = [s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate]
    return next(iter(pictures), None), next(iter(sounds), None)


def _resampler(frame: Any, sample_rate: int, layout: str, first_sample: int) -> Callable[[Any], Iterator[np.ndarray]]:
    """A function from decoded frames (None at the end) to blocks of float32 (channels, n).

    FFmpeg's aresample keeps to the time stamps: it fills gaps with silence and cuts or fills the start.
    """
    graph = av.filter.Graph()
    nodes = [
        graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=frame.time_base,
        ),
        graph.add("aresample", f"{sample_rate}:async=1:first_pts={first_sample}"),
        graph.add("aformat", f"sample_fmts=fltp:sample_rates={sample_rate}:channel_layouts={layout}"),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()

    def resample(decoded: Any) -> Iterator[np.ndarray]:
        graph.push(decoded)
        while True:
            try:
                yield graph.pull().to_ndarray()
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    return resample


@contextmanager
def open_video(source: str | Path | BinaryIO) -> Iterator[Video]:
    """A :class:`Video` of a path, or of a binary file object, which is copied to disk as long as it is needed."""
    if isinstance(source, str | Path):
        yield Video(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "video"
        with open(copy, "wb") as file:
            shutil.copyfileobj(source, file)
        yield Video(copy, name=str(getattr(source, "name", "the given video")))


def sample_frames(video: Video, rate: float, seen: Callable[[VideoFrame], None] | None = None) -> Iterator[VideoFrame]:
    """The frames shown in the middle of each interval of 1 / ``rate`` seconds, each once; all frames for rate 0.

    At one frame a second these are the frames at 0.5 s, 1.5 s, ...; a video shorter than that gives its last frame.

    Args:
        video: to read.
        rate: frames per second.
        seen: called with every frame of the video, in order, before it is sampled.
    """
    frames = video.frames() if seen is None else _shown_to(seen, video.frames())
    if not rate:
        yield from frames
        return
    held, given, number = None, -1, 0
    for frame in frames:
        while held is not None and frame.time > (number + 0.5) / rate:
            if held.index > given:
                yield held
                given = held.index
            number += 1
        held = frame
    is_shown = held is not None and (number + 0.5) / rate < held.time + 1 / video.frame_rate
    if held is not None and held.index > given and (is_shown or given < 0):
        yield held


def _shown_to(seen: Callable[[VideoFrame], None], frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    for frame in frames:
        seen(frame)
        yield frame
