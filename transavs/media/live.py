"""Frames and sound as they are made: of a camera, an address, or a file that is still being written.

A thread for each container decodes both tracks. Frames wait in a queue of bounded length, from which the oldest go;
sound is never left out, and is matched to the frames by time stamps.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.container import PACKED, SteadyStamps, best_streams, check_sound, pixel_aspect, steady_sound
from transavs.media.frames import VideoFrame, upright_shape
from transavs.utils.errors import AVSInputError, one_line

MAX_LATENCY = 2.0  # seconds
FRAMES_WAITING = 250
FRAME_RATE = 25.0  # where none is told
FIRST_FRAME_SECONDS = 20.0
SOUND_PATIENCE = 1.0  # seconds by which frames are ahead of a sound that has broken off
AHEAD = 1.0  # seconds that are read at once of what comes faster than it is played
FASTEST_CLOCK = 1.01  # of a sender, in multiples of ours
POLL = 0.1  # seconds


class LiveVideo:
    """A :class:`transavs.media.frames.VideoSource` that is read once, while it is made; to be used in a ``with``.

    :meth:`sound` is to be called before the first frame is taken from :meth:`frames`.

    Attributes:
        duration: of what has been given so far, in seconds.
        newest: time of the newest frame that has come, in seconds since the first one.
        dropped: sampled frames that came too late to be predicted, see :meth:`in_time`.
        lost: frames that nobody took in time, or whose time stamps step back, which are not even drawn.
    """

    def __init__(
        self,
        containers: Sequence[Any],
        name: str,
        *,
        needs_sound: bool = True,
        waits: bool = False,
        stopped: threading.Event | None = None,
    ):
        """
        Args:
            containers: of PyAV, opened; together they have a moving picture and a sound. They are closed at the end.
            name: for messages.
            needs_sound: whether what has no sound is refused; else it is silent.
            waits: whether the source waits until it is read, as a file does; then no frame is left out.
            stopped: set by :meth:`stop`, for a container that has to be told.

        Raises:
            AVSInputError: there is no moving picture, or no sound, or no frame comes.
        """
        self.name, self._waits = name, waits
        self.duration, self.newest, self.dropped, self.lost = 0.0, 0.0, 0, 0
        self._stopped = stopped or threading.Event()
        self._changed = threading.Condition()  # of what stands below
        self._frames: deque[Any] = deque()
        self._listeners: list[deque[Any]] = []
        self._unheard: list[Any] | None = []  # sound that has come before the first frame is taken
        self._start: float | None = None
        found = [best_streams(container) for container in containers]
        picture, sound = (
            next((stream for stream in kind if stream is not None), None) for kind in zip(*found, strict=True)
        )
        self.sample_rate, self.channels = SAMPLE_RATE, 1
        if picture is None:
            raise AVSInputError(f"{name} holds no moving picture: name a video with sound")
        if sound is not None:
            check_sound(name, sound.codec_context)
            self.sample_rate, self.channels = sound.codec_context.sample_rate, sound.codec_context.channels
        elif needs_sound:
            raise AVSInputError(f"{name} holds no sound track: give a sound with --audio, which may be mute")
        self.frame_rate = float(picture.average_rate or picture.guessed_rate or FRAME_RATE)
        stored_aspect = pixel_aspect(picture)  # readers close their containers, and their streams with them
        self._readers = [
            threading.Thread(
                target=self._read, args=(container, [s for s in (picture, sound) if s is not None and s in streams])
            )
            for container, streams in zip(containers, found, strict=True)
        ]
        self._reading = len(self._readers)
        for reader in self._readers:
            reader.daemon = True  # what sends nothing more must not keep the program from ending
            reader.start()
        self.height, self.width, self.pixel_aspect = upright_shape(self._first_frame(), stored_aspect)

    def _first_frame(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._frames or not self._reading, FIRST_FRAME_SECONDS)
            if self._frames:
                return self._frames[0]
        self.stop()
        raise AVSInputError(f"{self.name} sends no frame that can be decoded: look whether it is running")

    def _read(self, container: Any, streams: Sequence[Any]) -> None:
        """Decode a container to its end, in a thread of its own."""
        packets, began = container.demux(streams), time.monotonic()
        steady = {s.index: SteadyStamps(self.frame_rate if s.type == "video" else None) for s in streams}
        try:
            while not self._stopped.is_set() and (packet := next(packets, None)) is not None:
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue  # a damaged packet is left out
                for frame in frames:
                    if frame.time is not None:
                        self._take(steady[packet.stream_index](frame), began)
        except (av.FFmpegError, ValueError) as error:  # the connection is lost
            logging.getLogger(__name__).warning("%s ends: %s", self.name, one_line(error))
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()
            container.close()  # here, where nobody reads from it

    def _take(self, frame: Any, began: float) -> None:
        with self._changed:
            if isinstance(frame, av.AudioFrame):
                for listener in self._listeners:
                    listener.append(frame)
                if self._unheard is not None:
                    self._unheard.append(frame)
            else:
                self._start = frame.time if self._start is None else self._start
                self.newest = max(self.newest, frame.time - self._start)
                self._frames.append(frame)
                if not self._waits and len(self._frames) > FRAMES_WAITING:
                    self._frames.popleft()
                    self.lost += 1
            self._changed.notify_all()
            if isinstance(frame, av.VideoFrame):
                self._hold_back(began)

    def _hold_back(self, began: float) -> None:
        """Wait where frames come faster than they are used, or than in real time."""
        if self._waits:
            self._changed.wait_for(lambda: self._stopped.is_set() or len(self._frames) < AHEAD * self.frame_rate + 1)
        elif (early := self.newest - AHEAD - FASTEST_CLOCK * (time.monotonic() - began)) > 0:
            self._changed.wait_for(self._stopped.is_set, early)

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in order, as they come."""
        index, last = 0, -1.0
        with self._changed:
            self._unheard = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._has_ended())
                if not self._frames:
                    return
                decoded = self._frames.popleft()
                self._changed.notify_all()
            shown = decoded.time - self._start
            if shown > last:
                self.duration = shown + 1 / self.frame_rate
                yield VideoFrame(index, shown, decoded)
                index, last = index + 1, shown
            else:
                self.lost += 1

    def in_time(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """Those of ``frames`` that are at most MAX_LATENCY behind the newest one; counts the others.

        Of a source that waits it is all of them.
        """
        for frame in frames:
            if self._waits or self.newest - frame.time <= MAX_LATENCY:
                yield frame
            else:
                self.dropped += 1

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        """See :meth:`transavs.media.video_reader.Video.sound`; silence where it breaks off."""
        with self._changed:
            listener = deque(self._unheard or ())
            self._listeners.append(listener)
        return steady_sound(self._heard(listener), self._start or 0.0, sample_rate, layout)

    def _heard(self, listener: deque[Any]) -> Iterator[Any]:
        """Decoded frames of sound as they come, and silent ones where the track falls behind the picture."""
        heard = self._start or 0.0

        def is_late() -> bool:
            return self.newest + (self._start or 0.0) - heard > SOUND_PATIENCE + POLL

        while True:
            with self._changed:
                self._changed.wait_for(lambda: listener or is_late() or self._has_ended())
                if listener:
                    frame = listener.popleft()
                elif not self._has_ended():
                    until = self.newest + (self._start or 0.0) - SOUND_PATIENCE
                    frame = _silence(heard, until, self.sample_rate, self.channels)
                else:
                    return
            heard = max(heard, frame.time + frame.samples / frame.sample_rate)
            yield frame

    def _has_ended(self) -> bool:
        return self._stopped.is_set() or not self._reading

    def stop(self) -> None:
        """End: what has come is still given, and nothing more is read. May be called by a signal's handler."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> "LiveVideo":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for reader in self._readers:
            reader.join(POLL)


def _silence(start: float, end: float, sample_rate: int, channels: int) -> av.AudioFrame:
    """A decoded frame of silence between two time stamps."""
    samples = np.zeros((1, max(1, round((end - start) * sample_rate)) * channels), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format=PACKED, layout=f"{channels}c")
    frame.sample_rate, frame.pts = sample_rate, round(start * sample_rate)
    frame.time_base = Fraction(1, sample_rate)
    return frame
