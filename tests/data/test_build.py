"""What training sees: the same clips, drawn alike, whatever the workers and wherever a run goes on."""

import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from transavs import AVSInputError
from transavs.data import AVSDatasetMapper
from transavs.data.audio_conditions import NegativeAudio
from transavs.data.build import ResumableTrainingSampler, SeededClipDataset, build_train_loader, random_numbers_of


def test_sampler_goes_on_where_it_stood():
    whole = list(itertools.islice(ResumableTrainingSampler(7, seed=1), 30))
    assert [draw for draw, _ in whole] == list(range(30))
    assert sorted(index for _, index in whole[:7]) == list(range(7))
    for consumed in (0, 4, 14, 17):
        rest = ResumableTrainingSampler(7, seed=1, consumed=consumed)
        assert list(itertools.islice(rest, 30 - consumed)) == whole[consumed:]
    assert list(itertools.islice(ResumableTrainingSampler(7, seed=2), 30)) != whole


def draw_all() -> tuple:
    return random.random(), T.RandomFlip()._rand_range(), torch.rand(2).tolist()


def test_random_numbers_follow_from_their_seed_and_disturb_no_others():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (detectron2 draws from these)
    expected = [draw_all() for _ in range(2)]
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    outside = [draw_all()]
    with random_numbers_of(3, 5):
        inside = draw_all()
    outside.append(draw_all())
    assert outside == expected
    with random_numbers_of(3, 5):
        assert draw_all() == inside
    for other in ((3, 6), (4, 5)):
        with random_numbers_of(*other):
            assert all(new != old for new, old in zip(draw_all(), inside, strict=True))


def batches(cfg, records: list[dict], workers: int, start: int, count: int) -> list[list[dict]]:
    mapper = AVSDatasetMapper(cfg, is_train=True, negative_audio=NegativeAudio(records, ["silence", "noise"], 0.5))
    clips = SeededClipDataset(records, mapper, seed=5)
    loader = build_train_loader(clips, seed=5, batch_size=2, num_workers=workers, start_iter=start)
    return list(itertools.islice(loader, count))


def test_batches_depend_on_the_iteration_alone(tiny_cfg, ms3_records: list[dict]):
    tiny_cfg.INPUT.RANDOM_FLIP = "horizontal"
    torch.manual_seed(1)
    expected = batches(tiny_cfg, ms3_records, 0, 0, 7)
    assert len({clip["video_id"] for batch in expected for clip in batch}) == len(ms3_records)
    torch.manual_seed(2)
    for workers, start in ((0, 3), (1, 0), (2, 3)):
        found = batches(tiny_cfg, ms3_records, workers, start, 7 - start)
        for batch, other in zip(found, expected[start:], strict=True):
            assert [clip["video_id"] for clip in batch] == [clip["video_id"] for clip in other]
            for clip, same in zip(batch, other, strict=True):
                for name in ("images", "masks", "log_mel"):
                    assert torch.equal(clip[name], same[name]), name


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterator_takes_no_random_number_from_the_training(workers: int):
    """It is made before the first iteration on detectron2 v0.6, and within it on main."""
    clips = SeededClipDataset([{"video_id": "a"}, {"video_id": "b"}], fail_at(set()), seed=5)
    loader = build_train_loader(clips, seed=5, batch_size=2, num_workers=workers)
    before = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def fail_at(broken: set[str]):
    def mapper(record: dict) -> str:
        if record["video_id"] in broken:
            raise AVSInputError("1.wav is truncated: extract the audio again")
        return record["video_id"]

    return mapper


def test_a_broken_clip_stops_or_is_left_out(logged: pytest.LogCaptureFixture):
    records = [{"video_id": name} for name in "abc"]
    clips = SeededClipDataset(records, fail_at({"b", "c"}), seed=0)
    assert clips[0, 0] == "a"
    with pytest.raises(AVSInputError, match=r"^clip b: 1\.wav is truncated"):
        clips[4, 1]
    clips = SeededClipDataset(records, fail_at({"b", "c"}), seed=0, skip_broken=True)
    assert clips[4, 1] == "a"
    told = [record.getMessage() for record in logged.records if record.name.startswith("transavs")]
    assert [message.partition(":")[0] for message in told] == ["clip b is left out", "clip c is left out"]
    with pytest.raises(AVSInputError, match=r"no clip of DATASETS\.TRAIN can be read"):
        SeededClipDataset(records, fail_at(set("abc")), seed=0, skip_broken=True)[0, 2]


def test_a_batch_that_does_not_split(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(AVSInputError, match=r"IMS_PER_BATCH is 3 for 2 processes: choose a multiple"):
        build_train_loader(SeededClipDataset([{}], dict, seed=0), seed=0, batch_size=3, num_workers=0)
