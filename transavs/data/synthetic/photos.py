"""The look of clips of photographs: cut-out objects that move, turn and pass over each other on a background.

Shape legend: S = side of the square image in pixels, T = frames of a clip.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from transavs.data.synthetic.scenes import Scenery, background, bounce, lone_masks, occlude, place

MARGIN = 1.25  # side of the part of a background that is kept, in image sides; what is over is for its motion
MADE_UP = Scenery(radius=(0.1, 0.2), min_visible=0.0, clutter=2, natural=True)  # where there is no background


@dataclass(frozen=True)
class PhotoScenery:
    """Composition of scenes of photographs.

    Attributes:
        size: least and largest of an object, the root of its box's area in image sides; drawn evenly in its logarithm.
        longest: largest side of a box, in image sides.
        min_visible: share of an object's area that shows in every frame, if there is such a place.
        mutes: most objects that never sound.
    """

    size: tuple[float, float]
    longest: float
    min_visible: float
    mutes: int


@dataclass(frozen=True)
class Cutout:
    """A photograph of one object.

    Attributes:
        colors: the photograph and it in halves, quarters, ...: uint8 (H, W, 3) each, in RGB.
        alphas: the same of its alpha channel, uint8 (H, W) each.
        size: what the size that is drawn for it is multiplied with.
    """

    colors: tuple[np.ndarray, ...]
    alphas: tuple[np.ndarray, ...]
    size: float

    @classmethod
    def of(cls, pixels: np.ndarray, size: float) -> "Cutout":
        """Halve uint8 (H, W, 4), RGB and alpha, so that any smaller copy can be drawn without aliasing."""
        levels = [pixels]
        while min(levels[-1].shape[:2]) >= 16:
            levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        colors = tuple(np.ascontiguousarray(level[..., :3]) for level in levels)
        return cls(colors, tuple(np.ascontiguousarray(level[..., 3]) for level in levels), size)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the photograph."""
        height, width = self.alphas[0].shape
        return height, width

    def placed(self, center: np.ndarray, scale: float, angle: float, flip: bool, size: int) -> tuple[int, np.ndarray]:
        """Place this object in an image of S x S pixels.

        Args:
            center: of its box, x and y in image sides.
            scale: pixels of the image per pixel of the photograph.
            angle: in radians.
            flip: mirror it.
            size: S.

        Returns:
            the level to draw and the affine map, float (2, 3), of its pixels to those of the image.
        """
        level = int(np.clip(np.floor(-np.log2(scale)), 0, len(self.alphas) - 1))
        height, width = self.alphas[level].shape
        scale = scale * self.alphas[0].shape[0] / height
        x, y = scale * np.cos(angle), scale * np.sin(angle)
        turn = np.array([[-x if flip else x, -y], [-y if flip else y, x]])
        shift = center * size - 0.5 - turn @ ((width - 1) / 2, (height - 1) / 2)
        return level, np.column_stack([turn, shift])


@dataclass(frozen=True)
class PhotoBody:
    """One object of a clip; lengths are fractions of the image side, angles radians, times frames."""

    cutout: Cutout
    center: np.ndarray  # (2,) x, y at frame 0
    velocity: np.ndarray  # (2,) per frame
    size: float  # root of its box's area
    growth: float  # per frame, relative
    angle: float
    spin: float  # per frame
    flip: bool
    gain: np.ndarray  # (3,) of R, G and B

    @classmethod
    def draw(cls, cutout: Cutout, scenery: PhotoScenery, rng: np.random.Generator) -> "PhotoBody":
        """Draw its place, its size, its motion and the light on it."""
        height, width = cutout.shape
        size = float(np.exp(rng.uniform(*np.log(scenery.size)))) * cutout.size
        return cls(
            cutout=cutout,
            center=np.array([rng.uniform(0.15, 0.85), rng.uniform(0.3, 0.75)]),
            velocity=rng.normal(0, (0.04, 0.015)),
            size=min(size, scenery.longest * np.sqrt(height * width) / max(height, width)),
            growth=rng.uniform(-0.03, 0.03),
            angle=rng.normal(0, 0.12),
            spin=rng.normal(0, 0.03),
            flip=bool(rng.random() < 0.5),
            gain=rng.uniform(0.75, 1.15) * rng.normal(1, 0.04, 3),
        )

    @property
    def depth(self) -> float:
        """Order of drawing: what stands lower in the image is nearer."""
        return float(self.center[1] + self.size / 2)

    def _placed(self, frame: float, size: int) -> tuple[int, np.ndarray]:
        scale = self.size * (1 + self.growth * frame) * size / np.sqrt(np.prod(self.cutout.shape))
        center = bounce(self.center + frame * self.velocity)
        return self.cutout.placed(center, scale, self.angle + self.spin * frame, self.flip, size)

    def mask(self, frame: float, size: int) -> np.ndarray:
        """Bool (S, S): the pixels of this body alone."""
        level, matrix = self._placed(frame, size)
        return cv2.warpAffine(self.cutout.alphas[level], matrix, (size, size)) > 127

    def paint(self, canvas: np.ndarray, frame: float) -> None:
        """Draw this body over a float (S, S, 3) canvas."""
        level, matrix = self._placed(frame, len(canvas))
        side = canvas.shape[:2]
        # The rim keeps the colors of the object, so that no other color shines through it.
        colors = cv2.warpAffine(self.cutout.colors[level], matrix, side, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(self.cutout.alphas[level], matrix, side)[..., None].astype(np.float32) / 255
        canvas += alpha * (np.clip(colors * (self.gain / 255), 0, 1).astype(np.float32) - canvas)


@dataclass(frozen=True)
class Backdrop:
    """Background behind the bodies: a part of a photograph that the camera pans over."""

    pixels: np.ndarray  # float32 (MARGIN * S, MARGIN * S, 3), RGB in [0, 1]
    pan: np.ndarray  # (2,) image sides per frame

    @classmethod
    def draw(cls, photograph: np.ndarray | None, size: int, rng: np.random.Generator) -> "Backdrop":
        """Cut a part of anything between a third and the whole of a photograph, float (H, W, 3); or make one up."""
        side = round(MARGIN * size)
        if photograph is None:
            pixels = background(side, MADE_UP, rng)
        else:
            cut = round(min(photograph.shape[:2]) * rng.uniform(0.35, 1.0))
            y, x = (int(rng.integers(length - cut + 1)) for length in photograph.shape[:2])
            part = photograph[y : y + cut, x : x + cut][:, :: rng.choice((-1, 1))]
            pixels = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
        blurred = cv2.GaussianBlur(pixels, (0, 0), size * rng.uniform(0.001, 0.015))  # out of the camera's focus
        return cls(blurred * rng.uniform(0.7, 1.1), rng.normal(0, 0.01, 2))

    def image(self, frame: float, size: int) -> np.ndarray:
        """Float32 (S, S, 3)."""
        room = (len(self.pixels) - size) / 2
        shift = np.clip(frame * self.pan * size, -room, room) - room
        return cv2.warpAffine(self.pixels, np.column_stack([np.eye(2), shift]), (size, size))


@dataclass(frozen=True)
class PhotoScene:
    """Bodies over a background, at any time in frames (seconds) of its clip; the farthest body comes first."""

    bodies: list[PhotoBody]
    order: list[int]  # the bodies that may sound, in the order that they were asked for
    backdrop: Backdrop
    light: np.ndarray  # (3,), on everything
    size: int  # S

    @classmethod
    def draw(
        cls,
        sources: list[Cutout],
        mutes: list[Cutout],
        photograph: np.ndarray | None,
        scenery: PhotoScenery,
        frames: int,
        size: int,
        rng: np.random.Generator,
    ) -> "PhotoScene":
        """Place all so that they can be seen in each of the first ``frames`` frames.

        Args:
            sources: what may sound.
            mutes: what never does.
            photograph: float32 (H, W, 3), RGB in [0, 1], the background; None: one is made up.
            scenery: how they are placed.
            frames: T.
            size: S.
            rng: source of every random choice.
        """

        def draw() -> list[PhotoBody]:
            bodies = [PhotoBody.draw(cutout, scenery, rng) for cutout in (*sources, *mutes)]
            return sorted(bodies, key=lambda body: body.depth)

        bodies = place(draw, scenery.min_visible, range(frames))
        order = [next(i for i, body in enumerate(bodies) if body.cutout is cutout) for cutout in sources]
        light = rng.uniform(0.85, 1.15) * rng.normal(1, 0.03, 3)
        return cls(bodies, order, Backdrop.draw(photograph, size, rng), light, size)

    def image(self, frame: float, rng: np.random.Generator) -> np.ndarray:
        """uint8 (S, S, 3) in RGB, with a little noise."""
        canvas = self.backdrop.image(frame, self.size)
        for body in self.bodies:
            body.paint(canvas, frame)
        canvas = canvas * self.light + 0.01 * rng.standard_normal(canvas.shape)
        return np.clip(canvas * 255, 0, 255).astype(np.uint8)

    def visible(self, frames: Iterable[float]) -> np.ndarray:
        """The visible part of each source, bool (sources, T, S, S)."""
        return occlude(lone_masks(self.bodies, frames, self.size))[self.order]
