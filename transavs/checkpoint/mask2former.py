"""Published Mask2Former checkpoints (Cheng et al. 2022) -> weights that TransAVS starts from.

There are two kinds: of Mask2Former's repository, by detectron2's names, and of Hugging Face's
``Mask2FormerForUniversalSegmentation``, whose names are first turned into those of the other kind.
"""

import math
import re
from collections import Counter
from pathlib import Path

import torch

from transavs.checkpoint.conversion import IMAGENET_INPUT, Conversion, Rules, State, rename
from transavs.utils.errors import AVSInputError
from transavs.utils.weight_files import read_weights

PIXEL_PREFIX, QUERY_PREFIX = "pixel_decoder.", "query_decoder."
# Channels of a Swin's first level and blocks of its third -> its name at timm.
SWIN_NAMES = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}
SWIN_SIZES = {7: 224, 12: 384}  # window -> side of the image, in timm's names
RESNET_DEPTHS = {6: 50, 23: 101}  # blocks of res4 -> depth

HUGGING_FACE_RULES: Rules = (
    (r"^model\.(?=pixel_level_module\.|transformer_module\.)", ""),
    (
        r"^pixel_level_module\.encoder\.(swin\.)?embeddings\.patch_embeddings\.projection\.",
        "backbone.patch_embed.proj.",
    ),
    (r"^pixel_level_module\.encoder\.(swin\.)?embeddings\.norm\.", "backbone.patch_embed.norm."),
    (r"^pixel_level_module\.encoder\.(swin\.)?encoder\.layers\.", "backbone.layers."),
    (
        r"^pixel_level_module\.encoder\.hidden_states_norms\.stage([1-4])\.",
        lambda match: f"backbone.norm{int(match[1]) - 1}.",
    ),
    # A block of Swin, by the names in published files and by those in transformers' memory since version 5.
    (r"\.attention\.(self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self|relative_position_bias)\.relative_position_", ".attn.relative_position_"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^pixel_level_module\.decoder\.(level_embed$|encoder\.)", r"sem_seg_head.pixel_decoder.transformer.\1"),
    (r"^pixel_level_module\.decoder\.input_projections\.", "sem_seg_head.pixel_decoder.input_proj."),
    (r"^pixel_level_module\.decoder\.mask_projection\.", "sem_seg_head.pixel_decoder.mask_features."),
    (r"^pixel_level_module\.decoder\.(adapter|layer)_1\.0\.", r"sem_seg_head.pixel_decoder.\1_1."),
    (r"^pixel_level_module\.decoder\.(adapter|layer)_1\.1\.", r"sem_seg_head.pixel_decoder.\1_1.norm."),
    (r"(pixel_decoder.*)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(pixel_decoder.*)\.fc([12])\.", r"\1.linear\2."),
    (r"(pixel_decoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^transformer_module\.level_embed\.", "sem_seg_head.predictor.level_embed."),
    (
        r"^transformer_module\.decoder\.layers\.(\d+)\.(?=cross_attn)",
        r"sem_seg_head.predictor.transformer_cross_attention_layers.\1.",
    ),
    (r"(cross_attention_layers\.\d+)\.cross_attn\.", r"\1.multihead_attn."),
    (r"(cross_attention_layers\.\d+)\.cross_attn_layer_norm\.", r"\1.norm."),
    (
        r"^transformer_module\.decoder\.layers\.(\d+)\.(?=fc[12]\.|final_layer_norm\.)",
        r"sem_seg_head.predictor.transformer_ffn_layers.\1.",
    ),
    (r"(ffn_layers\.\d+)\.fc([12])\.", r"\1.linear\2."),
    (r"(ffn_layers\.\d+)\.final_layer_norm\.", r"\1.norm."),
)
OUR_RULES: Rules = (
    (r"^backbone\.patch_embed\.", "backbone.body.patch_embed."),
    (r"^backbone\.layers\.([0-3])\.blocks\.", r"backbone.body.layers_\1.blocks."),
    (  # which timm has at the begin of the next level
        r"^backbone\.layers\.([0-2])\.downsample\.",
        lambda match: f"backbone.body.layers_{int(match[1]) + 1}.downsample.",
    ),
    (r"^backbone\.norm([0-3])\.", lambda match: f"backbone.norms.res{int(match[1]) + 2}."),
    # Files from before the pixel decoder had a name of its own lack it.
    (r"^sem_seg_head\.(pixel_decoder\.)?(?=(input_proj|transformer|adapter_1|layer_1|mask_features)\.)", PIXEL_PREFIX),
    (r"^sem_seg_head\.predictor\.level_embed\.weight$", f"{QUERY_PREFIX}level_embedding"),
    (  # its first layer attends to the coarsest level, as our third; our first to the next, as its second
        r"^sem_seg_head\.predictor\.transformer_(cross_attention|ffn)_layers\.([1-6])\.",
        lambda match: f"{QUERY_PREFIX}decoder.{int(match[2]) - 1}.{match[1]}.",
    ),
    (r"\.cross_attention\.multihead_attn\.", ".attention."),
    (r"\.cross_attention\.norm\.", ".attention_norm."),
    (r"\.ffn\.linear1\.", ".feedforward.0."),
    (r"\.ffn\.linear2\.", ".feedforward.2."),
    (r"\.ffn\.norm\.", ".feedforward_norm."),
)
OURS = ("backbone.stem.", *(f"backbone.res{level}." for level in range(2, 6)), "backbone.body.", "backbone.norms.")
NO_WEIGHTS = "relative_position_index"  # which follows from the window's size
REMARKS = (
    "the query decoder starts from the cross-attention and feed-forward networks of Mask2Former's layers 2 to 7, which "
    "look at the same levels as our 1 to 6",
    "it does not compute what Mask2Former does: its positions have their channels in another order, no masks guide its "
    "attention, and its queries attend to each other before these layers and not between them",
    "nothing is made of Mask2Former's queries, their self-attention, its classes and its mask head",
)


def convert_mask2former(path: str | Path, model: str | None) -> Conversion:
    """A published Mask2Former checkpoint, of its repository or of Hugging Face, for MODEL.WEIGHTS.

    Made are the backbone, a ResNet (of the repository's files alone) or a Swin as build_timm_backbone has it;
    MSDeformAttnPixelDecoder; and of AudioQueryDecoder its level embedding and the layers that eqs. (5) and (6) are of.

    Args:
        path: of the file, .pkl, .pth, .bin or .safetensors.
        model: is not used.

    Raises:
        AVSInputError: the file cannot be read, or its backbone is a Swin that timm lacks.
    """
    found = read_weights(path)
    names = {name: rename(rename(name, HUGGING_FACE_RULES), OUR_RULES) for name in found}
    used = {
        name: ours
        for name, ours in names.items()
        if ours.startswith((*OURS, PIXEL_PREFIX, QUERY_PREFIX)) and not ours.endswith(NO_WEIGHTS)
    }
    state = _join_attention({ours: found[name] for name, ours in used.items()})
    parts = Counter(name.split(".")[0] for name in state)
    made = "made: " + ", ".join(f"{number} of {part}" for part, number in parts.items())
    return Conversion(
        state,
        [name for name in found if name not in used],
        "MODEL.WEIGHTS",
        _backbone_settings(state) + _decoder_settings(state),
        (made, *REMARKS) if f"{QUERY_PREFIX}decoder.0.attention.in_proj_weight" in state else (made,),
    )


def _join_attention(state: State) -> State:
    """Join the three projections of each of Hugging Face's attentions to the one that detectron2's and timm's have."""
    joined = {}
    for name, value in state.items():
        if match := re.fullmatch(r"(.*\.attn\.)([qkv])(\.\w+)", name):
            if match[2] == "q":
                joined[f"{match[1]}qkv{match[3]}"] = torch.cat([state[f"{match[1]}{part}{match[3]}"] for part in "qkv"])
        else:
            joined[name] = value
    return joined


def _backbone_settings(state: State) -> tuple[str, ...]:
    levels = re.compile(r"backbone\.(?:res4|body\.layers_2\.blocks)\.(\d+)\.")
    blocks = len({match[1] for name in state if (match := levels.match(name))})
    if "backbone.stem.conv1.weight" in state:
        depth = ("MODEL.RESNETS.DEPTH", str(RESNET_DEPTHS[blocks])) if blocks in RESNET_DEPTHS else ()
        name = ("MODEL.BACKBONE.NAME", "build_resnet_backbone")
        return (*name, *depth, "MODEL.RESNETS.STRIDE_IN_1X1", "False", *IMAGENET_INPUT)
    if "backbone.body.patch_embed.proj.weight" not in state:
        return ()
    channels = len(state["backbone.body.patch_embed.proj.weight"])
    places = len(state["backbone.body.layers_0.blocks.0.attn.relative_position_bias_table"])
    window = (math.isqrt(places) + 1) // 2
    if (channels, blocks) not in SWIN_NAMES or window not in SWIN_SIZES:
        raise AVSInputError(
            f"timm has no Swin of {channels} channels, {blocks} blocks in its third level and windows of {window}: "
            "name a checkpoint with another backbone"
        )
    size = SWIN_SIZES[window]
    model = f"swin_{SWIN_NAMES[channels, blocks]}_patch4_window{window}_{size}"
    return (
        *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", model, "MODEL.TIMM.PRETRAINED", "False"),
        *("MODEL.TIMM.OUT_NORM", "LN", "INPUT.IMAGE_SIZE", str(size), *IMAGENET_INPUT),
    )


def _decoder_settings(state: State) -> tuple[str, ...]:
    settings: tuple[str, ...] = ()
    if (features := state.get(f"{PIXEL_PREFIX}mask_features.weight")) is not None:
        layers = {name.split(".")[4] for name in state if name.startswith(f"{PIXEL_PREFIX}transformer.encoder.layers.")}
        width = str(features.shape[0])
        settings += (
            *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder", "MODEL.SEM_SEG_HEAD.NORM", "GN"),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", width, "MODEL.TRANSAVS.HIDDEN_DIM", width),
            *("MODEL.MSDEFORMATTN.ENC_LAYERS", str(len(layers))),
        )
    for key, name in (
        ("MODEL.MSDEFORMATTN.DIM_FEEDFORWARD", f"{PIXEL_PREFIX}transformer.encoder.layers.0.linear1.bias"),
        ("MODEL.TRANSAVS.DIM_FEEDFORWARD", f"{QUERY_PREFIX}decoder.0.feedforward.0.bias"),
    ):
        if name in state:
            settings += (key, str(len(state[name])))
    return settings
