"""Video and audio files as FFmpeg opens them here: the given file alone, and no frame larger than the limit."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from transavs.utils.errors import AVSInputError
from transavs.utils.limits import MAX_CHANNELS, MAX_PIXELS, MAX_SAMPLE_RATE

# A playlist may name other files of this machine, or addresses; FFmpeg would read those by a protocol, and has none.
ALONE = {"protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}


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
        for stream in container.streams.video:
            if stream.codec_context is not None:  # of a codec that FFmpeg does not know
                stream.codec_context.options = ALONE
        yield container


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
