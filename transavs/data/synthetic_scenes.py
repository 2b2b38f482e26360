"""The look of the synthetic data set: textured shapes that move, turn, grow and pass over each other.

Shape legend: S = side of the square image in pixels, T = frames of a clip.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]

MIN_VISIBLE = 0.5  # of an object's area, in every frame: less of it could be told apart by nobody
PLACEMENT_TRIES = 60


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


@dataclass(frozen=True)
class Look:
    """How a class looks; instances vary its hue, colours, size, angle and path."""

    outline: Outline
    texture: Texture
    hue: float  # in [0, 1)


LOOKS = {
    "violin": Look(_disc, _stripes, 0.00),
    "bell": Look(_polygon(3), _dots, 0.15),
    "siren": Look(_polygon(4), _checks, 0.62),
    "motor": Look(_polygon(5, depth=0.4), _rings, 0.33),
    "surf": Look(_cross, _waves, 0.50),
    "bird": Look(_polygon(6), _rays, 0.82),
}


@dataclass(frozen=True)
class Body:
    """One object of a clip; lengths are fractions of the image side, angles radians, times frames."""

    look: Look
    colours: np.ndarray  # float (2, 3), RGB in [0, 1]
    centre: np.ndarray  # (2,) x, y at frame 0
    velocity: np.ndarray  # (2,) per frame
    radius: float
    growth: float  # per frame, relative
    angle: float
    spin: float  # per frame

    def patch(self, frame: float, size: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The part of an S x S frame around this body: its (row, column) slices and the body's own u, v there."""
        centre = _bounce(self.centre + frame * self.velocity)
        radius, angle = self.radius * (1 + self.growth * frame), self.angle + self.spin * frame
        low = np.clip(np.floor((centre - radius) * size), 0, size).astype(int)
        high = np.clip(np.ceil((centre + radius) * size), 0, size).astype(int)
        rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
        y, x = np.mgrid[rows, columns].astype(np.float32)
        x, y = ((x + 0.5) / size - centre[0]) / radius, ((y + 0.5) / size - centre[1]) / radius
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
        colours = blend * self.colours[0] + (1 - blend) * self.colours[1]
        canvas[where] = np.where(self.look.outline(u, v)[..., None], colours, canvas[where])


def _bounce(position: np.ndarray, margin: float = 0.14) -> np.ndarray:
    """Reflect a position at the image's borders, ``margin`` inside them."""
    span = 1 - 2 * margin
    return margin + span - np.abs((position - margin) % (2 * span) - span)


def _random_body(look: Look, rng: np.random.Generator) -> Body:
    hue = (look.hue + rng.normal(0, 0.02)) % 1.0
    hsv = np.array([[[hue * 360, rng.uniform(0.65, 1.0), rng.uniform(0.7, 1.0)]]], dtype=np.float32)
    bright = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)
    return Body(
        look=look,
        colours=np.stack([bright, bright * rng.uniform(0.3, 0.55)]),
        centre=rng.uniform(0.14, 0.86, 2),
        velocity=rng.normal(0, 0.05, 2),
        radius=rng.uniform(0.17, 0.26),
        growth=rng.uniform(-0.03, 0.03),
        angle=rng.uniform(0, 2 * np.pi),
        spin=rng.normal(0, 0.15),
    )


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Float (S, S, 3): a dim colour gradient with soft blotches."""
    corners = rng.uniform(0.15, 0.6, (2, 2, 3)).astype(np.float32)
    blotches = rng.normal(0, 0.08, (6, 6, 3)).astype(np.float32)
    canvas = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    return canvas + cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)


def _lone_masks(bodies: list[Body], frames: Iterable[float], size: int) -> np.ndarray:
    """Bool (objects, T, S, S): each body as if alone."""
    frames = list(frames)
    return np.array([[body.mask(frame, size) for frame in frames] for body in bodies])


def _occlude(masks: np.ndarray) -> np.ndarray:
    """What each object shows when later objects lie over earlier ones; takes and gives bool (objects, T, S, S)."""
    covered = np.cumsum(masks[::-1], axis=0, dtype=np.uint8)[::-1] - masks > 0
    return masks & ~covered


def _place(looks: list[Look], frames: int, rng: np.random.Generator, draft_size: int = 48) -> list[Body]:
    """Draw bodies until each shows at least MIN_VISIBLE of itself in every frame, judged on a small draft."""
    best, best_share = [], -1.0
    for _ in range(PLACEMENT_TRIES):
        bodies = [_random_body(look, rng) for look in looks]
        alone = _lone_masks(bodies, range(frames), draft_size)
        share = float((_occlude(alone).sum((2, 3)) / np.maximum(alone.sum((2, 3)), 1)).min())
        if share > best_share:
            best, best_share = bodies, share
        if share >= MIN_VISIBLE:
            break
    return best


@dataclass(frozen=True)
class Scene:
    """Bodies over a background, at any time in frames (seconds) of its clip."""

    bodies: list[Body]
    backdrop: np.ndarray  # float (S, S, 3), RGB in [0, 1]

    @classmethod
    def draw(cls, looks: list[Look], frames: int, size: int, rng: np.random.Generator) -> "Scene":
        """Place a body per look so that all can be seen in each of the first ``frames`` frames."""
        return cls(_place(looks, frames, rng), _background(size, rng))

    def image(self, frame: float, rng: np.random.Generator) -> np.ndarray:
        """uint8 (S, S, 3) in RGB, with a little noise."""
        canvas = self.backdrop.copy()
        for body in self.bodies:
            body.paint(canvas, frame)
        canvas += 0.02 * rng.standard_normal((*canvas.shape[:2], 1), dtype=np.float32)
        return np.clip(canvas * 255, 0, 255).astype(np.uint8)

    def visible(self, frames: Iterable[float]) -> np.ndarray:
        """The visible part of each body, bool (objects, T, S, S)."""
        return _occlude(_lone_masks(self.bodies, frames, len(self.backdrop)))


def render_clip(looks: list[Look], frames: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one clip.

    Args:
        looks: one per object.
        frames: T.
        size: S, in pixels.
        rng: source of every random choice.

    Returns:
        images uint8 (T, S, S, 3) in RGB and the visible part of each object, bool (objects, T, S, S).
    """
    scene = Scene.draw(looks, frames, size, rng)
    images = np.stack([scene.image(frame, rng) for frame in range(frames)])
    return images, scene.visible(range(frames))
