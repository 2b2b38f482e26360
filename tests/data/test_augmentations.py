"""Augmentations of training clips: frames and masks move together, and all frames of a clip alike."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from transavs.data.augmentations import RandomSaturation
from transavs.data.dataset_mapper import AVSDatasetMapper

SIZE, DRAWS = 40, 20
RED, BLUE, GRAY = (255, 0, 0), (0, 0, 255), (128, 128, 128)


def clip_of(frames: np.ndarray, masks: np.ndarray, record: dict, folder: Path) -> dict:
    """A record with these frames (T, SIZE, SIZE, 3) and masks (T, SIZE, SIZE) in files."""
    changed = copy.deepcopy(record)
    for name, images in (("file_names", frames), ("mask_file_names", masks * np.uint8(255))):
        changed[name] = [str(folder / f"{name}{second}.png") for second in range(len(images))]
        for path, image in zip(changed[name], images, strict=True):
            Image.fromarray(image).save(path)
    return changed


@pytest.fixture
def squares(ms3_records: list[dict], tmp_path: Path) -> dict:
    """A record of a red square on blue that is elsewhere in each frame, with its masks."""
    frames = np.full((5, SIZE, SIZE, 3), BLUE, np.uint8)
    masks = np.zeros((5, SIZE, SIZE), np.uint8)
    for second in range(5):
        place = (second, slice(4 + 4 * second, 18 + 4 * second), slice(3 * second, 14 + 3 * second))
        frames[place], masks[place] = RED, 1
    return clip_of(frames, masks, ms3_records[0], tmp_path)


@pytest.fixture
def jittered(tiny_cfg):
    tiny_cfg.INPUT.IMAGE_SIZE, tiny_cfg.INPUT.RANDOM_FLIP = SIZE, "horizontal"
    tiny_cfg.INPUT.TRAIN_FRAMES = 0
    tiny_cfg.INPUT.SCALE_JITTER, tiny_cfg.INPUT.COLOR_JITTER = [0.5, 2.0], 0.4
    return tiny_cfg


def draw(cfg, record: dict, seed: int, is_train: bool = True) -> tuple[Tensor, Tensor]:
    """Frames (T, SIZE, SIZE, 3) and masks (T, SIZE, SIZE)."""
    np.random.seed(seed)  # noqa: NPY002  what detectron2's augmentations draw from
    clip = AVSDatasetMapper(cfg, is_train)(record)
    return clip["images"].permute(0, 2, 3, 1), clip["masks"]


def test_a_square_and_its_mask_move_together(jittered, squares: dict):
    jittered.INPUT.COLOR_JITTER = 0.0
    areas, corners = set(), set()
    for seed in range(DRAWS):
        frames, masks = draw(jittered, squares, seed)
        assert frames.shape == (5, SIZE, SIZE, 3)
        assert set(masks.unique().tolist()) <= {0, 1}
        padded = (frames == torch.tensor(GRAY)).all(-1)
        assert not masks[padded].any()
        red = (frames[..., 0] > 127) & (frames[..., 2] < 128)
        for seen, mask in zip(red.numpy(), masks.numpy().astype(np.uint8), strict=True):
            around = np.ones((3, 3), np.uint8)  # to a pixel, since frames are interpolated
            assert (seen <= cv2.dilate(mask, around)).all()
            assert (seen >= cv2.erode(mask, around, borderType=cv2.BORDER_CONSTANT, borderValue=0)).all()
        assert (padded == padded[0]).all()
        areas.add(int(masks.sum()))
        corners.add(bool(padded[0, -1, -1]))
    assert len(areas) > DRAWS / 2
    assert corners == {False, True}  # some are cropped, others padded


def test_crops_lie_anywhere(jittered, ms3_records: list[dict], tmp_path: Path):
    """Red tells the row that a pixel comes from, green the column."""
    jittered.INPUT.SCALE_JITTER, jittered.INPUT.RANDOM_FLIP, jittered.INPUT.COLOR_JITTER = [2.0, 2.0], "none", 0.0
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.uint8) * 6
    frames = np.stack([rows, columns, np.zeros_like(rows)], -1)[None].repeat(5, 0)
    record = clip_of(frames, np.zeros((5, SIZE, SIZE), np.uint8), ms3_records[0], tmp_path)
    starts = [draw(jittered, record, seed)[0][0, 0, 0, :2].tolist() for seed in range(DRAWS)]
    row, column = np.array(starts).T / 6
    assert max(row) - min(row) > SIZE / 4
    assert max(column) - min(column) > SIZE / 4
    assert max(abs(row - column)) > SIZE / 4


def test_every_frame_of_a_clip_is_changed_alike(jittered, squares: dict):
    squares["file_names"] = squares["file_names"][:1] * 5
    squares["mask_file_names"] = squares["mask_file_names"][:1] * 5
    for seed in range(DRAWS):
        for found in draw(jittered, squares, seed):
            assert (found == found[0]).all()


def test_a_color_becomes_the_same_in_every_frame_and_place(jittered, ms3_records: list[dict], tmp_path: Path):
    """Frames of the same colors in other places: none shines through another."""
    jittered.INPUT.SCALE_JITTER, jittered.INPUT.RANDOM_FLIP = [1.0, 1.0], "none"
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (8, 3), dtype=np.uint8)
    places = random.integers(0, 8, (5, SIZE, SIZE))
    record = clip_of(colors[places], np.zeros(places.shape, np.uint8), ms3_records[0], tmp_path)
    changed = []
    for seed in range(DRAWS):
        frames, _ = draw(jittered, record, seed)
        found = [frames[torch.from_numpy(places == number)].unique(dim=0) for number in range(8)]
        assert [len(colors) for colors in found] == [1] * 8
        changed.append(torch.cat(found))
    assert len({tuple(colors.flatten().tolist()) for colors in changed}) == DRAWS
    # No channel is confused with another.
    jittered.INPUT.FORMAT = "BGR"
    for seed, expected in enumerate(changed):
        frames, _ = draw(jittered, record, seed)
        found = [frames[torch.from_numpy(places == number)][0].flip(-1) for number in range(8)]
        assert (torch.stack(found).int() - expected.int()).abs().max() <= 1  # rounding of the mean


def test_saturation_of_0_is_the_gray_of_bt601():
    frame = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    gray = 0.299 * frame[..., 0] + 0.587 * frame[..., 1] + 0.114 * frame[..., 2]
    for image, order in ((frame, "RGB"), (frame[..., ::-1], "BGR")):
        found = RandomSaturation(0.0, 0.0, order).get_transform(np.zeros_like(image)).apply_image(image)
        assert abs(found - gray[..., None]).max() <= 1
    same = RandomSaturation(1.0, 1.0, "RGB").get_transform(frame).apply_image(frame)
    assert np.array_equal(same, frame)


def test_clips_that_are_tested_are_left_alone(jittered, squares: dict):
    found = draw(jittered, squares, 0, is_train=False)
    expected = [np.asarray(Image.open(path)) for path in squares["file_names"]]
    assert torch.equal(found[0], torch.from_numpy(np.stack(expected)))
