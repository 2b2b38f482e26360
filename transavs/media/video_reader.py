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
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.container import SteadyStamps, best_streams, check_sound, open_media, pixel_aspect, steady_sound
from transavs.media.frames import VideoFrame, upright_shape
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.limits import MAX_PIXELS

ROUNDING = 1e-6  # seconds, of time stamps
SEEK_MARGIN = 1.0  # seconds: in some containers a seek lands a little late
CUT_SHORT_SECONDS = 1.0  # a track that ends earlier than announced by more than this is worth a word


class Video:
    """A video file with a sound track, or a part of one; opened anew for each pass. A VideoSource.

    Attributes:
        name: for messages.
        height, width: of the upright frames in pixels.
        pixel_aspect: width over height of a pixel when it is shown.
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
        self._held_back: int | None = None  # ticks by which AVI's decoding stamps run ahead
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
        if first is None:
            raise AVSInputError(
                f"{self.name} holds no frame that can be decoded: it is damaged, copy it again; or its frames have "
                f"more than {MAX_PIXELS} pixels, make it smaller"
            )
        self._start: float = first.time
        self._end = float("inf") if end is None else first.time + end
        if start:
            self._cut_off(start)
        self.duration = min(self.duration, self._end - self._start)
        self.height, self.width, self.pixel_aspect = upright_shape(first, self._stored_aspect)

    def _read_header(self, needs_sound: bool) -> None:
        with self._opened() as container:
            if container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise AVSInputError(f"{self.name} is an image: name a video with sound")
            picture, sound = best_streams(container)
            if picture is None:
                raise AVSInputError(f"{self.name} holds no moving picture: name a video with sound")
            if sound is None and needs_sound:
                raise AVSInputError(f"{self.name} holds no sound track, and nothing in it can be heard: name one with")
            self.sample_rate, self.channels = SAMPLE_RATE, 1
            if sound is not None:
                check_sound(self.name, sound.codec_context)
                self.sample_rate, self.channels = sound.codec_context.sample_rate, sound.codec_context.channels
            self._stored_aspect = pixel_aspect(picture)
            self.frame_rate = float(picture.average_rate or picture.guessed_rate or 1)
            self._announced: float = container.duration / av.time_base if container.duration else 0.0
            if self._announced and "matroska" in container.format.name:  # which announces the time stamp of its end
                self._announced -= (container.start_time or 0) / av.time_base
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
        stamped = True
        with self._opened() as container, suppress(av.FFmpegError):  # a damaged file is used as far as it goes
            picture, _ = best_streams(container)
            guessed = float(picture.guessed_rate or self.frame_rate)
            for packet in container.demux(picture):
                if packet.size:  # the last one of all is empty
                    stamped = stamped and packet.pts is not None
                    time = float(packet.pts * packet.time_base) if stamped else 0.0
                    first, last, count = min(first, time), max(last, time), count + 1
        if stamped and count > 1 and last > first:
            self.frame_rate = (count - 1) / (last - first)
        elif not stamped:
            self.frame_rate = guessed  # of the codec; else it is FFmpeg's 25
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
            stream = dict(zip(("video", "audio"), best_streams(container), strict=True))[kind]
            if stream is None:
                return
            # FFmpeg guesses the place in a transport stream, and knows none where there are no time stamps.
            if self._seek is not None and self._announced and container.format.name != "mpegts":
                with suppress(av.FFmpegError):  # what cannot be sought in is read from its start
                    container.seek(round(max(0.0, self._seek - SEEK_MARGIN) * av.time_base))
            if kind == "video":
                stream.thread_type = "AUTO"
            stamped = self._stamping(container, stream)
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
                    end = stamped(frame).time
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

    def _stamping(self, container: Any, stream: Any) -> Callable[[Any], Any]:
        """Make a function that sets the time stamps of a track's decoded frames, see :class:`SteadyStamps`."""
        steady = SteadyStamps(self.frame_rate if stream.type == "video" else None)
        if stream.type != "video" or container.format.name != "avi":
            return steady

        def by_decoding(frame: Any) -> Any:
            # AVI has decoding stamps alone, of which FFmpeg makes presentation stamps that step back. The first frame
            # tells how long a decoder holds frames back to bring them in order.
            if self._held_back is None:
                self._held_back = (frame.dts or 0) - (stream.start_time or 0)
            frame.pts = None if frame.dts is None else frame.dts - self._held_back
            return steady(frame)

        return by_decoding

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in the order and at the times at which they are shown."""
        last, index, left_out = -1.0, 0, 0
        for decoded in self._decoded("video"):
            time = decoded.time - self._start
            if time > last and time >= 0:  # before a part others may be decoded
                yield VideoFrame(index, time, decoded)
                index, last = index + 1, time
            elif time >= 0:
                left_out += 1
        if left_out and "order" not in self._complained_of:
            self._complained_of.add("order")
            logging.getLogger(__name__).warning(
                "%s: %d frames are left out, their time stamps are not after those of the frames before them: convert "
                "the video",
                *(self.name, left_out),
            )

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        """The sound from the first frame's time on, with silence in place of gaps.

        Args:
            sample_rate: in Hz, of what is returned.
            layout: FFmpeg's name of the channel layout, such as "stereo"; None keeps the track's own.

        Returns:
            blocks of float32 (channels, n) in [-1, 1].
        """
        left = round((self._end - self._start) * sample_rate) if self._end < float("inf") else sys.maxsize
        for block in steady_sound(self._decoded("audio"), self._start, sample_rate, layout):
            yield block[:, :left]
            left = max(0, left - block.shape[1])


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
