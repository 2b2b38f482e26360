"""Frames and sound -> a video file that players and browsers open."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from transavs.media.audio_stream import Sound
from transavs.utils.atomic_files import finish_partial, partial_path
from transavs.utils.errors import AVSInputError, one_line

CLOCK = Fraction(1, 90000)  # fine enough for any frame rate, a fixed one or not
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # FFmpeg's name of each, by suffix
SLOWEST, FASTEST = 0.01, 1000.0  # frame rates that are announced: videos may claim any
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # by number of channels, that every player knows
MAX_SAMPLE_RATE = 48000
HD_HEIGHT = 720  # from which on players that do not look at tags take the colors for BT.709
# AVColorSpace of FFmpeg, which PyAV names otherwise for its conversion; primaries and gamma of the same standard.
BT709 = {"colorspace": 1, "color_primaries": ColorPrimaries.BT709, "color_trc": ColorTrc.BT709}
BT601 = {"colorspace": 6, "color_primaries": ColorPrimaries.SMPTE170M, "color_trc": ColorTrc.SMPTE170M}
QUALITY = {"crf": "20", "preset": "veryfast"}
AT_ONCE = {"tune": "zerolatency", "g": "25"}  # a player can begin at each of these frames
GROWING = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}  # the first is of .mp4


def check_video_path(path: str | Path) -> Path:
    """``path``, if its suffix is one of CONTAINERS; else an AVSInputError, better before than after long work."""
    if Path(path).suffix.lower() not in CONTAINERS:
        raise AVSInputError(
            f"{path} is no kind of video that is written: name a file ending in {', '.join(CONTAINERS)}"
        )
    return Path(path)


class VideoWriter:
    """Writes H.264 and AAC beside ``path`` and renames it when it is left without an error; else nothing is left.

    To be used in a ``with`` statement, or closed. Sound is taken from its stream only as far as the frames have come,
    so memory does not depend on the length. What is live is written to ``path`` itself, stays there, can be watched
    while it grows, and its sound ends with its frames.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        frame_rate: float,
        sound: Iterable[np.ndarray],
        *,
        sample_rate: int,
        channels: int,
        pixel_aspect: Fraction | int = 1,
        live: bool = False,
    ):
        """
        Args:
            path: of the file, .mp4, .mov or .mkv.
            size: (H, W) of the frames in pixels; an odd side is filled up by a copy of its last row or column.
            frame_rate: about how many frames per second there will be.
            sound: blocks of float32 (channels, n).
            sample_rate: of them, in Hz.
            channels: 1, 2 or 6.
            pixel_aspect: width over height of a pixel when it is shown.
            live: whether frames come in real time.

        Raises:
            AVSInputError: the file cannot be written or is of another kind.
        """
        self.path = check_video_path(path)
        self._live, self._reached = live, 0.0
        self._partial = self.path if live else partial_path(self.path)
        self._sound, self._sample_rate, self._channels = iter(sound), sample_rate, channels
        self._samples = 0  # given to the encoder
        self._padding = (size[0] % 2, size[1] % 2)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # FFmpeg gets an opened file: it would take a part of the name before a colon for a protocol.
            self._file = open(self._partial, "wb", buffering=0 if live else -1)  # noqa: SIM115 (closed by close)
            self._container: Any = av.open(
                self._file,
                "w",
                format=CONTAINERS[self.path.suffix.lower()],
                container_options=GROWING if live else {},
            )
        except (av.FFmpegError, OSError) as error:
            raise AVSInputError(f"{path} cannot be written ({one_line(error)}): name another file") from error
        self._picture = self._container.add_stream(
            "libx264",
            rate=Fraction(min(max(frame_rate, SLOWEST), FASTEST)).limit_denominator(1001),
            options=QUALITY | AT_ONCE if live else QUALITY,
        )
        self._picture.height, self._picture.width = (side + side % 2 for side in size)
        self._picture.pix_fmt = "yuv420p"
        self._picture.sample_aspect_ratio = Fraction(pixel_aspect)
        self._picture.codec_context.time_base = CLOCK
        self._colors, tags = (Colorspace.ITU709, BT709) if size[0] >= HD_HEIGHT else (Colorspace.ITU601, BT601)
        self._picture.codec_context.color_range = ColorRange.MPEG
        for name, tag in tags.items():
            setattr(self._picture.codec_context, name, tag)
        self._voice = self._container.add_stream("aac", rate=sample_rate, layout=LAYOUTS[channels])

    def write(self, pixels: np.ndarray, time: float) -> None:
        """Add a frame.

        Args:
            pixels: uint8 (H, W, 3) in RGB.
            time: in seconds, more than the last frame's.
        """
        rows, columns = self._padding
        if rows or columns:
            pixels = np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="edge")
        self._write_sound(time)
        self._reached = time
        # FFmpeg's own threads would not survive a fork, see VideoFrame.pixels.
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=self._colors, dst_color_range=ColorRange.MPEG, threads=1
        )
        frame.pts, frame.time_base = round(time / CLOCK), CLOCK
        self._container.mux(self._picture.encode(frame))

    def _write_sound(self, until: float) -> None:
        while self._samples <= until * self._sample_rate:
            block = next(self._sound, None)
            if block is None:
                return
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(block), format="fltp", layout=LAYOUTS[self._channels]
            )
            frame.sample_rate, frame.time_base = self._sample_rate, Fraction(1, self._sample_rate)
            frame.pts = self._samples
            self._samples += block.shape[1]
            self._container.mux(self._voice.encode(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def close(self, complete: bool = True) -> None:
        """Write what is left of the sound and rename the file; or, where the frames broke off, remove it."""
        try:
            with self._file:
                if complete:
                    self._write_sound(self._reached if self._live else float("inf"))
                    for stream in (self._picture, self._voice):
                        self._container.mux(stream.encode(None))
                self._container.close()
        except BaseException:
            complete = False
            raise
        finally:
            if not self._live:
                finish_partial(self._partial, self.path, complete)


def sound_of(heard: Sound) -> dict[str, Any]:
    """The ``sound``, ``sample_rate`` and ``channels`` of a :class:`VideoWriter` that plays ``heard``."""
    channels = heard.channels if heard.channels in LAYOUTS else 2
    # The next rate above that the encoder has, so that nothing that is heard is lost.
    rates = [rate for rate in av.Codec("aac", "w").audio_rates or () if rate <= MAX_SAMPLE_RATE]
    sample_rate = min((rate for rate in rates if rate >= heard.sample_rate), default=max(rates))
    sound = heard.sound(sample_rate, LAYOUTS[channels])
    return {"sound": sound, "sample_rate": sample_rate, "channels": channels}
