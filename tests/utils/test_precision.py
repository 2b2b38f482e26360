"""Training, evaluation and prediction in 16 bits: where it is allowed, what comes out, and how runs go on in it."""

import copy
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.events import EventStorage
from helpers.bad_inputs import Good
from helpers.models import load_clips, make_backend
from helpers.repository import REPOSITORY, TINY_MODEL
from torch import nn

from transavs import AVSInputError, AVSPredictor
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.config.load import load_config
from transavs.engine import AVSTrainer
from transavs.engine.train_loop import GuardedTrainer
from transavs.media.audio_file import SAMPLE_RATE
from transavs.modeling.meta_arch import AVSModel
from transavs.modeling.transavs import meta_arch
from transavs.utils.precision import find_precision

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_the_best_precision_is_the_devices(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)
    assert find_precision("", "cpu") is BFLOAT16
    assert find_precision("", torch.device("cuda:1")) is (BFLOAT16 if has_bfloat16 else FLOAT16)
    assert find_precision("float16", "cuda") is FLOAT16
    assert find_precision("float32", "cuda") is find_precision("float32", "cpu") is FLOAT32


def training(folder: Path, *settings: object) -> AVSTrainer:
    """A trainer of the same weights, clips and choices every time."""
    torch.manual_seed(0)
    settings = ("SEED", 0, "OUTPUT_DIR", folder, "MODEL.TRANSAVS.AQDL_THRESHOLD", [0, 0], *settings)
    options = [*TINY_MODEL, "MODEL.TRANSAVS.AQML_THRESHOLD", "[0, 0]", *("MODEL.TRANSAVS.AQDL_DISTANCE", "1e4")]
    options += ["INPUT.TRAIN_FRAMES", "0"]  # of few frames batch norms magnify what is rounded
    options += map(str, settings)
    return AVSTrainer(load_config(REPOSITORY / "configs/quickstart.yaml", options))


def run_steps(trainer: AVSTrainer, count: int) -> dict[str, float]:
    """The next iterations, and the losses of the last."""
    with EventStorage() as trainer.storage:
        for number in range(count):
            trainer.iter = trainer.start_iter + number
            trainer.run_step()
    return {name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name}


def seen_types(model: nn.Module) -> list[torch.dtype]:
    """The types of what the first convolution of the backbone gives, from now on."""
    seen: list[torch.dtype] = []
    layer = next(module for module in model.backbone.modules() if isinstance(module, nn.Conv2d))
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    return seen


@pytest.mark.usefixtures("tiny_catalog")
def test_a_step_in_bfloat16_has_nearly_the_losses_of_float32(tmp_path: Path):
    exact = run_steps(training(tmp_path), 1)
    assert min(exact[name] for name in ("loss_aqdl", "loss_aqml", "loss_query_dice_0")) > 0.1
    trainer = training(tmp_path, "SOLVER.AMP.ENABLED", True)
    seen = seen_types(trainer.model)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    losses = run_steps(trainer, 1)
    assert set(seen) == {BFLOAT16}
    assert losses == pytest.approx(exact, rel=0.03, abs=1e-3)
    assert not trainer._trainer.grad_scaler.is_enabled()
    changed = [not torch.equal(before[name], p) for name, p in trainer.model.named_parameters()]
    assert sum(changed) > 0.9 * len(changed)
    assert {p.dtype for p in trainer.model.parameters()} == {FLOAT32}


@pytest.mark.usefixtures("tiny_catalog")
def test_a_run_goes_on_in_another_precision(tmp_path: Path):
    """float32, bfloat16, float32: each goes on with weights, optimizer and iteration of the one before."""
    for start, amp in ((0, False), (2, True), (4, False)):
        trainer = training(tmp_path, "SOLVER.AMP.ENABLED", amp, "SOLVER.MAX_ITER", 6)
        trainer.resume_or_load()
        assert trainer.start_iter == start
        steps = {int(state["step"]) for state in trainer._trainer.optimizer.state.values()}
        assert steps == ({start} if start else set())
        seen = seen_types(trainer.model)
        assert all(np.isfinite(list(run_steps(trainer, 2).values())))
        assert set(seen) == {BFLOAT16 if amp else FLOAT32}
        trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)


class Regression(nn.Module):
    """Takes clips and gives losses, as the models do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1, bias=False)
        nn.init.constant_(self.layer.weight, 0.1)

    def forward(self, clips: list[dict]) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(clips[0]["log_mel"]).float().square().mean()}


def test_the_scale_of_float16_outlasts_other_precisions():
    clip = {"video_id": "a", "log_mel": torch.ones(2, 4), "masks": torch.zeros(1, 2, 2)}

    def trainer(precision: torch.dtype) -> GuardedTrainer:
        model = Regression()
        return GuardedTrainer(model, repeat([clip]), torch.optim.SGD(model.parameters(), lr=0.1), precision=precision)

    def step(one: GuardedTrainer) -> dict:
        before = one.model.layer.weight.detach().clone()
        with EventStorage():
            one.iter = 0
            one.run_step()
        assert not torch.equal(before, one.model.layer.weight)
        return copy.deepcopy(one.state_dict())

    first = trainer(FLOAT16)
    first.grad_scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    state = step(first)
    assert state["grad_scaler"]["scale"] == 128
    again = trainer(FLOAT16)
    again.load_state_dict(state)
    assert again.grad_scaler.get_scale() == 128
    for precision in (BFLOAT16, FLOAT32):
        other = trainer(precision)
        other.load_state_dict(state)  # of float16
        unscaled = step(other)
        assert unscaled["grad_scaler"] == {}
        back = trainer(FLOAT16)
        back.load_state_dict(unscaled)
        assert step(back)["grad_scaler"]["scale"] == torch.amp.GradScaler("cpu").get_scale()


@pytest.mark.usefixtures("tiny_catalog")
@pytest.mark.parametrize(
    "settings", [("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "float16"), ("TEST.PRECISION", "float16")]
)
def test_float16_needs_a_gpu_and_training_says_so_first(tmp_path: Path, settings: tuple):
    with pytest.raises(AVSInputError, match="float16 needs a GPU and the device is 'cpu': choose bfloat16"):
        training(tmp_path, *settings)


class Looking(DatasetEvaluator):
    """Keeps what it is given, and whether it works under autocast."""

    def __init__(self):
        self.probabilities: list[torch.Tensor] = []
        self.under_autocast: set[bool] = set()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self.probabilities += [output["sem_seg"] for output in outputs]
        self.under_autocast.add(torch.is_autocast_enabled("cpu"))

    def evaluate(self) -> dict:
        return {"sem_seg": {"J": float(len(self.probabilities))}}


TPAVI = ["MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]"]
ARCHITECTURES = {
    "TransAVS": [],
    "TPAVI": TPAVI,
    "TPAVI, 4 classes": [*TPAVI, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"],
}


@pytest.fixture(params=ARCHITECTURES)
def overrides(request: pytest.FixtureRequest) -> list[str]:
    return [*TINY_MODEL, *ARCHITECTURES[request.param]]


@pytest.fixture
def model(overrides: list[str]) -> AVSModel:
    """Whose scores differ from place to place."""
    return make_backend("quickstart.yaml", overrides).model


@pytest.fixture
def cfg(overrides: list[str], tmp_path: Path) -> CfgNode:
    return load_config(REPOSITORY / "configs/quickstart.yaml", [*overrides, "OUTPUT_DIR", str(tmp_path)])


@pytest.mark.usefixtures("tiny_catalog")
def test_the_network_alone_is_evaluated_in_16_bits(model: AVSModel, cfg: CfgNode):
    seen, found = seen_types(model.train()), {}
    for precision in ("float32", "bfloat16"):
        cfg.TEST.PRECISION = precision
        found[precision] = Looking()
        results = AVSTrainer.test(cfg, model, [found[precision]])
        assert results["sem_seg"]["J"] == 3
        assert set(seen) == {getattr(torch, precision)}
        assert found[precision].under_autocast == {False}
        assert model.training  # again
        seen.clear()
    for exact, scores in zip(found["float32"].probabilities, found["bfloat16"].probabilities, strict=True):
        assert scores.dtype == FLOAT32
        assert not torch.equal(scores, exact)
        torch.testing.assert_close(scores, exact, rtol=0, atol=0.03)
        torch.testing.assert_close(scores.sum(1), torch.ones_like(scores[:, 0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
def test_probabilities_are_float32_of_whatever_comes_before(
    model: AVSModel, cfg: CfgNode, ms3_records: list[dict], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
):
    """And no coarser than what they are made of: those of the same logits in float32."""
    given: list[tuple] = []
    owner, name = (model, "to_probabilities") if hasattr(model, "blocks") else (meta_arch, "semantic_inference")
    to_probabilities = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *values: (given.append(values), to_probabilities(*values))[1])
    with torch.no_grad():
        with torch.autocast("cpu", dtype):
            found = torch.cat(model.inference(load_clips(cfg, ms3_records, is_train=False)))
        exact = [
            to_probabilities(*(v.float() if isinstance(v, torch.Tensor) else v for v in values)) for values in given
        ]
    assert {v.dtype for values in given for v in values if isinstance(v, torch.Tensor)} == {dtype}
    assert found.dtype == FLOAT32
    torch.testing.assert_close(found, torch.cat(exact), rtol=0, atol=3e-5)


@pytest.fixture
def clip() -> Iterator[tuple]:
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (7, 20, 30, 3), dtype=np.uint8))
    return frames, rng.uniform(-0.3, 0.3, 7 * SAMPLE_RATE), SAMPLE_RATE


def test_predictions_in_bfloat16(model: AVSModel, cfg: CfgNode, clip: tuple, tmp_path: Path):
    AVSCheckpointer(model, str(tmp_path), cfg).save("weights")
    predictors = [
        AVSPredictor.from_checkpoint(tmp_path / "weights.pth", device="cpu", precision=name)
        for name in ("float32", "bfloat16")
    ]
    seen = seen_types(predictors[1].backend.model)
    exact, found = (predictor.predict(*clip) for predictor in predictors)
    assert set(seen) == {BFLOAT16}
    for one, other in zip(found, exact, strict=True):
        assert one.probabilities.dtype == FLOAT32
        assert not torch.equal(one.probabilities, other.probabilities)
        torch.testing.assert_close(one.probabilities, other.probabilities, rtol=0, atol=0.03)


def test_precisions_that_there_are_not(good: Good, tmp_path: Path):
    for name, hint in (("float16", "choose bfloat16"), ("half", "choose from float32, bfloat16, float16")):
        with pytest.raises(AVSInputError, match=hint):
            AVSPredictor.from_checkpoint(good.weights, device="cpu", precision=name)
    with pytest.raises(AVSInputError, match="computes in float32: leave the precision bfloat16 out"):
        AVSPredictor.from_checkpoint(tmp_path / "a.pt2", device="cpu", precision="bfloat16")
