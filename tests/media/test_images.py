"""Frames and masks of every kind of image: one picture gives the same pixels, and what is ambiguous is one line."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from PIL import Image

from transavs.data.avsbench import LAYOUTS
from transavs.data.integrity.clip import Clip, check_clip
from transavs.data.synthetic.album import read_background, read_cutout
from transavs.evaluation.mask_folders import read_probability_map
from transavs.media.image_folder import ImageFolder
from transavs.media.images import read_frame, read_mask
from transavs.utils.errors import AVSInputError

ORIENTATION = 0x0112  # EXIF tag
TRUTH = np.zeros((20, 32), dtype=bool)
TRUTH[4:12, 3:20] = True
ONES = TRUTH.astype(np.uint8)
GRAY = 255 * ONES
RED = np.dstack([128 * ONES, 0 * ONES, 0 * ONES])
PHOTO = np.random.default_rng(0).integers(0, 256, (*TRUTH.shape, 3)).astype(np.uint8)

Save = Callable[[str], object]


def pil(image: Image.Image, **options) -> Save:
    return lambda path: image.save(path, **options)


def opencv(values: np.ndarray) -> Save:
    return lambda path: cv2.imwrite(path, values)


def palette(values: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette([level for color in colors for level in color])
    return image


def turned(image: Image.Image, orientation: int, **options) -> Save:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return lambda path: image.save(path, exif=exif, **options)


def soft_edges() -> np.ndarray:
    return cv2.GaussianBlur(GRAY, (3, 3), 0.7)


# Files that show TRUTH.
MASKS: dict[str, Save] = {
    "white": pil(Image.fromarray(GRAY)),
    "ones": pil(Image.fromarray(ONES)),
    "bits": pil(Image.fromarray(TRUTH)),
    "16 bits": opencv(GRAY.astype(np.uint16) * 257),
    "16 bits of 0 and 1": opencv(ONES.astype(np.uint16)),
    "16 bits of 0 and 255": opencv(GRAY.astype(np.uint16)),
    "4 bits of 0 and 1": pil(palette(ONES, (0, 0, 0), (17, 17, 17)), bits=4),
    "RGB": pil(Image.fromarray(np.dstack([GRAY] * 3))),
    "RGB of 0 and 1": pil(Image.fromarray(np.dstack([ONES] * 3))),
    "soft edges": pil(Image.fromarray(soft_edges())),
    "one class's gray": pil(Image.fromarray(38 * ONES)),
    "one class's color": pil(Image.fromarray(RED)),
    "a dark class's color": pil(Image.fromarray(RED // 2)),
    "two classes' colors": pil(Image.fromarray(RED // np.where(np.arange(32) < 9, 2, 1)[:, None].astype(np.uint8))),
    "palette": pil(palette(ONES, (0, 0, 0), (255, 255, 255))),
    "palette with white first": pil(palette(~TRUTH, (255, 255, 255), (0, 0, 0))),
    "palette of a class": pil(palette(ONES, (0, 0, 0), (128, 0, 0))),
    "palette with unused colors": pil(palette(5 * ONES, *[(0, 0, 0)] * 5, (64, 0, 0), (9, 9, 9))),
    "quantized": pil(Image.fromarray(np.dstack([GRAY] * 3)).quantize(2)),
    "white cut out": pil(Image.fromarray(np.dstack([np.full_like(GRAY, 255)] * 3 + [GRAY]))),
    "black cut out": pil(Image.fromarray(np.dstack([np.zeros_like(GRAY)] * 3 + [GRAY]))),
    "photograph cut out": pil(Image.fromarray(np.dstack([PHOTO, GRAY]))),
    "gray with alpha, all opaque": pil(Image.fromarray(np.dstack([GRAY, np.full_like(GRAY, 255)]))),
    "transparent background of a palette": pil(palette(ONES, (0, 0, 0), (9, 200, 9)), transparency=0),
    "TIFF": lambda path: Image.fromarray(GRAY).save(path, format="TIFF"),
    "turned by EXIF": turned(Image.fromarray(np.rot90(GRAY).copy()), 6),
    "palette turned by EXIF": turned(palette(np.rot90(ONES).copy(), (0, 0, 0), (255, 255, 255)), 6),
}
EMPTY: dict[str, Save] = {
    "black": pil(Image.fromarray(0 * GRAY)),
    "black in RGB": pil(Image.fromarray(0 * RED)),
    "black bits": pil(Image.fromarray(TRUTH & False)),
    "all transparent, of white": pil(Image.fromarray(np.dstack([np.full_like(GRAY, 255)] * 3 + [0 * GRAY]))),
    "palette of white, all black": pil(palette(ONES | 1, (255, 255, 255), (0, 0, 0))),
}
AMBIGUOUS: dict[str, tuple[Save, str]] = {
    "0, 1 and 255": (pil(Image.fromarray(np.where(np.arange(32) < 9, ONES, GRAY))), "0, 1 and 255"),
    "dark levels": (pil(Image.fromarray(soft_edges() // 4)), "gray levels from 0 to"),
    "colors without black": (pil(palette(ONES, (255, 0, 0), (0, 255, 0))), "several colors and no black"),
    "a photograph": (pil(Image.fromarray(PHOTO)), "as a photograph"),
    "mask in colors and in alpha": (
        pil(Image.fromarray(np.dstack([GRAY] * 3 + [np.flipud(GRAY)]))),
        "two different masks",
    ),
    "mask below full transparency": (pil(Image.fromarray(np.dstack([GRAY] * 3 + [0 * GRAY]))), "two different masks"),
    "16 bits in RGB": (opencv(np.dstack([ONES] * 3).astype(np.uint16)), "16 bits in each channel"),
    "32 bits": (lambda path: Image.fromarray(GRAY.astype(np.int32)).save(path, format="TIFF"), "32 bits a pixel"),
    "several pictures": (
        pil(Image.fromarray(GRAY), save_all=True, append_images=[Image.fromarray(0 * GRAY)]),
        "2 pictures",
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind_mean_the_same(name: str, tmp_path: Path):
    """To the loader, and as predictions to tools/score_masks.py."""
    path = str(tmp_path / "mask.png")
    MASKS[name](path)
    np.testing.assert_array_equal(read_mask(path, "binary"), ONES)
    if name != "one class's gray":  # which is a probability, too
        np.testing.assert_array_equal(read_probability_map(path) >= 0.5, TRUTH)


@pytest.mark.parametrize("name", EMPTY)
def test_empty_masks_of_every_kind_are_empty(name: str, tmp_path: Path):
    path = str(tmp_path / "mask.png")
    EMPTY[name](path)
    assert not read_mask(path, "binary").any()
    assert not read_probability_map(path).any()


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_mask_that_may_mean_two_things_is_refused(name: str, tmp_path: Path):
    save, reason = AMBIGUOUS[name]
    save(str(tmp_path / "mask.png"))
    with pytest.raises(AVSInputError, match=rf"mask\.png cannot be read as a mask \(.*{reason}") as raised:
        read_mask(str(tmp_path / "mask.png"), "binary")
    assert "\n" not in str(raised.value)


def test_the_doctor_reads_masks_and_frames_as_training_does(tmp_path: Path):
    names = {"video": "clip", "category": "", "split": "test", "part": ""}
    record = LAYOUTS["ms3"].record(tmp_path, **names)
    for path in map(Path, (*record["file_names"], *record["mask_file_names"], record["audio_file"])):
        path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(record["audio_file"], np.random.default_rng(0).uniform(-0.5, 0.5, 16000 * 5), 16000)

    def findings(masks: dict[str, Save]) -> list[str]:
        saves = list(masks.values())
        for number, (frame, mask) in enumerate(zip(record["file_names"], record["mask_file_names"], strict=True)):
            turned(Image.fromarray(np.rot90(PHOTO).copy()), 6, format=("PNG", "JPEG")[number % 2])(frame)
            saves[number % len(saves)](mask)
        return sorted({finding.kind for finding in check_clip(Clip(tmp_path, "ms3", names, 2))})

    every = [{name: save} for name, save in MASKS.items() if name not in ("soft edges", "two classes' colors")]
    assert [found for mask in every if (found := findings(mask))] == []
    assert findings({"soft": MASKS["soft edges"]}) == ["mask-values"]
    assert all(findings({name: save}) == ["mask-broken"] for name, (save, _) in AMBIGUOUS.items())


@pytest.mark.parametrize("deep", [False, True])
def test_class_ids_are_what_the_file_holds(deep: bool, tmp_path: Path):
    ids = np.arange(640).reshape(20, 32) % 71
    path = str(tmp_path / "ids.png")
    cv2.imwrite(path, ids.astype(np.uint16 if deep else np.uint8))
    np.testing.assert_array_equal(read_mask(path, "class_ids"), ids)
    cv2.imwrite(path, np.dstack([ids] * 3).astype(np.uint16 if deep else np.uint8))
    if deep:
        with pytest.raises(AVSInputError, match="16 bits in each channel"):
            read_mask(path, "class_ids")
    else:
        np.testing.assert_array_equal(read_mask(path, "class_ids"), ids)
    alpha = np.where(ids > 3, 255, 0)
    Image.fromarray(np.dstack([ids * (ids > 3)] * 3 + [alpha]).astype(np.uint8)).save(path)
    np.testing.assert_array_equal(read_mask(path, "class_ids"), ids * (ids > 3))
    Image.fromarray(np.dstack([ids] * 3 + [alpha]).astype(np.uint8)).save(path)
    with pytest.raises(AVSInputError, match="class ids in it are transparent"):
        read_mask(path, "class_ids")


def test_bits_alone_are_no_class_ids_unless_there_is_nothing(tmp_path: Path):
    path = str(tmp_path / "ids.png")
    Image.fromarray(TRUTH & False).save(path)
    assert not read_mask(path, "class_ids").any()
    Image.fromarray(TRUTH).save(path)
    with pytest.raises(AVSInputError, match="this one is black and white"):
        read_mask(path, "class_ids")


def test_probabilities_are_gray_levels_of_8_or_16_bits(tmp_path: Path):
    ramp, path = np.tile(np.linspace(0, 1, 256), (4, 1)), str(tmp_path / "p.png")
    for dtype in (np.uint8, np.uint16):
        levels = np.round(ramp * np.iinfo(dtype).max).astype(dtype)
        for image in (levels, np.dstack([levels] * 3)) if dtype is np.uint8 else (levels,):
            cv2.imwrite(path, image)
            np.testing.assert_allclose(read_probability_map(path), ramp, atol=1e-4 if dtype is np.uint16 else 0.002)


def frames_of_every_kind() -> dict[str, tuple[Save, np.ndarray]]:
    gray, alpha = PHOTO[..., 0], np.where(TRUTH, 255, 0).astype(np.uint8)
    as_rgb = np.dstack([gray] * 3)
    return {
        "RGB": (pil(Image.fromarray(PHOTO)), PHOTO),
        "RGB of 16 bits": (opencv(PHOTO[..., ::-1].astype(np.uint16) * 257), PHOTO),
        "gray": (pil(Image.fromarray(gray)), as_rgb),
        "gray of 16 bits": (opencv(gray.astype(np.uint16) * 257), as_rgb),
        "big-endian gray of 16 bits": (
            lambda path: Image.fromarray((gray.astype(np.uint16) * 257).astype(">u2")).save(path, format="TIFF"),
            as_rgb,
        ),
        "alpha": (pil(Image.fromarray(np.dstack([PHOTO, alpha]))), PHOTO * TRUTH[..., None]),
        "half transparent": (pil(Image.fromarray(np.dstack([PHOTO // 2 * 2, alpha // 2 + 1]))), None),
        "palette": (
            pil(palette(ONES, (9, 99, 199), (250, 2, 3))),
            np.where(TRUTH[..., None], (250, 2, 3), (9, 99, 199)),
        ),
        **{f"orientation {k}": (turned(Image.fromarray(stored(PHOTO, k)), k), PHOTO) for k in range(2, 9)},
    }


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels to store with an EXIF orientation; TIFF's specification says where row 0 and column 0 are shown."""
    turns = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[::-1],  # row 0 is shown on the right: columns from top to bottom
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
        8: lambda x: x.swapaxes(0, 1)[:, ::-1],
    }
    return np.ascontiguousarray(turns[orientation](upright))


@pytest.mark.parametrize("name", frames_of_every_kind())
def test_frames_of_every_kind_show_the_same(name: str, tmp_path: Path):
    """To the loader, as images of a folder, and as photographs of an album."""
    save, expected = frames_of_every_kind()[name]
    path = str(tmp_path / "frame.png")
    save(path)
    if expected is None:
        levels = np.where(TRUTH, 128, 1)[..., None] / 255
        assert np.abs(read_frame(path, "RGB") - PHOTO // 2 * 2 * levels).max() < 1
        return
    np.testing.assert_array_equal(read_frame(path, "RGB"), expected)
    np.testing.assert_array_equal(read_frame(path, "BGR"), expected[..., ::-1])
    (frame,) = ImageFolder(tmp_path, 1.0, needs_sound=False).frames()
    np.testing.assert_array_equal(frame.pixels(), expected)
    np.testing.assert_array_equal(np.round(255 * read_background(Path(path))), expected)


def test_a_cutout_is_turned_with_its_alpha(tmp_path: Path):
    path = tmp_path / "cutout.png"
    turned(Image.fromarray(stored(np.dstack([PHOTO, GRAY]), 6)), 6)(str(path))
    assert read_cutout(path, 1.0).alphas[0].shape == (8, 17)


@pytest.mark.parametrize("name", ["32 bits", "several pictures"])
def test_frames_that_cannot_be_decided_are_refused(name: str, tmp_path: Path):
    save, reason = AMBIGUOUS[name]
    save(str(tmp_path / "frame.png"))
    with pytest.raises(AVSInputError, match=rf"frame\.png cannot be read as an image \(.*{reason}"):
        read_frame(str(tmp_path / "frame.png"), "RGB")


def test_previews_in_a_photograph_do_not_count(tmp_path: Path):
    """Phones write such files, which begin with the photograph."""
    path = tmp_path / "a.jpg"
    image = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    image.save(path, format="MPO", save_all=True, append_images=[image.resize((4, 4))])
    assert read_frame(str(path), "RGB").shape == (16, 16, 3)
