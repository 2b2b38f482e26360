"""Embeddings of a frozen audio backbone: without autograd, and kept on disk."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from helpers.repository import REPOSITORY, TINY_MODEL
from torch import Tensor, nn

from transavs import AVSInputError
from transavs.checkpoint.load import load_model
from transavs.config.load import load_config
from transavs.data import AVSDatasetMapper
from transavs.engine import AVSTrainer


@pytest.fixture
def folder(tiny_cfg, tmp_path: Path) -> Path:
    tiny_cfg.MODEL.AUDIO_BACKBONE.FREEZE = True
    tiny_cfg.MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE = str(tmp_path / "embeddings")
    return tmp_path / "embeddings"


@pytest.fixture
def clips() -> list[dict]:
    """As the mapper makes them, as far as the sound goes; of several lengths."""
    generator = torch.Generator().manual_seed(3)
    return [{"log_mel": torch.randn(seconds, 1, 96, 64, generator=generator)} for seconds in (5, 3, 5, 1)]


def watch(model: nn.Module) -> list[int]:
    """The number of examples of each call of the audio backbone; clear it to count anew."""
    calls: list[int] = []
    model.audio_backbone.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    return calls


def plain_embeddings(model: nn.Module, clips: list[dict]) -> list[Tensor]:
    with torch.no_grad():
        return [model.audio_backbone(clip["log_mel"]) for clip in clips]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert not one.requires_grad


@pytest.mark.parametrize("system", ["transavs", "tpavi"])
def test_embeddings_are_computed_once(clips: list[dict], tmp_path: Path, system: str):
    small = ["MODEL.AUDIO_BACKBONE.NAME", "SmallAudioNet", "MODEL.AUDIO_BACKBONE.FREEZE", "True"]
    cached = ["MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE", str(tmp_path / "embeddings")]
    config = REPOSITORY / f"configs/comparison/ms3_{system}.yaml"
    model = build_model(load_config(config, [*TINY_MODEL, *small, *cached])).train()
    calls = watch(model)
    expected = plain_embeddings(model, clips)
    calls.clear()
    first = model.audio_embeddings(clips[1:3])
    assert_close(first, expected[1:3])
    assert calls == [8]
    # Only what is missing is computed, and neither the order nor the batch plays a part.
    again = model.audio_embeddings(clips[::-1])
    assert_close(again, expected[::-1])
    assert calls == [8, 6]
    assert torch.equal(again[2], first[0])
    assert torch.equal(again[1], first[1])
    for clip, value in zip(clips, again[::-1], strict=True):
        assert torch.equal(model.audio_embeddings([clip])[0], value)
    assert calls == [8, 6]
    assert len(list((tmp_path / "embeddings").iterdir())) == len(clips)
    clips[0]["log_mel"][2, 0, 50, 30] += 1
    assert_close(model.audio_embeddings(clips), plain_embeddings(model, clips))


def test_another_run_finds_them(tiny_cfg, folder: Path, clips: list[dict]):
    model = build_model(tiny_cfg)
    before = model.audio_embeddings(clips)
    other = build_model(tiny_cfg)
    other.load_state_dict(model.state_dict())
    calls = watch(other)
    after = other.audio_embeddings(clips)
    assert calls == []
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))


def loaded(model: nn.Module) -> None:
    state = copy.deepcopy(model.state_dict())
    state["audio_backbone.embedding.weight"] += 0.5
    model.load_state_dict(state)


def test_other_weights_that_are_loaded_give_other_embeddings(tiny_cfg, folder: Path, clips: list[dict]):
    model = build_model(tiny_cfg).eval()
    before = model.audio_embeddings(clips)
    copied = copy.deepcopy(model)
    loaded(model)
    after = model.audio_embeddings(clips)
    assert_close(after, plain_embeddings(model, clips))
    assert not any(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    loaded(copied)
    assert all(torch.equal(one, other) for one, other in zip(copied.audio_embeddings(clips), after, strict=True))


def test_another_structure_with_the_same_weights_gives_other_embeddings(tiny_cfg, folder: Path, clips: list[dict]):
    model = build_model(tiny_cfg).eval()
    before = model.audio_embeddings(clips)
    other = build_model(tiny_cfg).eval()
    other.load_state_dict(model.state_dict())
    other.audio_backbone.features[0].eps = 1.0
    after = other.audio_embeddings(clips)
    assert_close(after, plain_embeddings(other, clips))
    assert not any(torch.equal(one, two) for one, two in zip(after, before, strict=True))


def test_precisions_are_kept_apart(tiny_cfg, folder: Path, clips: list[dict]):
    model = build_model(tiny_cfg).eval()
    exact = model.audio_embeddings(clips)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            half = model.audio_embeddings(clips)
            expected = plain_embeddings(model, clips)
        assert {embedding.dtype for embedding in half} == {torch.bfloat16}
        for one, other in zip(half, expected, strict=True):
            torch.testing.assert_close(one, other)
    assert all(torch.equal(one, other) for one, other in zip(model.audio_embeddings(clips), exact, strict=True))


def test_noise_that_never_comes_again_is_not_kept(tiny_cfg, folder: Path, clips: list[dict]):
    model = build_model(tiny_cfg).eval()
    clips[1]["noise_seed"] = 7
    clips[2]["noise_seed"] = None
    assert_close(model.audio_embeddings(clips), plain_embeddings(model, clips))
    assert len(list(folder.iterdir())) == len(clips) - 1
    assert_close(model.audio_embeddings(clips), plain_embeddings(model, clips))


def test_broken_files_are_written_again(tiny_cfg, folder: Path, clips: list[dict], logged: pytest.LogCaptureFixture):
    model = build_model(tiny_cfg)
    before = model.audio_embeddings(clips)
    contents = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    first, second, third, _ = contents
    first.write_bytes(contents[first][:-1])
    second.write_bytes(contents[third])
    third.write_bytes(b"foreign")
    logged.clear()
    with logged.at_level(logging.WARNING, "transavs"):
        assert_close(model.audio_embeddings(clips), before)
    named = [record.message.split(" is broken or foreign")[0] for record in logged.records]
    assert sorted(named) == [str(first), str(second), str(third)]
    calls = watch(model)
    assert_close(model.audio_embeddings(clips), before)
    assert calls == []


def test_it_needs_a_frozen_audio_backbone(tiny_cfg, folder: Path):
    tiny_cfg.MODEL.AUDIO_BACKBONE.FREEZE = False
    with pytest.raises(AVSInputError, match=r"^MODEL\.AUDIO_BACKBONE\.EMBEDDING_CACHE .* FREEZE is False: set MODEL"):
        build_model(tiny_cfg)
    assert not folder.exists()


def test_an_audio_backbone_that_is_thawed_later_is_trained(tiny_cfg, folder: Path, clips: list[dict]):
    model = build_model(tiny_cfg)
    model.audio_embeddings(clips)
    model.audio_backbone.requires_grad_(True)
    assert all(embedding.requires_grad for embedding in model.audio_embeddings(clips))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_audio_backbone_keeps_nothing_for_the_backward_pass(
    tiny_cfg, tmp_path: Path, clips: list[dict], freeze: bool, cached: bool
):
    tiny_cfg.MODEL.AUDIO_BACKBONE.FREEZE = freeze
    if cached and freeze:
        tiny_cfg.MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE = str(tmp_path / "embeddings")
    model = build_model(tiny_cfg).train()
    grad_modes, saved = [], []
    model.audio_backbone.register_forward_hook(lambda *_: grad_modes.append(torch.is_grad_enabled()))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda kept: kept):
        embeddings = model.audio_embeddings(clips)
    assert grad_modes == [not freeze]
    assert bool(saved) is not freeze
    assert {embedding.requires_grad for embedding in embeddings} == {not freeze}
    assert {module.training for module in model.audio_backbone.modules()} == {not freeze}


def test_training_losses_are_equal(tiny_cfg, folder: Path, ms3_records: list[dict]):
    mapper = AVSDatasetMapper(tiny_cfg, is_train=True)
    clips = [mapper(record) for record in ms3_records]
    plain_cfg = tiny_cfg.clone()
    plain_cfg.MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE = ""
    plain = build_model(plain_cfg).train()
    cached = build_model(tiny_cfg).train()
    cached.load_state_dict(plain.state_dict())
    gradients = []
    for model in (plain, cached, cached):
        model.zero_grad()
        losses = model(clips)
        sum(losses.values()).backward()
        gradients.append([p.grad.norm().item() for p in model.parameters() if p.grad is not None])
        assert {name: value.item() for name, value in losses.items()} == pytest.approx(
            {name: value.item() for name, value in plain(clips).items()}, rel=1e-5
        )
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-3, abs=1e-5)
    assert gradients[2] == pytest.approx(gradients[0], rel=1e-3, abs=1e-5)
    assert len(list(folder.iterdir())) == len(clips)


def test_a_checkpoint_is_used_without_the_folders_it_was_trained_with(tiny_cfg, folder: Path, tiny_catalog: None):
    tiny_cfg.OUTPUT_DIR = str(folder.parent / "run")
    tiny_cfg.DATALOADER.CLIP_CACHE = str(folder.parent / "clips")
    Path(tiny_cfg.OUTPUT_DIR).mkdir()
    trainer = AVSTrainer(tiny_cfg)  # which its checkpointer does not keep
    trainer.checkpointer.save("model_final")
    for path in (folder, folder.parent / "clips"):
        path.rmdir()
        path.write_text("in the way")
    model, cfg, _ = load_model(Path(tiny_cfg.OUTPUT_DIR) / "model_final.pth", "cpu")
    assert model.embedding_cache is None
    assert AVSDatasetMapper(cfg, is_train=False).cache is None
