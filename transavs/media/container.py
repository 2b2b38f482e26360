"""Video and audio files as FFmpeg opens them here: the given file alone, and no frame larger than the limit."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from transavs.utils.errors import AVSInputError
from transavs.utils.limits import MAX_CHANNELS, MAX_PIXELS, MAX_SAMPLE_RATE

CLOCK = Fraction(1, 90000)  # of frames without time stamps
PACKED = "flt"  # samples of all channels in turn
STILL = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
RESTART_SECONDS = 0.5  # by which a time stamp has to step back to begin a new count
NO_LARGER = {"max_pixels": str(MAX_PIXELS)}  # of a picture
# A playlist may name other files of this machine, or addresses; FFmpeg would read those by a protocol, and has none.
ALONE = {"protocol_whitelist": "none", **NO_LARGER}


class MediaFile(io.FileIO):
    """A file in which a seek to before its start, as damaged containers ask for, raises nothing.

    PyAV would keep that error and raise it where the next file is opened.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1  # FFmpeg takes it for an error of its own


@contextmanager
def open_media(path: str | Path) -> Iterator[Any]:
    """An av container to read from; what it raises is FFmpeg's or PyAV's.

    The file is handed over open: of a name FFmpeg would take parts for commands, such as a pattern of many files.
    """
    with MediaFile(path) as file, av.open(file, options=ALONE) as container:
        limit_frames(container)
        yield container


def limit_frames(container: Any) -> None:
    """Let the decoders of an av container refuse frames that are larger than the limit."""
    for stream in container.streams.video:
        if stream.codec_context is not None:  # of a codec that FFmpeg does not know
            stream.codec_context.options = NO_LARGER


def check_sound(name: str, codec_context: Any) -> None:
    """Raise an AVSInputError where the sound track of the file ``name`` is beyond the limits, or of no known codec."""
    if codec_context is None:
        raise AVSInputError(f"{name} has sound that FFmpeg cannot decode: name another file")
    channels, sample_rate = codec_context.channels, codec_context.sample_rate
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE or channels > MAX_CHANNELS:
        raise AVSInputError(
            f"{name} has {channels} channels of sound at {sample_rate} Hz, and up to {MAX_CHANNELS} at "
            f"{MAX_SAMPLE_RATE} Hz are read: convert it"
        )


def best_streams(container: Any) -> tuple[Any, Any]:
    """Choose the picture and the sound that a player would: of those it can decode the default one, else the first.

    A cover or another still picture is no picture of a video.

    Returns:
        the two streams, None where there is none.
    """
    pictures = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & STILL]
    sounds = [s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate]
    # max gives the first of equals.
    picture, sound = (
        max(some, key=lambda stream: bool(stream.disposition & Disposition.default), default=None)
        for some in (pictures, sounds)
    )
    return picture, sound


def pixel_aspect(picture: Any) -> Fraction:
    """Width over height of a stream's pixels when they are shown, 1 where the file does not say."""
    return Fraction(picture.sample_aspect_ratio or 1)


def like_frames(frames: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Decoded frames of sound in runs of one form each: what is broadcast may change it on the way."""
    for _, run in groupby(frames, lambda frame: (frame.format.name, frame.layout.name, frame.rate, frame.time_base)):
        yield run


def samples_of(frame: Any) -> np.ndarray:
    """float32 (channels, n) in [-1, 1] of a frame of the format PACKED; samples that are no numbers are silence.

    Of planar frames of eight channels or more PyAV finds more planes than there are, and reads beyond them.
    """
    samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1, 1)


class SteadyStamps:
    """Time stamps of one track that never begin anew, as they do where a file was put together of several.

    Called with each decoded frame, it sets the frame's stamp: one that is missing, or steps back by more than
    RESTART_SECONDS, is the end of the frame before.
    """

    def __init__(self, frame_rate: float | None = None):
        """
        Args:
            frame_rate: pictures per second; None for sound.
        """
        self._frame_rate = frame_rate
        self._shift, self._end = 0.0, 0.0
        self._last: float | None = None

    def __call__(self, frame: Any) -> Any:
        """Return the frame, whose ``time`` is set."""
        if frame.pts is None:
            frame.time_base = frame.time_base or CLOCK
            time = self._end
        else:
            time = frame.time + self._shift
            if self._last is not None and time < self._last - RESTART_SECONDS:
                self._shift += self._end - time
                time = self._end
        if frame.pts is None or self._shift:
            frame.pts = round(time / frame.time_base)
        lasts = 1 / self._frame_rate if self._frame_rate else frame.samples / frame.sample_rate
        self._last, self._end = time, max(self._end, time + lasts)
        return frame


def steady_sound(
    frames: Iterable[Any], start: float, sample_rate: int, layout: str | None = None
) -> Iterator[np.ndarray]:
    """Decoded frames of sound -> the sound without gaps, blocks of float32 (channels, n) in [-1, 1].

    Args:
        frames: with time stamps.
        start: time stamp in seconds at which it begins, with silence if need be.
        sample_rate: in Hz, of what is returned.
        layout: FFmpeg's name of the channel layout, such as "stereo"; None keeps that of the frames.
    """
    given = 0
    for run in like_frames(frames):
        first = next(run)
        resample = _resampler(first, sample_rate, layout or first.layout.name, start + given / sample_rate)
        for frame in chain([first], run, [None]):
            for block in resample(frame):
                given += block.shape[1]
                yield block


def _resampler(frame: Any, sample_rate: int, layout: str, start: float) -> Callable[[Any], Iterator[np.ndarray]]:
    """Make a function from decoded frames (None at the end) to blocks of float32 (channels, n).

    Args:
        frame: the first one.
        sample_rate, layout: of the blocks.
        start: time stamp in seconds of the first sample.
    """
    copies = None
    try:
        graph = _resampling_graph(frame, sample_rate, layout, start)
    except av.FFmpegError:  # FFmpeg knows no way to mix so many channels: their mean is copied to all
        graph, copies = _resampling_graph(frame, sample_rate, "", start), av.AudioLayout(layout).nb_channels

    def resample(decoded: Any) -> Iterator[np.ndarray]:
        graph.push(decoded)
        while True:
            try:
                block = samples_of(graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield block if copies is None else np.tile(block.mean(0), (copies, 1))

    return resample


def _resampling_graph(frame: Any, sample_rate: int, layout: str, start: float) -> Any:
    """Configure FFmpeg's aresample, which keeps to time stamps: it fills gaps with silence and cuts or fills the start.

    Its first_pts counts samples of what comes in, not of what goes out. A layout of "" keeps the frames' own.
    """
    graph = av.filter.Graph()
    first_pts = round(start * frame.sample_rate)
    layouts = f":channel_layouts={layout}" if layout else ""
    nodes = [
        graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=frame.time_base,
        ),
        graph.add("aresample", f"{sample_rate}:async=1:first_pts={first_pts}"),
        graph.add("aformat", f"sample_fmts={PACKED}:sample_rates={sample_rate}{layouts}"),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph
