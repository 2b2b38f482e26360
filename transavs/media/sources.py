"""Opens what a user names: a video file, one that still grows, a folder of images, a camera, an address."""

import re
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import av

from transavs.media.container import ALONE, NO_LARGER, limit_frames
from transavs.media.frames import VideoSource
from transavs.media.image_folder import ImageFolder
from transavs.media.live import LiveVideo
from transavs.media.video_reader import Video
from transavs.utils.errors import AVSInputError, one_line

CAMERA = "camera"
FIRST_CAMERA, MICROPHONE = "/dev/video0", "default"
PICTURE_DEVICE, SOUND_DEVICE = "v4l2", "alsa"  # of FFmpeg, on Linux
# What each kind of address is read by, and nothing else: what comes from there cannot name files of this machine.
PROTOCOLS = {
    "rtsp": "rtp,udp,tcp",
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "udp": "udp",
    "tcp": "tcp",
}
ANSWER_SECONDS = 10.0  # for which an address may be silent
PROBED = {"analyzeduration": str(av.time_base)}  # 1 second of a stream, to find its tracks
POLL = 0.05  # seconds


def is_live(source: str) -> bool:
    """Tell whether it names a camera or an address rather than a file."""
    return source == CAMERA or source.startswith("/dev/") or "://" in source


def open_source(
    source: str,
    *,
    start: float = 0.0,
    end: float | None = None,
    needs_sound: bool = True,
    frame_rate: float | None = None,
    patience: float | None = None,
) -> AbstractContextManager[VideoSource]:
    """Open a video of any kind, to be used in a ``with``.

    Args:
        source: a path, "camera", a device such as /dev/video1, or an address.
        start, end: of the part of a file, see :class:`transavs.media.video_reader.Video`.
        needs_sound: whether it is an error that there is none; a microphone is opened only then.
        frame_rate: of a folder of images, see :class:`transavs.media.image_folder.ImageFolder`.
        patience: of a file that is still being written, seconds without growth after which it is taken to be whole.

    Raises:
        AVSInputError: it is missing, or cannot be read, or has no picture or sound; or it has no parts.
    """
    is_file = not is_live(source)
    if (start or end is not None) and (not is_file or patience is not None or Path(source).is_dir()):
        raise AVSInputError(f"of {source} no part can be taken: leave out --start and --end")
    if not is_file:
        return _open_address(source, needs_sound) if "://" in source else _open_camera(source, needs_sound)
    if patience is not None:
        return _follow_file(Path(source), patience, needs_sound)
    if Path(source).is_dir():
        return nullcontext(ImageFolder(Path(source), frame_rate, needs_sound=needs_sound))
    return nullcontext(Video(source, start=start, end=end, needs_sound=needs_sound))


def _open_camera(source: str, needs_sound: bool) -> LiveVideo:
    device = FIRST_CAMERA if source == CAMERA else source
    containers = [_open_device(PICTURE_DEVICE, device, {"timestamps": "abs"})]  # the clock of ALSA
    if needs_sound:
        containers.append(_open_device(SOUND_DEVICE, MICROPHONE, {}))
    return LiveVideo(containers, source, needs_sound=needs_sound)


def _open_device(kind: str, device: str, options: dict[str, str]) -> Any:
    try:
        return av.open(device, format=kind, options=options)
    except (av.FFmpegError, OSError, ValueError) as error:  # of a kind that this build of PyAV has not, ValueError
        raise AVSInputError(
            f"{kind} cannot read {device} ({one_line(error)}): connect it, close what uses it, give another sound with "
            "--audio, or let ffmpeg send it to an address such as udp://127.0.0.1:5000, and name that"
        ) from error


def _open_address(address: str, needs_sound: bool) -> LiveVideo:
    scheme, shown = address.split("://")[0].lower(), re.sub(r"//[^/@]*@", "//", address)  # without a password
    if scheme not in PROTOCOLS:
        raise AVSInputError(f"{shown} is of a kind that is not read: give one of {', '.join(PROTOCOLS)}")
    options = {"protocol_whitelist": PROTOCOLS[scheme], **NO_LARGER, **PROBED}
    try:
        container = av.open(address, options=options, timeout=ANSWER_SECONDS)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AVSInputError(
            f"{shown} cannot be read ({one_line(error)}): look whether it is sent, and can be reached from here"
        ) from error
    limit_frames(container)
    return LiveVideo([container], shown, needs_sound=needs_sound)


def _follow_file(path: Path, patience: float, needs_sound: bool) -> LiveVideo:
    if not path.is_file():
        raise AVSInputError(f"{path} does not exist: name a video file that is being written")
    stopped = threading.Event()
    try:
        container = av.open(GrowingFile(path, patience, stopped), options={**ALONE, **PROBED})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AVSInputError(
            f"{path} cannot be read while it grows ({one_line(error)}): write .ts, .mkv or fragmented .mp4"
        ) from error
    limit_frames(container)
    return LiveVideo([container], str(path), needs_sound=needs_sound, waits=True, stopped=stopped)


class GrowingFile:
    """A file that is still being written, for PyAV: at its end it waits for more."""

    def __init__(self, path: Path, patience: float, stopped: threading.Event):
        """
        Args:
            path: of the file.
            patience: seconds without growth after which the file is taken to be whole.
            stopped: no longer waits once this is set.
        """
        self.name = str(path)
        self._file, self._patience, self._stopped = open(path, "rb"), patience, stopped  # noqa: SIM115 (closed with it)

    def read(self, size: int) -> bytes:
        """Give up to ``size`` bytes; none at the end."""
        waited_from = time.monotonic()
        while not (found := self._file.read(size)) and time.monotonic() - waited_from < self._patience:
            if self._stopped.wait(POLL):
                break
        return found
