"""Published Mask2Former checkpoints: what is made of them computes what Mask2Former's parts compute."""

import pickle
import re
import shlex
from pathlib import Path

import pytest
import safetensors.torch
import torch
from detectron2.modeling import build_backbone, build_model
from helpers.msdeformattn import CHANNELS, make_pixel_decoder, make_visual_features, randomize
from helpers.repository import REPOSITORY
from torch import Tensor, nn
from torch.nn import functional as F

from transavs import AVSInputError
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.convert import convert_weights
from transavs.config.load import load_config
from transavs.modeling.transavs.query_decoder import AttentionLayer

DIM, HEADS, FEEDFORWARD, LAYERS = 32, 4, 48, 9  # of Mask2Former's query decoder here; published ones have 9 layers too
# What a file does not tell, of a network that is small.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"),
    *("MODEL.AUDIO_BACKBONE.NAME", "SmallAudioNet", "MODEL.AUDIO_BACKBONE.WEIGHTS", ""),
    *("MODEL.TRANSAVS.NHEADS", str(HEADS), "MODEL.MSDEFORMATTN.NHEADS", str(HEADS)),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "4", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
]
PARTS = ("backbone.", "pixel_decoder.", "query_decoder.decoder.", "query_decoder.level_embedding")


def make_predictor() -> dict[str, Tensor]:
    """Mask2Former's query decoder at random, by the names of its repository."""
    shapes = {
        "query_feat.weight": (7, DIM),
        "query_embed.weight": (7, DIM),
        "level_embed.weight": (3, DIM),
        "class_embed.weight": (4, DIM),
        "mask_embed.layers.0.weight": (DIM, DIM),
        "decoder_norm.weight": (DIM,),
    }
    for layer in range(LAYERS):
        for kind, attention in (("self", "self_attn"), ("cross", "multihead_attn")):
            prefix = f"transformer_{kind}_attention_layers.{layer}"
            shapes |= {f"{prefix}.{attention}.in_proj_weight": (3 * DIM, DIM), f"{prefix}.norm.weight": (DIM,)}
            shapes |= {f"{prefix}.{attention}.in_proj_bias": (3 * DIM,), f"{prefix}.norm.bias": (DIM,)}
            shapes |= {f"{prefix}.{attention}.out_proj.weight": (DIM, DIM)}
            shapes |= {f"{prefix}.{attention}.out_proj.bias": (DIM,)}
        prefix = f"transformer_ffn_layers.{layer}"
        shapes |= {f"{prefix}.linear1.weight": (FEEDFORWARD, DIM), f"{prefix}.linear1.bias": (FEEDFORWARD,)}
        shapes |= {f"{prefix}.linear2.weight": (DIM, FEEDFORWARD), f"{prefix}.linear2.bias": (DIM,)}
        shapes |= {f"{prefix}.norm.weight": (DIM,), f"{prefix}.norm.bias": (DIM,)}
    return {f"sem_seg_head.predictor.{name}": torch.randn(shape) for name, shape in shapes.items()}


def make_published(backbone: dict[str, Tensor], pixel_decoder: nn.Module) -> dict[str, Tensor]:
    """A checkpoint as Mask2Former's repository names it."""
    state = {f"backbone.{name}": value for name, value in backbone.items()}
    state |= {f"sem_seg_head.pixel_decoder.{name}": value for name, value in pixel_decoder.state_dict().items()}
    return state | make_predictor() | {"criterion.empty_weight": torch.ones(4)}


def write(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=2))
    else:
        torch.save({"model": state, "iteration": 1}, path)


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """A TransAVS on ResNet-50 whose backbone and pixel decoder are as after training."""
    torch.manual_seed(0)
    settings = [
        *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder", "MODEL.MSDEFORMATTN.ENC_LAYERS", "2"),
        *("MODEL.MSDEFORMATTN.DIM_FEEDFORWARD", "40", "MODEL.TRANSAVS.DIM_FEEDFORWARD", str(FEEDFORWARD)),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", str(DIM), "MODEL.TRANSAVS.HIDDEN_DIM", str(DIM)),
    ]
    model = build_model(load_config(REPOSITORY / "configs/s4_r50.yaml", [*SMALL, *settings])).eval()
    randomize(model.pixel_decoder)
    return model


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_checkpoints_of_the_repository_compute_the_same(tmp_path: Path, source: nn.Module, run_here, suffix: str):
    theirs = make_published(source.backbone.state_dict(), source.pixel_decoder)
    write(theirs, tmp_path / f"in{suffix}")
    done = run_here("tools/convert_weights.py", "mask2former", tmp_path / f"in{suffix}", tmp_path / "out.pth")
    assert done.returncode == 0, done.stderr
    assert "criterion.empty_weight" not in done.stdout  # after the twentieth of those that are not used
    assert "layers 2 to 7" in done.stdout
    # What it tells the user to add makes another config one for these weights.
    settings = shlex.split(done.stdout.splitlines()[-1].removeprefix("train with: "))
    cfg = load_config(REPOSITORY / "configs/s4_swinb.yaml", [*SMALL, "INPUT.FORMAT", "BGR", *settings])
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.DEPTH) == ("RGB", 50)
    model = build_model(cfg).eval()
    AVSCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = source.pixel_decoder.forward_features(source.backbone(images))
        torch.testing.assert_close(model.pixel_decoder.forward_features(model.backbone(images)), expected)
    assert expected[0].std() > 1e-3
    converted = torch.load(tmp_path / "out.pth", weights_only=True)
    assert converted.keys() == {name for name in model.state_dict() if name.startswith(PARTS)}


def test_what_is_used_and_what_is_not(tmp_path: Path):
    theirs = make_published({}, make_pixel_decoder())
    write(theirs, tmp_path / "in.pth")
    conversion = convert_weights("mask2former", tmp_path / "in.pth", tmp_path / "out.pth")
    unused = r"criterion\.|sem_seg_head\.predictor\.(query_|class_embed|mask_embed|decoder_norm|transformer_self)"
    others = [name for name in conversion.unused if not re.match(unused, name)]
    assert {name.split(".")[3] for name in others} == {"0", "7", "8"}  # layers of cross-attention and feed-forward
    assert len(conversion.state) + len(conversion.unused) == len(theirs)
    assert not any(setting.startswith("MODEL.BACKBONE") for setting in conversion.settings)
    # Files from before pixel decoders had a name of their own.
    older = {name.replace(".pixel_decoder.", "."): value for name, value in theirs.items()}
    write(older, tmp_path / "older.pth")
    state = convert_weights("mask2former", tmp_path / "older.pth", tmp_path / "out.pth").state
    assert state.keys() == conversion.state.keys()


def test_decoder_layers_are_those_of_the_same_level(tmp_path: Path):
    """Each layer is cross-attention and feed-forward network of a layer of Mask2Former's that sees the same level."""
    torch.manual_seed(0)
    theirs = make_predictor()
    write(theirs, tmp_path / "in.pth")
    state = convert_weights("mask2former", tmp_path / "in.pth", tmp_path / "out.pth").state
    assert torch.equal(state["query_decoder.level_embedding"], theirs["sem_seg_head.predictor.level_embed.weight"])
    queries, positions, keys, values = (torch.randn(size, DIM) for size in (5, 5, 11, 11))
    for number in range(6):
        level = (number + 1) % 3  # eq. (4); Mask2Former's first layer sees level 0
        same = [layer for layer in range(LAYERS) if layer % 3 == level]
        layer = AttentionLayer(DIM, HEADS, FEEDFORWARD, 0.0)
        layer.load_state_dict(strip(state, f"query_decoder.decoder.{number}."))
        found = layer(queries[None], positions, keys[None], values[None])[0]
        candidates = [cross_attend(theirs, one, queries, positions, keys, values) for one in same]
        assert any(torch.allclose(found, candidate, rtol=1e-4, atol=1e-4) for candidate in candidates)


def strip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def cross_attend(
    theirs: dict[str, Tensor], layer: int, queries: Tensor, positions: Tensor, keys: Tensor, values: Tensor
):
    """A layer of Mask2Former's query decoder without its mask and its self-attention."""
    prefix = "sem_seg_head.predictor.transformer_"
    cross = strip(theirs, f"{prefix}cross_attention_layers.{layer}.")
    ffn = strip(theirs, f"{prefix}ffn_layers.{layer}.")
    attention = nn.MultiheadAttention(DIM, HEADS)
    attention.load_state_dict(strip(cross, "multihead_attn."))
    attended = attention(queries + positions, keys, values)[0]
    queries = F.layer_norm(queries + attended, (DIM,), cross["norm.weight"], cross["norm.bias"])
    hidden = F.linear(queries, ffn["linear1.weight"], ffn["linear1.bias"]).relu()
    hidden = F.linear(hidden, ffn["linear2.weight"], ffn["linear2.bias"])
    return F.layer_norm(queries + hidden, (DIM,), ffn["norm.weight"], ffn["norm.bias"])


def swin_of_the_repository(backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of timm's Swin by the names of Mask2Former's, where a level ends with what timm begins the next with."""
    state = {}
    for name, value in backbone.state_dict().items():
        name = name.removeprefix("body.")
        if found := re.match(r"layers_(\d)\.(downsample)?", name):
            level = int(found[1]) - (found[2] is not None)
            name = f"layers.{level}.{name.removeprefix(f'layers_{found[1]}.')}"
        elif found := re.match(r"norms\.res(\d)\.", name):
            name = f"norm{int(found[1]) - 2}.{name.removeprefix(found[0])}"
        state[name] = value
    return state | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}


def test_a_swin_of_the_repository_computes_the_same(tmp_path: Path):
    torch.manual_seed(0)
    name = ["MODEL.TIMM.NAME", "swin_tiny_patch4_window7_224", "MODEL.TIMM.OUT_NORM", "LN"]
    swin = build_backbone(load_config(REPOSITORY / "configs/s4_swinb.yaml", [*SMALL, *name])).eval()
    write(make_published(swin_of_the_repository(swin), make_pixel_decoder()), tmp_path / "in.pth")
    conversion = convert_weights("mask2former", tmp_path / "in.pth", tmp_path / "out.pth")
    assert "backbone.layers.0.blocks.0.attn.relative_position_index" in conversion.unused
    cfg = load_config(REPOSITORY / "configs/s4_r50.yaml", [*SMALL, *conversion.settings])
    assert (cfg.MODEL.TIMM.NAME, cfg.INPUT.IMAGE_SIZE) == ("swin_tiny_patch4_window7_224", 224)
    ours = build_backbone(cfg).eval()
    ours.load_state_dict(strip(conversion.state, "backbone."))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), swin(images))
    odd = {name: value for name, value in swin_of_the_repository(swin).items() if not name.startswith("layers.2.")}
    write(make_published(odd, make_pixel_decoder()), tmp_path / "in.pth")
    with pytest.raises(AVSInputError, match="timm has no Swin of 96 channels, 0 blocks in its third level"):
        convert_weights("mask2former", tmp_path / "in.pth", tmp_path / "out.pth")


def hugging_face_model() -> nn.Module:
    """Their model with a whole Swin-T and small decoders, at random everywhere."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        depths=[2, 2, 6, 2], drop_path_rate=0.0, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=DIM,
        mask_feature_size=DIM,
        hidden_dim=DIM,
        num_attention_heads=HEADS,
        encoder_layers=2,
        encoder_feedforward_dim=40,
        dim_feedforward=FEEDFORWARD,
        decoder_layers=LAYERS + 1,
        num_queries=7,
    )
    model = transformers.Mask2FormerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    randomize(model.pixel_level_module.decoder)
    return model


def test_hugging_faces_pixel_decoder_computes_the_same(tmp_path: Path):
    """Theirs on features of any sizes, against ours alone with the weights converted."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        feature_size=DIM, mask_feature_size=DIM, num_attention_heads=HEADS, encoder_layers=2, encoder_feedforward_dim=48
    )
    theirs = Mask2FormerPixelDecoder(config, feature_channels=list(CHANNELS.values())).eval()
    randomize(theirs)
    state = {f"model.pixel_level_module.decoder.{name}": value for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "in.bin")
    conversion = convert_weights("mask2former", tmp_path / "in.bin", tmp_path / "out.pth")
    assert conversion.unused == []
    ours = make_pixel_decoder().eval()
    ours.load_state_dict(strip(conversion.state, "pixel_decoder."))
    features = make_visual_features(height=96, width=160)
    with torch.no_grad():
        expected = theirs(
            list(features.values()), return_dict=True, output_attentions=False, output_hidden_states=False
        )
        mask_features, pyramid = ours.forward_features(features)
    torch.testing.assert_close(mask_features, expected.mask_features, rtol=1e-4, atol=1e-4)
    for level, other in zip(pyramid, expected.multi_scale_features, strict=True):
        torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)
    assert mask_features.std() > 0.1


@pytest.mark.slow
def test_hugging_faces_checkpoints_compute_the_same(tmp_path: Path):
    theirs = hugging_face_model()
    theirs.save_pretrained(tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")  # by the names of published files
    named = {f"model.{name}": value for name, value in saved.items()} | {"class_predictor.bias": torch.zeros(4)}
    safetensors.torch.save_file(named, tmp_path / "in.safetensors")
    conversion = convert_weights("mask2former", tmp_path / "in.safetensors", tmp_path / "out.pth")
    torch.save({f"model.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / "memory.bin")
    other = convert_weights("mask2former", tmp_path / "memory.bin", tmp_path / "other.pth").state
    assert conversion.state.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in conversion.state.items())

    # Where windows divide every level and the coarsest has several; below, timm's Swin does not shift its last one.
    cfg = load_config(REPOSITORY / "configs/s4_r50.yaml", [*SMALL, *conversion.settings, "INPUT.IMAGE_SIZE", "448"])
    model = build_model(cfg).eval()
    AVSCheckpointer(model).load(str(tmp_path / "out.pth"))
    assert conversion.state.keys() == {name for name in model.state_dict() if name.startswith(PARTS)}
    images = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        # In 64 bits, so that only our own rounding counts.
        expected = theirs.double().pixel_level_module(images.double(), output_hidden_states=True)
        features = model.backbone(images)
        # Each part on the same input: rounding would add up, and the norms of Swin's outputs differ in their epsilon.
        their_features = dict(zip(features, map(torch.Tensor.float, expected.encoder_hidden_states), strict=True))
        mask_features, pyramid = model.pixel_decoder.forward_features(their_features)
    torch.testing.assert_close(features, their_features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mask_features, expected.decoder_last_hidden_state.float(), rtol=1e-4, atol=1e-4)
    decoded = [level.float() for level in expected.decoder_hidden_states]
    torch.testing.assert_close(pyramid, decoded, rtol=1e-4, atol=1e-4)
    assert mask_features.std() > 0.1
    cross = theirs.transformer_module.decoder.layers[3].cross_attn.in_proj_weight.float()
    assert torch.equal(conversion.state["query_decoder.decoder.2.attention.in_proj_weight"], cross)
