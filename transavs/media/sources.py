"""Opens what a user names: a video file, one that still grows, a pipe, a folder of images, a camera, an address."""

import os
import re
import select
import stat
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
STANDARD_INPUT, STANDARD_INPUT_FILE = "-", "/dev/stdin"
CAMERA_DEVICES = ("/dev/video", "/dev/v4l/")  # what their names begin with
# Of files that FFmpeg reads as videos; in AVSBench's raw videos they are looked for in this order.
VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".3g2", ".3gp", ".264", ".265", ".asf", ".divx", ".dv", ".f4v", ".flv"),
    *(".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mpe", ".mpeg"),
    *(".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".wmv", ".wtv"),
    ".y4m",
)


def is_live(source: str) -> bool:
    """Tell whether it names a camera, a pipe or an address; a file or a folder that exists is none of these."""
    return _is_camera(source) or stat.S_ISFIFO(_mode(source)) or _is_address(source)


def _is_camera(source: str) -> bool:
    mode = _mode(source)
    return source == CAMERA or stat.S_ISCHR(mode) or (not mode and source.startswith(CAMERA_DEVICES))


def _is_address(source: str) -> bool:
    return "://" in source and not _mode(source)


def _mode(source: str) -> int:
    """The kind of a file as os.stat gives it, 0 where there is none."""
    try:
        return os.stat(STANDARD_INPUT_FILE if source == STANDARD_INPUT else source).st_mode
    except (OSError, ValueError):  # it does not exist, or no file can have such a name
        return 0


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
        source: a path, "camera", a device such as /dev/video1, an address, or "-" for the standard input.
        start, end: of the part of a file, see :class:`transavs.media.video_reader.Video`.
        needs_sound: whether it is an error that there is none; a microphone is opened only then.
        frame_rate: of a folder of images, see :class:`transavs.media.image_folder.ImageFolder`.
        patience: of a file that is still being written, seconds without growth after which it is taken to be whole.

    Raises:
        AVSInputError: it is missing, or cannot be read, or has no picture or sound; or it has no parts.
    """
    live, path = is_live(source), Path(STANDARD_INPUT_FILE if source == STANDARD_INPUT else source)
    if (start or end is not None) and (live or patience is not None or path.is_dir()):
        raise AVSInputError(f"of {source} no part can be taken: leave out --start and --end")
    if _is_address(source):
        return _open_address(source, needs_sound)
    if _is_camera(source):
        return _open_camera(source, needs_sound)
    if live or patience is not None:
        return _follow_file(path, ANSWER_SECONDS if patience is None else patience, needs_sound)
    if path.is_dir():
        return nullcontext(ImageFolder(path, frame_rate, needs_sound=needs_sound))
    return nullcontext(Video(path, start=start, end=end, needs_sound=needs_sound))


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
        raise AVSInputError(f"{shown} is of a kind that is not read: give one of {', '.join(PROTOCOLS)}, or a path")
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
    if not path.is_file() and not path.is_fifo():
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
    """A file that is still being written, or a pipe, for PyAV: at its end it waits for more."""

    def __init__(self, path: Path, patience: float, stopped: threading.Event):
        """
        Args:
            path: of the file.
            patience: seconds without growth after which the file is taken to be whole; a pipe that its writers have
                closed is whole at once.
            stopped: no longer waits once this is set.
        """
        self.name = str(path)
        # To open a pipe does not wait for a writer, and to read from it not for data.
        self._file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115 (closed with it)
        self._patience, self._stopped = patience, stopped
        self._is_pipe, self._has_begun = path.is_fifo(), False

    def read(self, size: int) -> bytes:
        """Give up to ``size`` bytes; none at the end."""
        waited_from = time.monotonic()
        while not (chunk := self._file.read(size)) and time.monotonic() - waited_from < self._patience:
            if chunk is None:  # a pipe that has a writer, and no data yet
                select.select([self._file], [], [], POLL)
            elif self._is_pipe and self._has_begun:
                break
            else:
                self._stopped.wait(POLL)
            if self._stopped.is_set():
                break
        self._has_begun = self._has_begun or bool(chunk)
        return chunk or b""


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
