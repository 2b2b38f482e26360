"""Batches at fault: told with the names of their clips, skipped or a reason to stop, and never learnt from."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from transavs import AVSInputError
from transavs.data.audio import LOG_OFFSET, VGGishLogMel
from transavs.engine import AVSTrainer


@pytest.fixture
def trainer_of(tiny_cfg, tiny_catalog: None, tmp_path: Path):
    """Makes a trainer with settings; its model has statistics that run."""

    def build(*settings: object) -> AVSTrainer:
        tiny_cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", 6, *settings])
        return AVSTrainer(tiny_cfg)

    return build


def steps(trainer: AVSTrainer, count: int) -> None:
    with EventStorage() as trainer.storage:
        for trainer.iter in range(count):
            trainer.run_step()


def everything_learnt(trainer: AVSTrainer) -> list[torch.Tensor]:
    moments = [value for state in trainer._trainer.optimizer.state.values() for value in state.values()]
    return [value.clone() for value in (*trainer.model.state_dict().values(), *moments)]


def spoil_losses(trainer: AVSTrainer, iterations: set[int], value: float) -> list[str]:
    """A loss is ``value`` times what it is in these iterations; the clips that it is of are added to the result."""
    clips: list[str] = []

    def spoil(model, inputs: tuple, losses: dict) -> dict:
        if trainer.iter not in iterations:
            return losses
        clips.extend(clip["video_id"] for clip in inputs[0])
        return losses | {"loss_dice": losses["loss_dice"] * value}

    trainer.model.register_forward_hook(spoil)
    return clips


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(trainer_of, value: float):
    trainer = trainer_of()
    clips = spoil_losses(trainer, {1}, value)
    steps(trainer, 1)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.iter = 1
    with EventStorage() as trainer.storage, pytest.raises(AVSInputError) as stopped:
        trainer.run_step()
    assert str(stopped.value) == (
        f"iteration 1, clips {', '.join(clips)}: not finite: loss_dice: look at them, or lower SOLVER.BASE_LR, then "
        "--resume"
    )
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))


def test_a_skipped_batch_leaves_nothing_behind(trainer_of, logged: pytest.LogCaptureFixture):
    trainer = trainer_of("SOLVER.ON_NON_FINITE", "skip")
    spoil_losses(trainer, {2}, math.nan)
    steps(trainer, 2)
    before = everything_learnt(trainer)
    trainer.iter = 2
    with EventStorage() as trainer.storage:
        trainer.run_step()
        assert all(torch.equal(*pair) for pair in zip(before, everything_learnt(trainer), strict=True))
        trainer.iter = 3
        trainer.run_step()
    assert not all(torch.equal(*pair) for pair in zip(before, everything_learnt(trainer), strict=True))
    (told,) = [record.getMessage() for record in logged.records if "not finite" in record.getMessage()]
    assert told.startswith("iteration 2, clips ")
    assert told.endswith("skipped")


@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_a_gradient_that_is_not_finite_counts_too(trainer_of, in_bfloat16: bool):
    trainer = trainer_of("SOLVER.AMP.ENABLED", in_bfloat16, "SOLVER.AMP.PRECISION", "bfloat16")
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(AVSInputError, match="not finite: the gradient"):
        steps(trainer, 1)


def test_too_many_skipped_batches_stop_the_run(trainer_of):
    trainer = trainer_of("SOLVER.ON_NON_FINITE", "skip", "SOLVER.MAX_SKIPPED_BATCHES", 2)
    spoil_losses(trainer, {0, 1, 3, 4, 5}, math.nan)
    with pytest.raises(AVSInputError, match=r"iteration 5, .* after 2 skipped batches"):
        steps(trainer, 6)


def silence(trainer: AVSTrainer, masks: float) -> None:
    """Take the sound out of all batches, and multiply their masks by a number."""

    def quiet(model, inputs: tuple) -> None:
        for clip in inputs[0]:  # the very dicts that the trainer looks at afterwards
            clip["log_mel"] = torch.full_like(clip["log_mel"], math.log(LOG_OFFSET))
            for name in ("masks", "objects"):
                clip[name] = (clip[name] * masks).long()

    trainer.model.register_forward_pre_hook(quiet)


@pytest.mark.parametrize("word", ["train", "skip", "stop"])
def test_batches_without_any_sound(trainer_of, logged: pytest.LogCaptureFixture, word: str):
    trainer = trainer_of("SOLVER.ON_SILENT_BATCH", word)
    silence(trainer, 1)
    before = everything_learnt(trainer)
    if word == "stop":
        with pytest.raises(AVSInputError, match=r"iteration 0, clips .*: no sound, and something sounds"):
            steps(trainer, 1)
        return
    steps(trainer, 1)
    assert "no sound, and something sounds" in logged.text
    learnt = everything_learnt(trainer)
    assert (word == "skip") == (len(learnt) == len(before) and all(map(torch.equal, before, learnt)))


def test_silence_in_which_nothing_sounds_is_no_fault(trainer_of, logged: pytest.LogCaptureFixture):
    trainer = trainer_of("SOLVER.ON_SILENT_BATCH", "stop")
    silence(trainer, 0)
    steps(trainer, 1)
    assert "no sound" not in logged.text


def test_silence_is_told_from_the_faintest_sound():
    examples = torch.full((2, 1, 96, 64), math.log(LOG_OFFSET))
    assert VGGishLogMel().is_silent(examples)
    examples[1, 0, 3, 4] = math.log(LOG_OFFSET + 1e-4)
    assert not VGGishLogMel().is_silent(examples)


# No norm and no loss that looks at the batch as a whole.
CLIP_BY_CLIP = [
    *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN", "SOLVER.CLIP_GRADIENTS.ENABLED", False),
    *("MODEL.AUDIO_BACKBONE.SMALL_NORM", "FrozenBN", "MODEL.TRANSAVS.ALIGNMENT_WEIGHT", 0.0),
]


def test_accumulated_batches_are_one_larger_batch(trainer_of):
    """In losses, in the gradient and, step after step, in the clips that come next."""
    gradients, losses = [], []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        torch.manual_seed(0)
        settings = ("SEED", 3, "SOLVER.IMS_PER_BATCH", batch, "SOLVER.ACCUMULATE", accumulate)
        trainer = trainer_of(*CLIP_BY_CLIP, *settings)
        steps(trainer, 2)
        gradients.append([p.grad for p in trainer.model.parameters() if p.grad is not None])
        losses.append({name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name})
    assert losses[1:] == [pytest.approx(losses[0], rel=1e-4)] * 2
    assert len(gradients[0]) > 50
    for found in gradients[1:]:
        torch.testing.assert_close(found, gradients[0], rtol=1e-3, atol=1e-5)


def test_a_faulty_batch_takes_its_whole_step_along(trainer_of, logged: pytest.LogCaptureFixture):
    trainer = trainer_of("SOLVER.ON_NON_FINITE", "skip", "SOLVER.ACCUMULATE", 3)
    batches: list[list[str]] = []

    def spoil(model, inputs: tuple, losses: dict) -> dict:
        batches.append([clip["video_id"] for clip in inputs[0]])
        return losses | {"loss_dice": losses["loss_dice"] * math.nan} if len(batches) == 2 else losses

    trainer.model.register_forward_hook(spoil)
    before = everything_learnt(trainer)
    steps(trainer, 1)
    assert len(batches) == 3
    assert all(map(torch.equal, before, everything_learnt(trainer)))
    assert f"iteration 0, clips {', '.join(batches[1])}: not finite: loss_dice: skipped" in logged.text


def test_going_on_skips_the_clips_of_all_batches_of_a_step(trainer_of):
    trainer = trainer_of("SOLVER.ACCUMULATE", 2, "SEED", 3)
    whole, left = (iter(trainer.build_train_loader(trainer.cfg, start)) for start in (0, 2))
    seen, expected = ([[clip["video_id"] for clip in next(loader)] for _ in range(6)] for loader in (left, whole))
    assert seen[:2] == expected[4:]
