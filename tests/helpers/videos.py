"""Videos that tests make with PyAV, and a model that hears and sees what is in them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from transavs.inference.backends import ClipFormat, InferenceBackend

TONE_HZ = 440


def beeps(seconds: float, sample_rate: int) -> np.ndarray:
    """A tone in the first, third, ... second and silence between, float32 (n,)."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * time) * (time.astype(int) % 2 == 0)).astype(np.float32)


def red_corner(height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3): red in the upper left quarter, blue elsewhere."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 2] = 200
    image[: height // 2, : width // 2] = (255, 0, 0)
    return image


def make_video(
    path: Path,
    *,
    seconds: float = 3,
    size: tuple[int, int] = (48, 80),
    times: Sequence[float] | None = None,
    frame_rate: int | Fraction = 25,
    codec: str = "libx264",
    audio_codec: str = "aac",
    sample_rate: int = 16000,
    layout: str = "mono",
    wave: np.ndarray | None = None,
    image_of: Callable[[int], np.ndarray] | None = None,
    rotation: int = 0,
    matrix: Sequence[int] = (),
    pixel_aspect: Fraction = Fraction(1),
    offset: float = 0.0,
    sound: bool = True,
    picture: bool = True,
) -> Path:
    """Write a video of a red corner that beeps.

    Args:
        path: of the file; its suffix tells the container.
        seconds: its length.
        size: (H, W) as stored.
        times: of the frames; None for ``frame_rate`` of them a second.
        wave: (n,) in place of the beeps.
        image_of: gives uint8 (H, W, 3) by frame number, in place of the red corner.
        rotation: counterclockwise, in degrees, that a player is to turn it by.
        matrix: a, b, c, d: column x and row y are to be shown in column a x + c y and row b x + d y.
        pixel_aspect: width over height of a pixel when it is shown.
        offset: of all time stamps, in seconds.
        sound, picture: whether there is such a track.
    """
    clock = Fraction(1, frame_rate) if times is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=frame_rate) if picture else None
        if video is not None:
            video.height, video.width, video.pix_fmt = *size, "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
            video.codec_context.time_base = clock
            if rotation:
                video.set_display_rotation(rotation)
            if matrix:
                a, b, c, d = (round(factor * 2**16) for factor in matrix)
                video.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 2**30])
            video.sample_aspect_ratio = pixel_aspect
        audio = container.add_stream(audio_codec, rate=sample_rate, layout=layout) if sound else None
        if audio is not None:
            heard = beeps(seconds, sample_rate) if wave is None else wave
            channels = len(audio.codec_context.layout.channels)
            samples, form = np.tile(heard, (channels, 1)), audio.codec_context.format.name
            if form in ("s16", "flt"):
                samples = samples.T.reshape(1, -1)
            if "s16" in form:
                samples = (32767 * samples).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format=form, layout=layout)
            frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
            frame.pts = round(offset * sample_rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        if video is not None:
            shown = times if times is not None else np.arange(round(seconds * frame_rate)) / frame_rate
            for number, time in enumerate(shown):
                pixels = image_of(number) if image_of else red_corner(*size)
                image = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                image.pts, image.time_base = round(float(time + offset) / clock), clock
                container.mux(video.encode(image))
            container.mux(video.encode(None))
    return path


class RedWhenLoud(InferenceBackend):
    """Marks what is red while something is heard; its numbers are plain enough to be told beforehand."""

    def __init__(self, num_frames: int = 3, image_size: int = 32, uses_temporal_context: bool = False):
        self.format = ClipFormat(num_frames, image_size, "RGB", ("background", "sounding"), uses_temporal_context)
        self.batches: list[Tensor] = []

    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        self.batches.append(images)
        assert images.shape[1:] == (self.format.num_frames, 3, self.format.image_size, self.format.image_size)
        # Half of the second around a frame at the least holds the tone where it is loud at the frame itself.
        loud = (log_mel.amax((-1, -2)) > 0).float()[..., 0, None, None]
        share_loud = (log_mel.amax(-1) > 0).float().mean((-1, -2))[..., None, None] > 0.5
        red = (images[:, :, 0] > 128) & (images[:, :, 2] < 128)
        sounding = red * loud * share_loud
        return torch.stack([1 - sounding, sounding], 2)
