"""AVSBench's TPAVI written out as its checkpoint has it: the reference that converted weights must equal.

Parameter names are the checkpoint's; the interaction is formed as a matrix of all pixels by all pixels.
"""

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from helpers.published_pvt import WIDTHS, PublishedPVT

CHANNELS = 256


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        body = torchvision.models.resnet50()
        self.conv1, self.bn1, self.layer1, self.layer2 = body.conv1, body.bn1, body.layer1, body.layer2
        self.layer3_1, self.layer4_1 = body.layer3, body.layer4
        second = torchvision.models.resnet50()
        self.layer3_2, self.layer4_2 = second.layer3, second.layer4  # never used

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        levels = []
        for layer in (self.layer1, self.layer2, self.layer3_1, self.layer4_1):
            x = layer(x)
            levels.append(x)
        return levels


class Dilated(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.conv2d_list = nn.ModuleList(nn.Conv2d(inputs, CHANNELS, 3, padding=d, dilation=d) for d in (3, 6, 12, 18))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(convolution(x) for convolution in self.conv2d_list)


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(x)
        return self.conv2(self.relu(self.conv1(out))) + x


class Path(nn.Module):
    def __init__(self):
        super().__init__()
        self.resConfUnit1, self.resConfUnit2 = Unit(), Unit()

    def forward(self, x: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        if level is not None:
            x = x + self.resConfUnit1(level)
        return F.interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True)


class Interaction(nn.Module):
    def __init__(self, audio_bias: bool):
        super().__init__()
        inner = CHANNELS // 2
        self.align_channel = nn.Linear(128, CHANNELS, bias=audio_bias)
        self.norm_layer = nn.LayerNorm(CHANNELS)
        self.g, self.theta, self.phi = (nn.Conv3d(CHANNELS, inner, 1) for _ in range(3))
        self.W_z = nn.Sequential(nn.Conv3d(inner, CHANNELS, 1), nn.BatchNorm3d(CHANNELS))

    def forward(self, x: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) and (B, T, 128) -> (B, C, T, H, W)."""
        sound = self.align_channel(audio).transpose(1, 2)[..., None, None].expand_as(x)
        theta, phi, g = self.theta(x).flatten(2), self.phi(sound).flatten(2), self.g(x).flatten(2)
        attention = theta.transpose(1, 2) @ phi / phi.shape[-1]
        attended = (attention @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        z = self.W_z(attended) + x
        return self.norm_layer(z.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class PublishedTPAVI(nn.Module):
    def __init__(self, outputs: int, audio_bias: bool, encoder: str = "resnet", frames: int = 5):
        """``encoder``: "resnet" (R50) or "encoder_backbone" (PVT-v2-b5), as the parameters' names begin."""
        super().__init__()
        self.frames, self.encoder = frames, encoder
        self.add_module(encoder, Encoder() if encoder == "resnet" else PublishedPVT())
        for number, inputs in enumerate((256, 512, 1024, 2048) if encoder == "resnet" else WIDTHS, start=1):
            self.add_module(f"conv{number}", Dilated(inputs))
            self.add_module(f"path{number}", Path())
            self.add_module(f"tpavi_b{number}", Interaction(audio_bias))
        self.output_conv = nn.Sequential(
            nn.Conv2d(CHANNELS, 128, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(128, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, outputs, 1),
        )

    def forward(self, images: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """Frames (F, 3, S, S) and (F, 128) -> logits (F, outputs, S, S)."""
        levels = []
        for number, features in enumerate(getattr(self, self.encoder)(images), start=1):
            level = getattr(self, f"conv{number}")(features).unflatten(0, (-1, self.frames)).transpose(1, 2)
            level = getattr(self, f"tpavi_b{number}")(level, audio.unflatten(0, (-1, self.frames)))
            levels.append(level.transpose(1, 2).flatten(0, 1).contiguous())
        fused = self.path4(levels[3])
        for number in (3, 2, 1):
            fused = getattr(self, f"path{number}")(fused, levels[number - 1])
        return self.output_conv(fused)


def direct_interaction(block: nn.Module, visual: torch.Tensor, audio: torch.Tensor | None) -> torch.Tensor:
    """A :class:`transavs.modeling.tpavi.block.TPAVIBlock` in the published form.

    Args:
        block: whose parameters to use.
        visual: clips (B, T, C, H, W).
        audio: (B, T, A), copied to every pixel; or None.

    Returns:
        (B * T, C, H, W), by way of a THW x THW matrix per clip.
    """
    clips, frames, channels, height, width = visual.shape
    flat = visual.flatten(0, 1)
    asked = flat
    if audio is not None:
        projected = F.linear(audio, block.align_channel.weight, block.align_channel.bias)
        asked = projected.flatten(0, 1)[..., None, None].expand(-1, -1, height, width)

    def pixels(layer: nn.Linear, features: torch.Tensor) -> torch.Tensor:
        return layer(features.permute(0, 2, 3, 1)).unflatten(0, (clips, frames)).flatten(1, 3)

    theta, phi, g = pixels(block.theta, flat), pixels(block.phi, asked), pixels(block.g, flat)
    attention = theta @ phi.transpose(1, 2) / (frames * height * width)
    attended = block.output(attention @ g).unflatten(1, (frames, height, width)).permute(0, 1, 4, 2, 3)
    features = flat + block.output_norm(attended.flatten(0, 1))
    return F.layer_norm(
        features.permute(0, 2, 3, 1), (channels,), block.layer_norm.weight, block.layer_norm.bias
    ).permute(0, 3, 1, 2)
