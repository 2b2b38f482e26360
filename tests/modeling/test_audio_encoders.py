"""Audio backbones with front-ends of their own: AST, CLAP and AudioMAE, at small size and without files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from detectron2.modeling import build_model
from helpers.models import load_clips
from helpers.repository import REPOSITORY, TINY_MODEL

from transavs import AVSInputError, AVSPredictor
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.config.load import load_config
from transavs.data.front_ends import find_front_end
from transavs.engine.solver import build_optimizer
from transavs.inference.backends import load_backend
from transavs.inference.export import export_model, random_clips
from transavs.modeling.backbones.audio import build_audio_backbone

AST_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CLAP_SIZE = {"patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
MAE_SIZE = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALLER = {"AST": AST_SIZE, "CLAP": CLAP_SIZE, "AudioMAE": MAE_SIZE}
DIMENSIONS = {"AST": 32, "CLAP": 64, "AudioMAE": 32}
SHAPES = {"AST": (1, 98, 128), "CLAP": (1, 1001, 64), "AudioMAE": (1, 112, 128)}


def make_cfg(name: str, **changes: object):
    """The tiny quickstart with a small audio backbone of the named kind."""
    torch.manual_seed(0)
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", TINY_MODEL)
    settings = cfg.MODEL.AUDIO_BACKBONE
    settings.NAME = name
    for option, value in SMALLER[name].items():
        settings.OPTIONS[option] = value
    for key, value in changes.items():
        settings[key] = value
    return cfg


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("name", SMALLER)
def test_every_encoder_trains_and_evaluates(name: str, freeze: bool, ms3_records: list[dict]):
    cfg = make_cfg(name, FREEZE=freeze)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    clips = load_clips(cfg, ms3_records[:2], is_train=True)
    assert {tuple(clip["log_mel"].shape[1:]) for clip in clips} == {SHAPES[name]} == {find_front_end(cfg).shape}
    before = {key: value.clone() for key, value in model.audio_backbone.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(clips).values()).backward()
        # Distributed training waits for the gradient of every parameter.
        assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
    after = model.audio_backbone.state_dict()
    assert all(torch.equal(before[key], value) for key, value in after.items()) is freeze
    model.eval()
    with torch.no_grad():
        outputs = model(load_clips(cfg, ms3_records[:2], is_train=False))
        embeddings = model.audio_embeddings(clips)
    assert [tuple(embedding.shape) for embedding in embeddings] == [(5, DIMENSIONS[name])] * 2
    assert all(output["sem_seg"].isfinite().all() for output in outputs)


@pytest.mark.parametrize("name", SMALLER)
def test_an_embedding_depends_on_its_own_second_and_its_context_alone(name: str):
    rng = np.random.default_rng(0)
    for context, reach in ((0.0, 0), (1.0, 1)):
        cfg = make_cfg(name, CONTEXT=context)
        front_end = find_front_end(cfg)
        backbone = build_audio_backbone(cfg).eval()
        wave = rng.uniform(-0.5, 0.5, 5 * front_end.sample_rate)
        changed = wave.copy()
        changed[2 * front_end.sample_rate : 3 * front_end.sample_rate] *= 0.1
        with torch.no_grad():
            one, other = (backbone(front_end.examples(sound, front_end.sample_rate)) for sound in (wave, changed))
        differ = [not torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True)]
        assert differ == [abs(second - 2) <= reach for second in range(5)]


def saved_weights(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Write a small published model into a folder, as its library does; returns the weights of its encoder."""
    torch.manual_seed(7)
    if name == "AST":
        model = transformers.ASTForAudioClassification(transformers.ASTConfig(**AST_SIZE))
        torch.nn.init.normal_(model.audio_spectrogram_transformer.embeddings.position_embeddings)
        model.save_pretrained(folder)
        return model.audio_spectrogram_transformer.state_dict()
    if name == "CLAP":
        text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        model = transformers.ClapModel(transformers.ClapConfig(text_config=text, audio_config=CLAP_SIZE))
        model.audio_model.audio_encoder.batch_norm.running_mean.normal_()
        model.save_pretrained(folder)
        return model.audio_model.state_dict()
    settings = {"in_chans": 1, "img_size": (1024, 128), "num_classes": 0, "global_pool": "avg", "fc_norm": False}
    model = timm.create_model("vit_base_patch16_224", **settings, **MAE_SIZE)
    timm.models.save_for_hf(model, folder, model_args=settings | MAE_SIZE, safe_serialization=True)
    return model.state_dict()


POSITIONS = {"AST": "embeddings.position_embeddings", "AudioMAE": "pos_embed"}


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("name", SMALLER)
def test_published_weights_load_from_a_folder_and_from_a_file(name: str, kind: str, tmp_path: Path):
    expected = saved_weights(name, tmp_path)
    path = tmp_path if kind == "folder" else tmp_path / "model.safetensors"
    cfg = make_cfg(name, WEIGHTS=str(path))
    found = build_audio_backbone(cfg).body.state_dict()
    compared = found.keys() & expected.keys() - {POSITIONS.get(name)}
    assert len(compared) >= len(found) - 1
    assert all(torch.equal(found[key], expected[key]) for key in compared)


def test_of_the_length_that_they_were_trained_with_models_give_what_their_libraries_do(tmp_path: Path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 163840)
    for name in ("AST", "AudioMAE"):
        saved_weights(name, tmp_path / name)
        cfg = make_cfg(name, WEIGHTS=str(tmp_path / name), CONTEXT=4.62)
        front_end = find_front_end(cfg)
        example = front_end.example(torch.from_numpy(sound))[None]
        with torch.no_grad():
            found = build_audio_backbone(cfg).eval()(example)
            if name == "AudioMAE":
                assert example.shape == (1, 1, 1024, 128)
                expected = timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True).eval()(example)
            else:
                published = transformers.ASTModel.from_pretrained(tmp_path / name).eval()
                extractor = transformers.ASTFeatureExtractor(max_length=1024)
                whole = extractor(sound, sampling_rate=16000, return_tensors="pt")["input_values"]
                expected = published(whole).pooler_output
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_positions_are_interpolated_along_time_alone(tmp_path: Path):
    """Positions that tell only their band stay as they are, and a ramp in time stays one."""
    torch.manual_seed(0)
    model = transformers.ASTModel(transformers.ASTConfig(**AST_SIZE))
    bands, ramp = torch.arange(12.0), torch.linspace(0, 1, 101)
    grid = torch.stack([bands[:, None].expand(12, 101), ramp.expand(12, 101)], dim=-1).reshape(1, -1, 2)
    with torch.no_grad():
        model.embeddings.position_embeddings[:, 2:, :2] = grid
    model.save_pretrained(tmp_path)
    backbone = build_audio_backbone(make_cfg("AST", WEIGHTS=str(tmp_path)))
    found = backbone.body.embeddings.position_embeddings.detach()[0]
    short = found[2:, :2].reshape(12, 9, 2)
    torch.testing.assert_close(short[..., 0], bands[:, None].expand(12, 9), atol=1e-4, rtol=0)
    centers = (torch.arange(9) + 0.5) / 9
    torch.testing.assert_close(short[0, 1:-1, 1], ((centers * 101 - 0.5) / 100)[1:-1], atol=0.01, rtol=0)
    assert torch.equal(found[:2], model.embeddings.position_embeddings.detach()[0, :2])


@pytest.mark.parametrize("name", SMALLER)
def test_weights_of_another_size_are_refused_in_one_line(name: str, tmp_path: Path):
    saved_weights(name, tmp_path)
    cfg = make_cfg(name, WEIGHTS=str(tmp_path))
    change = {"AST": ("num_attention_heads", 4), "CLAP": ("depths", [1, 1, 2, 1]), "AudioMAE": ("depth", 3)}[name]
    cfg.MODEL.AUDIO_BACKBONE.OPTIONS[change[0]] = change[1]
    with pytest.raises(AVSInputError) as refused:
        build_model(cfg)
    message = str(refused.value)
    assert message.startswith(f"MODEL.AUDIO_BACKBONE.WEIGHTS: {tmp_path} does not load into {name} (")
    assert "\n" not in message
    if name != "AudioMAE":
        assert f"its {change[0]} is {SMALLER[name][change[0]]} and not {change[1]}: say so in MODEL" in message


def test_what_cannot_be_built_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch):
    for name in SMALLER:
        cfg = make_cfg(name)
        cfg.MODEL.AUDIO_BACKBONE.OPTIONS.hiden_size = 3
        with pytest.raises(AVSInputError, match=rf"^MODEL\.AUDIO_BACKBONE\.OPTIONS: {name} .* .*hiden_size.*: correct"):
            build_audio_backbone(cfg)
    cfg = make_cfg("AudioMAE")
    cfg.MODEL.AUDIO_BACKBONE.OPTIONS.checkpoint_path = "somewhere.pth"
    with pytest.raises(AVSInputError, match="there is no checkpoint_path"):
        build_audio_backbone(cfg)
    cfg = make_cfg("CLAP")
    cfg.MODEL.AUDIO_BACKBONE.OPTIONS.enable_fusion = True
    with pytest.raises(AVSInputError, match="fusion mixes pieces drawn at random"):
        build_audio_backbone(cfg)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AVSInputError, match=r"^transformers is not installed, and AST is made of it: pip install"):
        build_audio_backbone(make_cfg("AST"))
    assert build_audio_backbone(make_cfg("AudioMAE")).embed_dim == 32


def test_a_context_out_of_range_is_refused():
    with pytest.raises(AVSInputError, match=r"CONTEXT is 4\.6: ClapLogMel takes 0 to 4\.5"):
        find_front_end(make_cfg("CLAP", CONTEXT=4.6))
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", ["MODEL.AUDIO_BACKBONE.CONTEXT", "1.0"])
    with pytest.raises(AVSInputError, match=r"CONTEXT is 1\.0: VGGishLogMel takes 0 to 0\.0"):
        find_front_end(cfg)


@pytest.mark.parametrize("name", SMALLER)
def test_checkpoints_shared_folders_and_exported_files_know_their_front_end(name: str, tmp_path: Path):
    cfg = make_cfg(name, CONTEXT=0.5)
    model = build_model(cfg).eval()
    AVSCheckpointer(model, str(tmp_path), cfg).save("tiny")
    backend = load_backend(tmp_path / "tiny.pth", "cpu")
    assert backend.format.front_end == find_front_end(cfg)
    export_model(backend, tmp_path / "tiny.pt2")
    exported = load_backend(tmp_path / "tiny.pt2", "cpu", trust_program=True)
    assert exported.format == backend.format
    images, log_mel = random_clips(backend.format, 3)
    torch.testing.assert_close(exported(images, log_mel), backend(images, log_mel), atol=1e-5, rtol=0)
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8))
    sound = np.random.default_rng(1).uniform(-0.3, 0.3, 3 * 22050)
    predictor = AVSPredictor.from_checkpoint(tmp_path / "tiny.pth", device="cpu")
    predictor.save_pretrained(tmp_path / "shared", license="mit")
    shared = AVSPredictor.from_pretrained(tmp_path / "shared", device="cpu")
    expected = predictor.predict(frames, sound, 22050)
    for other in (AVSPredictor(exported), shared):
        for found, frame in zip(other.predict(frames, sound, 22050), expected, strict=True):
            torch.testing.assert_close(found.probabilities, frame.probabilities, atol=1e-5, rtol=0)


def test_the_embedding_cache_knows_encoders_apart_that_differ_in_an_option_alone(tmp_path: Path, ms3_records):
    """Heads of attention are in no weight and in no module's text."""
    counts = []
    for heads in (2, 4, 2):
        cfg = make_cfg("AST", FREEZE=True, EMBEDDING_CACHE=str(tmp_path))
        cfg.MODEL.AUDIO_BACKBONE.OPTIONS.num_attention_heads = heads
        clips = load_clips(cfg, ms3_records[:2], is_train=True)
        model = build_model(cfg)
        expected = [model.audio_backbone(clip["log_mel"]) for clip in clips]
        for embedding, other in zip(model.audio_embeddings(clips), expected, strict=True):
            torch.testing.assert_close(embedding, other, atol=1e-5, rtol=1e-4)
        counts.append(len(list(tmp_path.iterdir())))
    assert counts == [2, 4, 4]


def test_options_stand_in_yaml(tmp_path: Path):
    options = json.dumps(AST_SIZE | {"frequency_stride": 16, "time_stride": 16})
    text = f"_BASE_: {REPOSITORY}/configs/quickstart.yaml\nMODEL:\n  AUDIO_BACKBONE:\n    NAME: AST\n"
    (tmp_path / "ast.yaml").write_text(f"{text}    OPTIONS: {options}\n")
    backbone = build_audio_backbone(load_config(tmp_path / "ast.yaml"))
    assert backbone.body.embeddings.position_embeddings.shape == (1, 2 + 8 * 6, 32)
