"""Optimizer, sampler and hooks."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn

from transavs import AVSInputError
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.engine import check_registered
from transavs.engine.hooks import FigureLogger, ThresholdSchedule
from transavs.engine.solver import ClippedAdamW, build_optimizer


def test_learning_rates_and_decay_by_group(tiny_cfg):
    tiny_cfg.SOLVER.BASE_LR, tiny_cfg.SOLVER.BACKBONE_MULTIPLIER, tiny_cfg.SOLVER.WEIGHT_DECAY = 0.01, 0.1, 0.05
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(1 for p in model.parameters() if p.requires_grad)
    decoder = model.query_decoder
    assert found[id(model.backbone.stem.conv1.weight)] == (pytest.approx(0.001), 0.05)
    assert found[id(model.backbone.stem.conv1.norm.weight)] == (pytest.approx(0.001), 0.0)
    assert found[id(decoder.classifier.weight)] == (0.01, 0.05)
    assert found[id(decoder.query_positions)] == found[id(decoder.level_embedding)] == (0.01, 0.0)
    assert found[id(decoder.encoder[0].attention_norm.weight)] == (0.01, 0.0)


def test_the_whole_gradient_is_clipped_at_once():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    optimizer = ClippedAdamW(parameters, max_norm=1.0, lr=0.1)
    parameters[0].grad, parameters[1].grad = torch.full((2,), 3.0), torch.full((3,), 4.0)
    norm = (2 * 9 + 3 * 16) ** 0.5
    optimizer.step()
    assert parameters[0].grad.tolist() == pytest.approx([3 / norm] * 2)
    assert parameters[1].grad.tolist() == pytest.approx([4 / norm] * 3)


def test_detectron2s_own_clipping_still_works(tiny_cfg):
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    assert not isinstance(build_optimizer(tiny_cfg, build_model(tiny_cfg)), ClippedAdamW)


def test_checkpoints_are_the_models_own(tiny_cfg, tmp_path: Path):
    model, path = build_model(tiny_cfg), tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    other = build_model(tiny_cfg)
    AVSCheckpointer(other).load(str(path))
    assert torch.equal(other.query_decoder.query_positions, model.query_decoder.query_positions)

    backbone_alone = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    torch.save({"model": backbone_alone}, path)
    AVSCheckpointer(other).load(str(path))  # as ImageNet weights are
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, path)
    with pytest.raises(AVSInputError, match=r"model\.pth holds no parameter of this model"):
        AVSCheckpointer(other).load(str(path))
    for broken in (b"no checkpoint", path.read_bytes()[:200]):
        path.write_bytes(broken)
        with pytest.raises(AVSInputError, match=r"model\.pth cannot be read as a checkpoint \(.*\): name a good file"):
            AVSCheckpointer(other).load(str(path))


def test_mixed_precision_scales_do_not_reach_the_clipping(tiny_cfg):
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    stepped = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2))
        optimizer = build_optimizer(tiny_cfg, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(100 * model(torch.ones(1, 3)).sum()).backward()
        scaler.step(optimizer)
        assert sum(p.grad.square().sum() for p in model.parameters()).sqrt().item() == pytest.approx(1, rel=1e-4)
        stepped.append(model[0].weight.detach().clone())
    torch.testing.assert_close(*stepped)


def test_each_threshold_has_its_own_schedule():
    criterion, trainer = Mock(), Mock(iter=0)
    hook = ThresholdSchedule(criterion, aqdl_threshold=(0.55, 0.65), aqml_threshold=(0.6, 0.6), steps=18, period=5000)
    hook.trainer = trainer
    for iteration, expected in ((0, 0.55), (45000, 0.6), (89999, 0.55 + 0.1 * 17 / 18)):
        trainer.iter = iteration
        hook.before_step()
        assert criterion.aqdl_threshold == pytest.approx(expected)
        assert criterion.aqml_threshold == pytest.approx(0.6)


def test_only_a_new_figure_is_logged(tmp_path: Path):
    class Trainer:
        storage = Mock(spec=EventStorage)

    path = tmp_path / "figure.png"
    Image.new("RGB", (6, 4), (255, 0, 0)).save(path)
    hook = FigureLogger(path)
    hook.trainer = Trainer
    hook.before_train()
    hook.after_step()
    Trainer.storage.put_image.assert_not_called()
    os.utime(path, (path.stat().st_mtime + 5,) * 2)
    hook.after_step()
    hook.after_step()
    Trainer.storage.put_image.assert_called_once()
    assert Trainer.storage.put_image.call_args.args[1].shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("MODEL.META_ARCHITECTURE", "Foo", "TransAVS"),
        ("MODEL.BACKBONE.NAME", "Foo", "build_timm_backbone"),
        ("MODEL.AUDIO_BACKBONE.NAME", "Foo", "VGGish"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "Foo", "FPNPixelDecoder"),
        ("MODEL.TRANSAVS.TRANSFORMER_DECODER_NAME", "Foo", "AudioQueryDecoder"),
        ("DATASETS.TRAIN", ("Foo",), "synthetic_ms3_train"),
        ("DATASETS.VAL", ("Foo",), "synthetic_ms3_train"),
        ("DATASETS.TEST", ("Foo",), "synthetic_ms3_train"),
    ],
)
def test_a_name_that_is_not_registered_is_told_with_those_that_are(tiny_cfg, key: str, value: object, known: str):
    check_registered(tiny_cfg, training=True)
    tiny_cfg.merge_from_list([key, value])
    with pytest.raises(AVSInputError, match=rf"^{key} (is|holds) 'Foo', which is not registered: .*{known}"):
        check_registered(tiny_cfg, training=True)


def test_an_evaluation_needs_nothing_to_train_on(tiny_cfg):
    tiny_cfg.DATASETS.TRAIN = ()
    check_registered(tiny_cfg, training=False)
    with pytest.raises(AVSInputError, match=r"DATASETS\.TRAIN is empty"):
        check_registered(tiny_cfg, training=True)
