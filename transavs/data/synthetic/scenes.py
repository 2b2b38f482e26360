"""The look of the synthetic data set: textured shapes that move, turn, grow and pass over each other.

Shape legend: S = side of the square image in pixels, T = frames of a clip.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import cv2
import numpy as np

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]

PLACEMENT_TRIES = 60
GRAIN_SIDE = 64  # cells of the noise on a natural surface


class Placeable(Protocol):
    """Whatever can be placed in a scene."""

    def mask(self, frame: float, size: int) -> np.ndarray:
        """Bool (S, S): its pixels as if it were alone."""


Placed = TypeVar("Placed", bound=Placeable)


class AnyScene(Protocol):
    """Content of a clip, at any time in frames (seconds) of it."""

    def image(self, frame: float, rng: np.random.Generator) -> np.ndarray:
        """uint8 (S, S, 3) in RGB."""

    def visible(self, frames: Iterable[float]) -> np.ndarray:
        """The visible part of each object that may sound, bool (objects, T, S, S)."""


def _polygon(corners: int, depth: float = 0.0) -> Outline:
    """Regular polygon of circumradius 1; ``depth`` > 0 pulls the middle of each side in, which makes a star."""

    def inside(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        sector = 2 * np.pi / corners
        angle = np.abs((np.arctan2(v, u) % sector) - sector / 2)  # 0 mid-side, sector / 2 at a corner
        waist = np.cos(sector / 2) * (1 - depth)
        # The side runs from the mid-side point (waist, 0) to the corner (cos, sin)(sector / 2).
        run, rise = np.cos(sector / 2) - waist, np.sin(sector / 2)
        distance = waist * rise / np.maximum(rise * np.cos(angle) - run * np.sin(angle), 1e-6)
        return np.hypot(u, v) <= distance

    return inside


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) <= 0.9


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    near, far = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (near <= 0.38) & (far <= 0.95)


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sign(np.sin(9 * u))


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.sin(8 * u) * np.sin(8 * v) > 0.35).astype(float)


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sign(np.sin(7 * u) * np.sin(7 * v))


def _rings(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(14 * np.hypot(u, v))


def _waves(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(9 * v + 2 * np.sin(6 * u))


def _rays(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sign(np.sin(8 * np.arctan2(v, u)))


def _blob(rng: np.random.Generator) -> Outline:
    """A rounded outline of its own, which no class has."""
    lobes, phase, depth = rng.integers(2, 6), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.35)
    return lambda u, v: np.hypot(u, v) <= 0.75 * (1 + depth * np.sin(lobes * np.arctan2(v, u) + phase))


OUTLINES: tuple[Outline, ...] = (_disc, _polygon(3), _polygon(4), _polygon(5, depth=0.4), _cross, _polygon(6))
TEXTURES: tuple[Texture, ...] = (_stripes, _dots, _checks, _rings, _waves, _rays)


@dataclass(frozen=True)
class Look:
    """Appearance of a class; instances vary its hue, colors, size, angle and path."""

    outline: Outline
    texture: Texture
    hue: float | None  # in [0, 1); None: any, drawn for each instance


@dataclass(frozen=True)
class Scenery:
    """Composition of scenes.

    Attributes:
        radius: least and largest of an object, in image sides; drawn evenly in its logarithm.
        min_visible: share of an object's area that shows in every frame, if PLACEMENT_TRIES find such a place.
        clutter: most things in the background that belong to no class.
        natural: surfaces and backgrounds have shading and noise at all scales, as photographs have; else they are
            clean, on a dim background.
    """

    radius: tuple[float, float]
    min_visible: float
    clutter: int
    natural: bool


@dataclass(frozen=True)
class Body:
    """One object of a clip; lengths are fractions of the image side, angles radians, times frames."""

    look: Look
    colors: np.ndarray  # float (2, 3), RGB in [0, 1]
    center: np.ndarray  # (2,) x, y at frame 0
    velocity: np.ndarray  # (2,) per frame
    radius: float
    growth: float  # per frame, relative
    angle: float
    spin: float  # per frame
    grain: np.ndarray | None = None  # float (GRAIN_SIDE, GRAIN_SIDE), brightness over the surface

    def patch(self, frame: float, size: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The part of an S x S frame around this body: its (row, column) slices and the body's own u, v there."""
        center = bounce(self.center + frame * self.velocity)
        radius, angle = self.radius * (1 + self.growth * frame), self.angle + self.spin * frame
        low = np.clip(np.floor((center - radius) * size), 0, size).astype(int)
        high = np.clip(np.ceil((center + radius) * size), 0, size).astype(int)
        rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
        y, x = np.mgrid[rows, columns].astype(np.float32)
        x, y = ((x + 0.5) / size - center[0]) / radius, ((y + 0.5) / size - center[1]) / radius
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        return (rows, columns), u, v

    def mask(self, frame: float, size: int) -> np.ndarray:
        """Bool (S, S): the pixels of this body alone."""
        mask = np.zeros((size, size), dtype=bool)
        where, u, v = self.patch(frame, size)
        mask[where] = self.look.outline(u, v)
        return mask

    def paint(self, canvas: np.ndarray, frame: float) -> None:
        """Draw this body over a float (S, S, 3) canvas."""
        where, u, v = self.patch(frame, len(canvas))
        blend = self.look.texture(u, v)[..., None]
        colors = blend * self.colors[0] + (1 - blend) * self.colors[1]
        if self.grain is not None:
            row, column = (np.clip((axis + 1) / 2 * GRAIN_SIDE, 0, GRAIN_SIDE - 1).astype(int) for axis in (v, u))
            colors = colors * self.grain[row, column, None]
        canvas[where] = np.where(self.look.outline(u, v)[..., None], colors, canvas[where])


def bounce(position: np.ndarray, margin: float = 0.14) -> np.ndarray:
    """Reflect a position at the image's borders, ``margin`` inside them."""
    span = 1 - 2 * margin
    return margin + span - np.abs((position - margin) % (2 * span) - span)


def noise(side: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 (side, side, channels) of zero mean and unit deviation, as strong at each octave, as photographs are."""
    total = np.zeros((side, side, channels), dtype=np.float32)
    cells = 2
    while cells < side:
        octave = rng.standard_normal((cells, cells, channels), dtype=np.float32)
        total += cv2.resize(octave, (side, side), interpolation=cv2.INTER_CUBIC).reshape(total.shape)
        cells *= 2
    return (total - total.mean((0, 1))) / total.std((0, 1))


def _grain(rng: np.random.Generator) -> np.ndarray:
    """Brightness over a natural surface: lit from one side, with noise."""
    slope = np.linspace(-1, 1, GRAIN_SIDE)
    light = rng.normal(0, 0.2, 2)
    brightness = 1 + light[0] * slope[:, None] + light[1] * slope + 0.18 * noise(GRAIN_SIDE, 1, rng)[..., 0]
    return brightness.clip(0.3, 1.7)


def _random_body(look: Look, scenery: Scenery, rng: np.random.Generator) -> Body:
    hue = rng.uniform() if look.hue is None else (look.hue + rng.normal(0, 0.02)) % 1.0
    saturation = rng.uniform(0.25, 1.0) if scenery.natural else rng.uniform(0.65, 1.0)
    hsv = np.array([[[hue * 360, saturation, rng.uniform(0.7, 1.0)]]], dtype=np.float32)
    bright = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)
    return Body(
        look=look,
        colors=np.stack([bright, bright * rng.uniform(0.3, 0.55)]),
        center=rng.uniform(0.14, 0.86, 2),
        velocity=rng.normal(0, 0.05, 2),
        radius=float(np.exp(rng.uniform(*np.log(scenery.radius)))),
        growth=rng.uniform(-0.03, 0.03),
        angle=rng.uniform(0, 2 * np.pi),
        spin=rng.normal(0, 0.15),
        grain=_grain(rng) if scenery.natural else None,
    )


def background(size: int, scenery: Scenery, rng: np.random.Generator) -> np.ndarray:
    """Float (S, S, 3): a color gradient with soft blotches; a natural one has noise at all scales and clutter."""
    corners = rng.uniform(0.15, 0.6, (2, 2, 3)).astype(np.float32)
    canvas = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    if not scenery.natural:
        blotches = rng.normal(0, 0.08, (6, 6, 3)).astype(np.float32)
        return canvas + cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)
    canvas = canvas * (1 + 0.2 * noise(size, 1, rng)) + 0.03 * noise(size, 3, rng)
    for _ in range(rng.integers(scenery.clutter + 1)):
        texture = TEXTURES[rng.integers(len(TEXTURES))]
        thing = _random_body(Look(_blob(rng), texture, None), scenery, rng)
        replace(thing, center=rng.uniform(0, 1, 2)).paint(canvas, 0)
    return canvas


def lone_masks(bodies: Sequence[Placeable], frames: Iterable[float], size: int) -> np.ndarray:
    """Bool (objects, T, S, S): each body as if alone."""
    frames = list(frames)
    return np.array([[body.mask(frame, size) for frame in frames] for body in bodies])


def occlude(masks: np.ndarray) -> np.ndarray:
    """Cut from each object what later ones cover; takes and gives bool (objects, T, S, S)."""
    covered = np.cumsum(masks[::-1], axis=0, dtype=np.uint8)[::-1] - masks > 0
    return masks & ~covered


def place(
    draw: Callable[[], list[Placed]], min_visible: float, frames: Iterable[float], draft_size: int = 48
) -> list[Placed]:
    """Draw bodies, the last in front, until each shows ``min_visible`` of itself in every frame of a small draft."""
    best: list[Placed] = []
    best_share, frames = -1.0, list(frames)
    for _ in range(PLACEMENT_TRIES):
        bodies = draw()
        alone = lone_masks(bodies, frames, draft_size)
        share = float((occlude(alone).sum((2, 3)) / np.maximum(alone.sum((2, 3)), 1)).min())
        if share > best_share:
            best, best_share = bodies, share
        if share >= min_visible:
            break
    return best


@dataclass(frozen=True)
class Scene:
    """Bodies over a background, at any time in frames (seconds) of its clip."""

    bodies: list[Body]
    backdrop: np.ndarray  # float (S, S, 3), RGB in [0, 1]

    @classmethod
    def draw(cls, looks: list[Look], scenery: Scenery, frames: int, size: int, rng: np.random.Generator) -> "Scene":
        """Place a body per look so that all can be seen in each of the first ``frames`` frames."""

        def draw() -> list[Body]:
            return [_random_body(look, scenery, rng) for look in looks]

        return cls(place(draw, scenery.min_visible, range(frames)), background(size, scenery, rng))

    def image(self, frame: float, rng: np.random.Generator) -> np.ndarray:
        """uint8 (S, S, 3) in RGB, with a little noise."""
        canvas = self.backdrop.copy()
        for body in self.bodies:
            body.paint(canvas, frame)
        canvas += 0.02 * rng.standard_normal((*canvas.shape[:2], 1), dtype=np.float32)
        return np.clip(canvas * 255, 0, 255).astype(np.uint8)

    def visible(self, frames: Iterable[float]) -> np.ndarray:
        """The visible part of each body, bool (objects, T, S, S)."""
        return occlude(lone_masks(self.bodies, frames, len(self.backdrop)))


def render_clip(scene: AnyScene, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one clip.

    Args:
        scene: what it shows.
        frames: T.
        rng: source of every random choice.

    Returns:
        images uint8 (T, S, S, 3) in RGB and the visible part of each object, bool (objects, T, S, S).
    """
    images = np.stack([scene.image(frame, rng) for frame in range(frames)])
    return images, scene.visible(range(frames))
