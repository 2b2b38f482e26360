"""Video and audio files as FFmpeg opens them here: the given file alone, and no frame larger than the limit."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import av
import numpy as np

from transavs.utils.errors import AVSInputError
from transavs.utils.limits import MAX_CHANNELS, MAX_PIXELS, MAX_SAMPLE_RATE

PACKED = "flt"  # samples of all channels in turn
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
    """The first moving picture, which a cover is not, and the best sound track; None where there is none."""
    pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    sounds = [s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate]
    return next(iter(pictures), None), next(iter(sounds), None)


def like_frames(frames: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Decoded frames of sound in runs of one form each: what is broadcast may change it on the way."""
    for _, run in groupby(frames, lambda frame: (frame.format.name, frame.layout.name, frame.rate, frame.time_base)):
        yield run


def samples_of(frame: Any) -> np.ndarray:
    """float32 (channels, n) of a frame of the format PACKED.

    Of planar frames of eight channels or more PyAV finds more planes than there are, and reads beyond them.
    """
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T


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
    first_sample, given = round(start * sample_rate), 0
    for run in like_frames(frames):
        first = next(run)
        resample = _resampler(first, sample_rate, layout or first.layout.name, first_sample + given)
        for frame in chain([first], run, [None]):
            for block in resample(frame):
                given += block.shape[1]
                yield block


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
        graph.add("aformat", f"sample_fmts={PACKED}:sample_rates={sample_rate}:channel_layouts={layout}"),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()

    def resample(decoded: Any) -> Iterator[np.ndarray]:
        graph.push(decoded)
        while True:
            try:
                yield samples_of(graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    return resample
