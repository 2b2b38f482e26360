"""Backbones, decoders and the meta-architecture: shapes, equations, invariances."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from helpers.models import load_clips, make_decoder, make_features
from helpers.repository import REPOSITORY
from torch import nn

from transavs import AVSInputError
from transavs.config.load import load_config
from transavs.data.avsbench import load_avsbench
from transavs.modeling import FPNPixelDecoder, VGGish
from transavs.modeling.activation_checkpoint import checkpoint_activations
from transavs.modeling.backbones.audio import build_audio_backbone
from transavs.modeling.transavs.query_decoder import Attention, AttentionLayer, audio_windows, sine_positions
from transavs.modeling.transavs.semantic_inference import semantic_inference

CONFIGS = REPOSITORY / "configs"


def test_vggish_has_torchvggish_keys_shapes_and_layout():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in VGGish(embed_dim=128).state_dict().items()}
    convolutions = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
    linears = {0: (4096, 12288), 2: (4096, 4096), 4: (128, 4096)}
    expected = {f"features.{i}.weight": (*shape, 3, 3) for i, shape in convolutions.items()}
    expected |= {f"features.{i}.bias": shape[:1] for i, shape in convolutions.items()}
    expected |= {f"embeddings.{i}.weight": shape for i, shape in linears.items()}
    expected |= {f"embeddings.{i}.bias": shape[:1] for i, shape in linears.items()}
    assert shapes == expected
    assert sum(math.prod(shape) for shape in shapes.values()) == 72141184


def test_vggish_flattens_time_frequency_channel():
    torch.manual_seed(0)
    model = VGGish(embed_dim=4).eval()
    examples = torch.randn(2, 1, 96, 64)
    features = model.features(examples)
    assert features.shape == (2, 512, 6, 4)
    rows = [features[:, :, time, band] for time in range(6) for band in range(4)]
    expected = model.embeddings(torch.cat(rows, 1))
    torch.testing.assert_close(model(examples), expected)
    assert (expected >= 0).all()


def test_freezing_and_loading_are_independent(tiny_cfg, tmp_path: Path):
    donor = build_audio_backbone(tiny_cfg)
    torch.save(donor.state_dict(), tmp_path / "audio.pth")
    tiny_cfg.MODEL.AUDIO_BACKBONE.WEIGHTS = str(tmp_path / "audio.pth")
    for freeze in (True, False):
        tiny_cfg.MODEL.AUDIO_BACKBONE.FREEZE = freeze
        loaded = build_audio_backbone(tiny_cfg).train()
        assert torch.equal(loaded.embedding.weight, donor.embedding.weight)
        assert {parameter.requires_grad for parameter in loaded.parameters()} == {not freeze}
        before = {name: value.clone() for name, value in loaded.state_dict().items()}
        loaded(torch.randn(4, 1, 96, 64))
        changed = any(not torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
        assert changed is not freeze  # the statistics of batch norm move only when training
    torch.save({"other": torch.zeros(1)}, tmp_path / "audio.pth")
    with pytest.raises(AVSInputError, match=r"AUDIO_BACKBONE\.WEIGHTS: .*audio\.pth does not load into SmallAudioNet"):
        build_audio_backbone(tiny_cfg)


def test_pixel_decoder_gives_levels_coarse_to_fine():
    shapes = {f"res{i}": ShapeSpec(channels=4 * i, stride=2**i) for i in (3, 2, 5, 4)}
    decoder = FPNPixelDecoder(input_shape=shapes, conv_dim=8, norm="")
    features = {name: torch.randn(2, s.channels, 64 // s.stride, 64 // s.stride) for name, s in shapes.items()}
    mask_features, pyramid = decoder.forward_features(features)
    assert mask_features.shape == (2, 8, 16, 16)
    assert [tuple(level.shape) for level in pyramid] == [(2, 8, 2, 2), (2, 8, 4, 4), (2, 8, 8, 8)]
    # The coarsest feature reaches the finest output, not the other way round.
    features["res5"] = features["res5"] + 1
    changed_mask, changed = decoder.forward_features(features)
    assert not torch.allclose(changed_mask, mask_features)
    features["res2"] = features["res2"] + 1
    assert torch.equal(decoder.forward_features(features)[1][0], changed[0])


def test_stages_of_one_width_are_refused(tiny_cfg):
    tiny_cfg.MODEL.RESNETS.BASIC_CHANNELS = [8, 8, 16, 32]
    with pytest.raises(AVSInputError, match=r"BASIC_CHANNELS is \[8, 8, 16, 32\]: give each stage another width"):
        build_model(tiny_cfg)


def test_audio_windows():
    audio = torch.arange(1.0, 11).view(2, 5, 1)
    clip = audio_windows(audio, "clip", 5)
    assert clip.shape == (10, 5, 1)
    assert clip[:5, :, 0].tolist() == [[1, 2, 3, 4, 5]] * 5
    assert audio_windows(audio, "clip", 7)[5:, :, 0].tolist() == [[6, 7, 8, 9, 10, 0, 0]] * 5
    with pytest.raises(AVSInputError, match=r"a clip of 5 s, INPUT\.NUM_FRAMES is 4"):
        audio_windows(audio, "clip", 4)
    assert audio_windows(audio, "frame", 1)[:, :, 0].tolist() == [[float(i)] for i in range(1, 11)]
    around = audio_windows(audio, "frame", 3)[:, :, 0].tolist()
    assert around[0] == [0, 1, 2]
    assert around[4] == [4, 5, 0]
    assert around[5] == [0, 6, 7]


def test_eq_1_mixes_the_seconds_with_w1():
    decoder = make_decoder(query_mode="clip", enc_layers=0, content_std=0.0)
    audio = torch.randn(2, 5, 10)
    projected = decoder.audio_projection(audio)
    expected = torch.stack([decoder.query_mixer.weight @ clip for clip in projected])  # W_1 F_a per clip
    queries = decoder.audio_queries(audio).unflatten(0, (2, 5))
    for frame in range(5):
        torch.testing.assert_close(queries[:, frame], expected)


def test_attention_is_eqs_2_and_3_before_the_norm():
    torch.manual_seed(0)
    layer = AttentionLayer(hidden_dim=6, num_heads=1, dim_feedforward=8, dropout=0.0)
    layer.attention_norm = layer.feedforward_norm = nn.Identity()
    layer.feedforward = nn.Sequential(nn.Linear(6, 6))
    nn.init.zeros_(layer.feedforward[0].weight)
    nn.init.zeros_(layer.feedforward[0].bias)
    queries, keys = torch.randn(2, 3, 6), torch.randn(2, 7, 6)
    w_q, w_k, w_v = layer.attention.in_proj_weight.chunk(3)
    scores = (queries @ w_q.T) @ (keys @ w_k.T).transpose(1, 2) / math.sqrt(6)
    attended = scores.softmax(-1) @ (keys @ w_v.T) @ layer.attention.out_proj.weight.T
    torch.testing.assert_close(layer(queries, torch.zeros(3, 6), keys, keys), queries + attended)


def test_attention_and_its_gradients_are_torchs():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 3, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    found, expected = (
        [module(*inputs)[0], *torch.autograd.grad(module(*inputs)[0].square().sum(), [*module.parameters()])]
        for module in (ours, theirs)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_take_the_levels_in_turn():
    """Eq. (4): layer 1 attends to f_2, layer 2 to f_3, layer 3 to f_1."""
    mask_features, pyramid = make_features(5)
    audio = torch.randn(1, 5, 10)
    for layers, used in ((1, {1}), (2, {1, 2}), (3, {0, 1, 2})):
        decoder = make_decoder(dec_layers=layers).eval()
        plain = decoder(mask_features, pyramid, audio)["pred_logits"]
        for level in range(3):
            changed = [f + 1 if i == level else f for i, f in enumerate(pyramid)]
            same = torch.allclose(decoder(mask_features, changed, audio)["pred_logits"], plain)
            assert same is (level not in used)


@pytest.mark.parametrize("hidden_dim", [16, 256])
@pytest.mark.parametrize("layers", [(1, 3), (3, 9)])
def test_mask_logits_start_unsaturated_whatever_the_width_and_depth(hidden_dim: int, layers: tuple[int, int]):
    decoder = make_decoder(
        hidden_dim=hidden_dim, conv_dim=hidden_dim, num_queries=20, enc_layers=layers[0], dec_layers=layers[1]
    )
    features = [torch.randn(4, hidden_dim, size, size).relu() for size in (1, 2, 4, 16)]
    outputs = decoder(features[-1], features[:-1], torch.rand(1, 4, 10))
    assert 0.2 < outputs["pred_masks"].std() < 2
    saturated = (outputs["pred_masks"].sigmoid() - 0.5).abs() > 0.49
    assert saturated.float().mean() < 0.001


def test_queries_with_content_of_their_own_span_more_than_one_direction():
    audio = torch.rand(1, 5, 10)
    for content_std, least, most in ((0.0, 0.99, 1.01), (0.3, 0.1, 0.9)):
        queries = make_decoder(num_queries=30, content_std=content_std, enc_layers=0).audio_queries(audio)[2]
        strengths = torch.linalg.svdvals(queries).square()
        assert least < strengths[0] / strengths.sum() < most


def test_sine_positions_differ_and_have_unit_range():
    positions = sine_positions(3, 5, 8, torch.device("cpu"))
    assert positions.shape == (15, 8)
    assert positions.abs().max() <= 1
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.1
    grid = positions.view(3, 5, 8)
    assert torch.equal(grid[:, 0, :4], grid[:, 3, :4])  # rows in the first half
    assert torch.equal(grid[0, :, 4:], grid[2, :, 4:])


def test_picked_frames_equal_all_frames_picked_afterwards():
    decoder = make_decoder(audio_context=1, deep_supervision=False).eval()
    mask_features, pyramid = make_features(10)
    audio, frames = torch.randn(2, 5, 10), torch.tensor([0, 3, 7])
    everything = decoder(mask_features, pyramid, audio)
    picked = decoder(mask_features[frames], [level[frames] for level in pyramid], audio, frames)
    for name, value in picked.items():
        torch.testing.assert_close(value, everything[name][frames])


def test_masks_are_the_products_of_queries_and_projected_features():
    """Eq. (7) as it is written: W_2 applied to f_4."""
    decoder = make_decoder().eval()
    nn.init.normal_(decoder.mask_projection.bias)
    mask_features, _ = make_features(3)
    fused = torch.randn(3, 4, 16)
    projected = decoder.mask_projection(mask_features.permute(0, 2, 3, 1))
    expected = torch.einsum("fnd,fhwd->fnhw", fused, projected)
    torch.testing.assert_close(decoder.predict(fused, mask_features)["pred_masks"], expected, rtol=1e-4, atol=1e-4)


def test_decoder_settings_that_do_not_fit():
    with pytest.raises(AVSInputError, match="QUERY_MODE is 'second': choose from clip, frame"):
        make_decoder(query_mode="second")
    with pytest.raises(AVSInputError, match=r"CONVS_DIM is 8 and MODEL\.TRANSAVS\.HIDDEN_DIM 16"):
        make_decoder(conv_dim=8)


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_follow_eqs_14_and_15_pixel_by_pixel(classes: int):
    logits, masks = torch.randn(2, 6, classes), torch.randn(2, 6, 4, 3)
    scores = semantic_inference(logits, masks, masks.shape[-2:])
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 4, 3))
    p, m = logits.softmax(-1), masks.sigmoid()
    for f in range(2):
        for y in range(4):
            for x in range(3):
                votes = [(p[f, i].max() * m[f, i, y, x]).item() for i in range(6)]
                winner = p[f, votes.index(max(votes))].argmax()
                assert scores[f, :, y, x].argmax() == winner
                if classes == 2:
                    assert (scores[f, 1, y, x] > 0.5) == (winner == 1)


def test_inference_does_not_depend_on_the_batch(tiny_cfg, ms3_records: list[dict]):
    model = build_model(tiny_cfg).eval()
    clips = load_clips(tiny_cfg, ms3_records, is_train=False)
    with torch.no_grad():
        together, alone = model(clips), [model([clip])[0] for clip in clips]
        images = model.normalize(torch.stack([clip["images"] for clip in clips[:2]]))
        segmented = model.segment(images, torch.stack(model.audio_embeddings(clips[:2])))
    assert segmented.shape == (2, 5, 2, 32, 32)
    for one, other in zip(together, alone, strict=True):
        assert one["sem_seg"].shape == (5, 2, 40, 40)
        torch.testing.assert_close(one["sem_seg"], other["sem_seg"], rtol=1e-4, atol=1e-5)


def test_the_audio_of_a_frame_is_its_own_second(tiny_cfg, ms3_records: list[dict]):
    model = build_model(tiny_cfg).eval()
    clip = load_clips(tiny_cfg, ms3_records[:1], is_train=False)[0]
    images, masks = model.normalize(clip["images"]), []
    for change in (0, 3):
        clip["log_mel"][2] += change
        with torch.no_grad():
            masks.append(model.predict(images, torch.stack(model.audio_embeddings([clip])))["pred_masks"])
    same = [torch.equal(a, b) for a, b in zip(*masks, strict=True)]
    assert same == [True, True, False, True, True]


def test_gradients_reach_every_parameter(tiny_cfg, ms3_records: list[dict]):
    tiny_cfg.MODEL.TRANSAVS.AQDL_THRESHOLD = tiny_cfg.MODEL.TRANSAVS.AQML_THRESHOLD = [0.0, 0.0]
    tiny_cfg.MODEL.TRANSAVS.AQDL_DISTANCE = 1e4
    model = build_model(tiny_cfg).train()
    losses = model(load_clips(tiny_cfg, ms3_records, is_train=True))
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_mixed_precision_gives_nearly_the_same_losses(tiny_cfg, ms3_records: list[dict]):
    tiny_cfg.MODEL.TRANSAVS.QUERY_TARGET = "fixed"  # other rules may decide a tie between queries otherwise
    model = build_model(tiny_cfg).train()
    clips = load_clips(tiny_cfg, ms3_records, is_train=True)
    exact = {name: value.item() for name, value in model(clips).items()}
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(clips)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    for name in ("loss_mask", "loss_dice", "loss_query_mask", "loss_query_dice", "loss_aqml"):
        assert losses[name].item() == pytest.approx(exact[name], rel=0.1, abs=0.01)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_only_labeled_frames_take_part_in_training(tiny_cfg, ms3_records: list[dict]):
    tiny_cfg.INPUT.TRAIN_FRAMES = 0
    model = build_model(tiny_cfg).train()
    clips = load_clips(tiny_cfg, ms3_records, is_train=True)
    for clip in clips:
        for name in ("labeled_frames", "masks", "objects"):
            clip[name] = clip[name][:1]
    before = model(clips)
    for clip in clips:
        clip["images"][1:] = 0
    after = model(clips)
    assert {name: value.item() for name, value in before.items()} == {n: v.item() for n, v in after.items()}


def test_only_seconds_that_labeled_frames_hear_are_embedded(tiny_cfg, ms3_records: list[dict]):
    tiny_cfg.INPUT.TRAIN_FRAMES = 2
    clips = load_clips(tiny_cfg, ms3_records[:3], is_train=True)
    model = build_model(tiny_cfg).train()
    model.audio_backbone.eval()  # in training a batch norm looks at all that it is given
    embedded: list[int] = []
    model.audio_backbone.register_forward_pre_hook(lambda _, inputs: embedded.append(len(inputs[0])))
    losses = model(clips)
    sum(losses.values()).backward()
    gradient = model.audio_backbone.embedding.weight.grad.clone()
    model.zero_grad()

    whole = torch.stack(model.audio_embeddings(clips))
    model.heard_embeddings = lambda _: whole
    expected = model(clips)
    sum(expected.values()).backward()
    assert embedded == [6, 15]
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, model.audio_backbone.embedding.weight.grad)


@pytest.mark.parametrize("query_mode", ["frame", "clip"])
def test_clips_of_several_lengths_in_a_batch(tiny_cfg, tiny_datasets: Path, query_mode: str):
    """Inference is that of each clip alone, training that of the labeled frames alone, whatever pads the shorter."""
    tiny_cfg.merge_from_list(["INPUT.NUM_FRAMES", 10, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 71])
    tiny_cfg.MODEL.TRANSAVS.QUERY_MODE = query_mode
    records = load_avsbench(tiny_datasets / "synthetic/AVSBench_semantic", "avss", "test")
    model = build_model(tiny_cfg).eval()
    clips = load_clips(tiny_cfg, records, is_train=False)
    assert {len(clip["images"]) for clip in clips} == {5, 10}
    with torch.no_grad():
        for clip, output in zip(clips, model(clips), strict=True):
            assert output["sem_seg"].shape == (len(clip["images"]), 71, 40, 40)
            torch.testing.assert_close(output["sem_seg"], model([clip])[0]["sem_seg"], rtol=1e-4, atol=1e-5)
    losses = model.train()(load_clips(tiny_cfg, records, is_train=True))
    assert all(value.isfinite() for value in losses.values())


def test_frames_of_several_sizes_in_a_batch(tiny_cfg, ms3_records: list[dict]):
    model = build_model(tiny_cfg).eval()
    clips = load_clips(tiny_cfg, ms3_records[:2], is_train=False)
    clips[0]["images"] = clips[0]["images"][..., :16]
    with pytest.raises(AVSInputError, match="batch frames of one size"):
        model(clips)


@pytest.mark.parametrize(
    "path", sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base")), ids=lambda p: p.stem
)
def test_every_config_builds(path: Path):
    cfg = load_config(path, ["MODEL.DEVICE", "meta", "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.WEIGHTS", ""])
    cfg.MODEL.AUDIO_BACKBONE.WEIGHTS = ""
    with torch.device("meta"):
        model = build_model(cfg)
    checkpoint_activations(model, cfg.MODEL.ACTIVATION_CHECKPOINTING)
    assert type(model).__name__ == cfg.MODEL.META_ARCHITECTURE
    assert cfg.OUTPUT_DIR.startswith("output/")


PATTERNS = ["backbone.res?", "query_decoder.decoder.*", "criterion.segmentation", "backbone.*.0"]


def test_checkpointed_activations_change_memory_and_nothing_else(tiny_cfg, ms3_records: list[dict]):
    tiny_cfg.MODEL.RESNETS.NORM = "BN"
    tiny_cfg.MODEL.RESNETS.BASIC_CHANNELS = [32, 64, 96, 128]
    clips = load_clips(tiny_cfg, ms3_records, is_train=True)
    losses, gradients, statistics, saved = [], [], [], []
    for patterns in ([], PATTERNS):
        torch.manual_seed(0)
        model = build_model(tiny_cfg).train()
        names = list(model.state_dict())
        checkpoint_activations(model, patterns)
        assert list(model.state_dict()) == names
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = model(clips)
        sum(found.values()).backward()
        losses.append({name: value.item() for name, value in found.items()})
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        statistics.append({name: b.clone() for name, b in model.named_buffers() if "running" in name})
        saved.append(sum(kept.values()))
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(statistics[0], statistics[1])
    assert any((value != 0).any() for name, value in statistics[0].items() if "mean" in name)
    assert saved[1] < 0.6 * saved[0]


def test_a_pattern_that_fits_no_module(tiny_cfg):
    with pytest.raises(AVSInputError, match=r"ACTIVATION_CHECKPOINTING: no module is called 'backbone\.layer\*'"):
        checkpoint_activations(build_model(tiny_cfg), ["backbone.layer*"])
