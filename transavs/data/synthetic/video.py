"""A video of the synthetic data set's scenes, with a cut every few seconds, to try a model on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from transavs.data.synthetic.dataset import DIFFICULTIES, LARGEST, SMALLEST, World, changing_sources
from transavs.data.synthetic.scenes import AnyScene
from transavs.media.audio_file import SAMPLE_RATE
from transavs.media.video_writer import VideoWriter
from transavs.utils.errors import AVSInputError, choose

SCENE_SECONDS = 5
LONGEST = 3600  # seconds; all of its sound is made at once
LARGEST_SCENE = 512  # side in pixels; larger videos are magnified, which is many times faster


@dataclass(frozen=True)
class Shot:
    """Picture and sound between two cuts.

    Attributes:
        scene: what is seen.
        sounding: bool (objects, SCENE_SECONDS), which object sounds in which second.
        wave: float32 (samples,), what is heard.
    """

    scene: AnyScene
    sounding: np.ndarray
    wave: np.ndarray

    @classmethod
    def draw(cls, world: World, side: int, rng: np.random.Generator) -> "Shot":
        """Draw a clip of MS3 on a square image of ``side`` pixels."""
        kinds = world.draw_kinds(rng)
        scene = world.draw_scene(kinds, SCENE_SECONDS, side, rng)
        sounding = changing_sources(len(kinds), SCENE_SECONDS, world.mute, rng)
        return cls(scene, sounding, world.mix(kinds.values(), sounding, rng).astype(np.float32))

    def truth(self, time: float, size: tuple[int, int]) -> np.ndarray:
        """Bool (H, W): what sounds at ``time`` seconds after the cut."""
        mask = (self.scene.visible([time])[:, 0] & self.sounding[:, int(time), None, None]).any(0)
        return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0


def write_synthetic_video(
    path: str | Path,
    *,
    seconds: float,
    frame_rate: float,
    size: tuple[int, int],
    difficulty: str = "hard",
    world: World | None = None,
    seed: int = 0,
) -> list[Shot]:
    """Write a video with sound; the same arguments give the same pictures and sounds.

    Args:
        path: of the file, .mp4, .mov or .mkv.
        seconds: its length.
        frame_rate: frames per second.
        size: (H, W) in pixels; scenes are square and stretched to it.
        difficulty: key of DIFFICULTIES.
        world: what else it is made of.
        seed: of every random choice.

    Returns:
        what is seen and heard, SCENE_SECONDS each.

    Raises:
        AVSInputError: a number is out of its range, there is no such difficulty, or see
            :class:`transavs.media.video_writer.VideoWriter`.
    """
    chosen = world or choose(DIFFICULTIES, difficulty, "difficulty")
    if not 1 <= seconds * frame_rate < np.inf or not 0 < seconds <= LONGEST or seed < 0:
        raise AVSInputError(
            f"{seconds} s at {frame_rate} frames per second, seed {seed}: give a frame or more, up to {LONGEST} s, "
            "and a seed from 0 on"
        )
    if min(size) < SMALLEST or max(size) > LARGEST:
        raise AVSInputError(f"frames of {size[1]} x {size[0]} pixels: give {SMALLEST} to {LARGEST} pixels a side")
    rng = np.random.default_rng([seed, *b"video"])
    shots = [
        Shot.draw(chosen, min(LARGEST_SCENE, max(size)), rng) for _ in range(int(np.ceil(seconds / SCENE_SECONDS)))
    ]
    heard = np.concatenate([shot.wave for shot in shots])[None, : int(seconds * SAMPLE_RATE)]
    with VideoWriter(path, size, frame_rate, _blocks(heard), sample_rate=SAMPLE_RATE, channels=1) as writer:
        for number in tqdm(range(int(seconds * frame_rate)), unit="frame", desc=Path(path).name):
            shot, time = divmod(number / frame_rate, SCENE_SECONDS)
            image = shots[int(shot)].scene.image(time, rng)
            writer.write(cv2.resize(image, size[::-1]), number / frame_rate)
    return shots


def _blocks(sound: np.ndarray) -> Iterator[np.ndarray]:
    """(channels, n) in pieces of a second."""
    for start in range(0, sound.shape[1], SAMPLE_RATE):
        yield sound[:, start : start + SAMPLE_RATE]
