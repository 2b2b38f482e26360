"""A folder of images and a sound file, as a video."""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.audio_stream import SoundFile
from transavs.media.frames import VideoFrame
from transavs.media.images import read_frame
from transavs.utils.errors import AVSInputError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff"}
SOUND_SUFFIXES = {
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".caf"),
    *(".mka", ".mp2", ".oga", ".wma", ".wv"),
}


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, by name and by the value of numbers in it; hidden ones are left out."""
    return _files_of(folder, IMAGE_SUFFIXES)


def _files_of(folder: Path, suffixes: set[str]) -> list[Path]:
    found = [file for file in folder.iterdir() if file.suffix.lower() in suffixes and not file.name.startswith(".")]
    return sorted(found, key=lambda file: _texts_and_numbers(file.name))


def _texts_and_numbers(name: str) -> list[tuple[int, str]]:
    # Texts and numbers alternate, so like is compared with like.
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


class ImageFolder:
    """A :class:`transavs.media.frames.VideoSource` of the images in a folder and the sound file beside them."""

    def __init__(self, folder: Path, frame_rate: float | None = None, *, needs_sound: bool = True):
        """
        Args:
            folder: of images, see :func:`images_in`, and one sound file.
            frame_rate: images per second; None: so many that the images last as long as the sound.
            needs_sound: whether the sound file is needed, and heard.

        Raises:
            AVSInputError: there is no image, not one sound file, or no way to know the frame rate.
        """
        self.name, self._images = str(folder), images_in(folder)
        sounds = _files_of(folder, SOUND_SUFFIXES) if needs_sound or frame_rate is None else []
        if not self._images:
            raise AVSInputError(f"the folder {folder} holds no image: name another")
        if len(sounds) > 1 or (needs_sound and not sounds):
            raise AVSInputError(
                f"the folder {folder} holds images and {len(sounds)} sound files: leave one in it, or give --audio"
            )
        if frame_rate is None:
            if not sounds:
                raise AVSInputError(
                    f"the folder {folder} holds no sound, which would tell its length: give --input-fps"
                )
            blocks = SoundFile(sounds[0], float("inf")).sound(SAMPLE_RATE)
            frame_rate = len(self._images) * SAMPLE_RATE / sum(block.shape[1] for block in blocks)
        if not 0 < frame_rate < np.inf:
            raise AVSInputError(f"{frame_rate} images per second: give a number above 0")
        self.frame_rate, self.duration = frame_rate, len(self._images) / frame_rate
        self._sound = SoundFile(sounds[0], self.duration) if sounds else None
        self.sample_rate = self._sound.sample_rate if self._sound else SAMPLE_RATE
        self.channels = self._sound.channels if self._sound else 1
        self.height, self.width = read_frame(str(self._images[0]), "RGB").shape[:2]
        self.pixel_aspect = Fraction(1)

    def frames(self) -> Iterator[VideoFrame]:
        """See :class:`transavs.media.frames.VideoSource`; each is read when its turn comes."""
        for index, path in enumerate(self._images):
            image = read_frame(str(path), "RGB")
            yield VideoFrame(index, index / self.frame_rate, av.VideoFrame.from_ndarray(image, format="rgb24"))

    def sound(self, sample_rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
        """See :meth:`transavs.media.video_reader.Video.sound`."""
        if self._sound is not None:
            yield from self._sound.sound(sample_rate, layout)
