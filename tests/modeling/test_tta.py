"""TEST.AUG: the mean over sizes and mirrored frames is the model itself where neither makes a difference to it."""

import pytest
import torch
from helpers.models import load_clips
from torch import Tensor, nn

from transavs.engine import AVSTrainer
from transavs.engine.evaluation import evaluate
from transavs.modeling.test_time_augmentation import AVSWithTTA

SIZE = 32


class PixelwiseModel(nn.Module):
    """The brighter a pixel, the higher its score, plus a number that follows from the size of the network's input."""

    def __init__(self, by_size: float = 0.0):
        super().__init__()
        self.by_size = by_size

    def forward(self, clips: list[dict]) -> list[dict[str, Tensor]]:
        scores = [clip["images"].float().mean(1) / 510 + self.by_size * clip["images"].shape[-1] for clip in clips]
        sizes = [(clip["height"], clip["width"]) for clip in clips]
        resized = [
            nn.functional.interpolate(s[:, None], size, mode="bilinear") for s, size in zip(scores, sizes, strict=True)
        ]
        return [{"sem_seg": torch.cat([1 - score, score], 1)} for score in resized]


def make_clips(uniform: bool = False) -> list[dict]:
    """Two clips of different length, whose own size is not the network's."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1) if uniform else (SIZE, SIZE)
    images = [torch.randint(256, (T, 3, *shape), generator=generator, dtype=torch.uint8) for T in (3, 1)]
    return [{"images": each.expand(-1, -1, SIZE, SIZE), "height": 41, "width": 57} for each in images]


def scores(model: nn.Module, clips: list[dict]) -> list[Tensor]:
    return [output["sem_seg"] for output in model(clips)]


def mirrored(clips: list[dict]) -> list[dict]:
    return [clip | {"images": clip["images"].flip(-1)} for clip in clips]


@pytest.fixture
def tiny_model(tiny_cfg) -> nn.Module:
    """TransAVS with random weights, which tells left from right."""
    model = AVSTrainer.build_model(tiny_cfg).eval().requires_grad_(False)
    nn.init.normal_(model.query_decoder.mask_projection.weight)
    return model


@pytest.fixture
def real_clips(tiny_cfg, ms3_records: list[dict]) -> list[dict]:
    return load_clips(tiny_cfg, ms3_records, is_train=False)


def test_of_a_symmetric_model_it_is_the_model():
    model, clips = PixelwiseModel(), make_clips()
    torch.testing.assert_close(scores(AVSWithTTA(model, sizes=(), flip=True), clips), scores(model, clips))
    uniform = make_clips(uniform=True)
    torch.testing.assert_close(
        scores(AVSWithTTA(model, sizes=(24, 32, 45), flip=True), uniform), scores(model, uniform)
    )


def test_sizes_weigh_alike():
    clips, sizes = make_clips(uniform=True), (20, 32, 47)
    (found, _), (plain, _) = (
        scores(model, clips) for model in (AVSWithTTA(PixelwiseModel(0.01), sizes=sizes, flip=True), PixelwiseModel())
    )
    torch.testing.assert_close(found[:, 1], plain[:, 1] + 0.01 * sum(sizes) / len(sizes))


def test_one_size_without_mirroring_is_the_model_to_the_bit(tiny_model: nn.Module, real_clips: list[dict]):
    for sizes in ((), (SIZE,)):
        found = scores(AVSWithTTA(tiny_model, sizes=sizes, flip=False), real_clips)
        assert all(map(torch.equal, found, scores(tiny_model, real_clips)))


def test_mirrored_clips_give_mirrored_masks_to_the_bit(tiny_model: nn.Module, real_clips: list[dict]):
    found, other = (scores(AVSWithTTA(tiny_model, sizes=(), flip=True), c) for c in (real_clips, mirrored(real_clips)))
    assert all(map(torch.equal, (each.flip(-1) for each in found), other))
    two = AVSWithTTA(tiny_model, sizes=(SIZE, 48), flip=True)  # scaling rounds, and the sum of four
    found, other = scores(two, real_clips), scores(two, mirrored(real_clips))
    torch.testing.assert_close([each.flip(-1) for each in found], other, rtol=0, atol=1e-4)
    plain, other = scores(tiny_model, real_clips), scores(tiny_model, mirrored(real_clips))
    assert not torch.allclose(plain[0].flip(-1), other[0])


@pytest.mark.parametrize("enabled", [False, True])
def test_an_evaluation_does_as_the_config_says(tiny_cfg, tiny_model: nn.Module, real_clips: list[dict], enabled: bool):
    """On one clip at a time, with the model in evaluation mode."""
    tiny_cfg.merge_from_list(["TEST.AUG.ENABLED", enabled, "TEST.AUG.MIN_SIZES", (SIZE, 40)])
    network = AVSWithTTA(tiny_model, sizes=(SIZE, 40), flip=True) if enabled else tiny_model
    expected = [sem_seg for clip in real_clips for sem_seg in scores(network, [clip])]
    found: list[Tensor] = []

    class Collect:
        def reset(self) -> None:
            found.clear()

        def process(self, inputs: list[dict], outputs: list[dict]) -> None:
            found.extend(output["sem_seg"] for output in outputs)

        def evaluate(self) -> dict:
            return {}

    evaluate(tiny_cfg, tiny_model.train(), [[clip] for clip in real_clips], Collect())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
