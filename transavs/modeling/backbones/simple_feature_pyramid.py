"""Features of several strides from the one map that a plain vision transformer ends with."""

import math
from collections.abc import Collection

from detectron2.layers import ShapeSpec
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
OUT_CHANNELS = 256


class SimpleFeaturePyramid(nn.Module):
    """Simple feature pyramid of ViTDet (Li et al. 2022, section 3): each level comes from the last map alone.

    The map is enlarged by deconvolutions of stride 2, with a layer norm and GELU between two of them, or shrunk by max
    pooling; then a 1x1 and a 3x3 convolution follow, each with a layer norm. Two things are added: a layer norm over
    the map, since timm leaves out the model's last one and DINO's tokens differ much in length; and where the patches
    are not 4, 8, 16 or 32 pixels wide, each level is interpolated to the size that its stride asks for.
    """

    def __init__(
        self, *, in_channels: int, patch_size: int, out_features: Collection[str], out_channels: int = OUT_CHANNELS
    ):
        """
        Args:
            in_channels: of the map.
            patch_size: stride of the map in pixels.
            out_features: names of the levels to give, of "res2" ... "res5".
            out_channels: of each level.
        """
        super().__init__()
        self._shapes = {
            name: ShapeSpec(channels=out_channels, stride=stride)
            for name, stride in STRIDES.items()
            if name in out_features
        }
        self.norm = LayerNorm2d(in_channels)
        self.resample = nn.ModuleDict()
        self.project = nn.ModuleDict()
        for name in self._shapes:
            doublings = round(math.log2(patch_size)) - round(math.log2(STRIDES[name]))
            self.resample[name] = _resample(in_channels, doublings)
            self.project[name] = nn.Sequential(
                nn.Conv2d(in_channels >> max(doublings, 0), out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )

    def forward(self, tokens: Tensor, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """
        Args:
            tokens: (F, in_channels, h, w), as many as there are patches.
            image_size: height and width in pixels, before anything was resized to whole patches.

        Returns:
            levels by name, (F, out_channels, height / stride, width / stride), rounded up.
        """
        tokens = self.norm(tokens)
        levels = {}
        for name, project in self.project.items():
            level = self.resample[name](tokens)
            size = tuple(-(-side // STRIDES[name]) for side in image_size)
            if level.shape[-2:] != size:
                level = F.interpolate(level, size=size, mode="bilinear")
            levels[name] = project(level)
        return levels

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Give channels and stride of each level by name."""
        return self._shapes


def _resample(channels: int, doublings: int) -> nn.Sequential:
    """Layers that double the size of a map so many times, halving its channels, or halve the size of it."""
    layers: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True) for _ in range(-doublings)]
    for step in range(doublings):
        if step:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return nn.Sequential(*layers)


def resize_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Resize images (F, C, H, W) so that their sides are the nearest multiples of the patch size, of one at least."""
    size = tuple(patch_size * max(round(side / patch_size), 1) for side in images.shape[-2:])
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear")
