"""TPAVI, AVSBench's temporal pixel-wise audio-visual interaction, in time and memory linear in the pixels.

Shape legend: F frames, P = H x W pixels, C channels, c inner channels, A audio channels, W windows.
"""

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from transavs.utils.precision import without_autocast


class TPAVIBlock(nn.Module):
    """Each pixel of a window of frames asks the sound, or the pixels, of the whole window.

    As published, theta phi^T / N is formed over all N = T H W pixels of a window, without a softmax, and applied to g.
    Without the softmax the product may be taken from the right, theta (phi^T g / N), a c x c matrix per window. Two
    things follow. The sound's phi is the same in all pixels of a frame, so phi^T g needs only the mean of g over each
    frame, which is g of the mean. And theta, that matrix and the output projection are together one C x C map of the
    pixels. The result is the same to rounding.

    Under autocast the block computes in float32 all the same, a few percent of what the decoder computes: its answers
    are cubic in the features and phi^T g is a sum over all pixels, for which 16 bits have too little range or too few
    digits.
    """

    def __init__(self, *, channels: int, inner_channels: int, audio_dim: int, audio_bias: bool, norm: str):
        """
        Args:
            channels: C of the features.
            inner_channels: c of theta, phi and g.
            audio_dim: A.
            audio_bias: whether the projection of the sound has a bias, as in AVSBench's S4 and MS3 models and not in
                its AVSS model.
            norm: after the output projection, as detectron2's ``get_norm`` takes it; starts at zero.
        """
        super().__init__()
        self.align_channel = nn.Linear(audio_dim, channels, bias=audio_bias)
        self.theta = nn.Linear(channels, inner_channels)
        self.phi = nn.Linear(channels, inner_channels)
        self.g = nn.Linear(channels, inner_channels)
        self.output = nn.Linear(inner_channels, channels)
        self.output_norm = get_norm(norm, channels)
        nn.init.zeros_(self.output_norm.weight)  # the block starts as its layer norm
        nn.init.zeros_(self.output_norm.bias)
        self.layer_norm = nn.LayerNorm(channels)

    def forward(
        self, visual: Tensor, windows: Tensor, num_windows: int, audio: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            visual: (F, C, H, W); channels last saves a copy.
            windows: int64 (F,), the window that each frame belongs to, below ``num_windows``.
            num_windows: W.
            audio: (F, A); without it the pixels ask each other.

        Returns:
            (F, C, H, W), and the projected sound (F, C) or None.
        """
        own = self.theta.weight.dtype
        with without_autocast(visual.device):
            return self.interact(visual.to(own), windows, num_windows, None if audio is None else audio.to(own))

    def interact(
        self, visual: Tensor, windows: Tensor, num_windows: int, audio: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`forward` in the type of the arguments, which is that of the weights."""
        pixels = visual.permute(0, 2, 3, 1).flatten(1, 2)
        projected = None
        if audio is None:
            products = self.phi(pixels).mT @ self.g(pixels) / pixels.shape[1]
        else:
            projected = self.align_channel(audio)
            products = self.phi(projected)[:, :, None] * self.g(pixels.mean(1))[:, None]
        # Means over the frames of each window as one product: index_add is not deterministic on GPUs, and ONNX Runtime,
        # which runs it in several threads, loses some of what is added.
        members = (windows == torch.arange(num_windows, device=windows.device)[:, None]).to(products.dtype)
        shares = members / members.sum(1, keepdim=True).clamp(min=1)
        mixed = (shares @ products.flatten(1)).unflatten(1, products.shape[1:]) @ self.output.weight.T
        mapping = (self.theta.weight.T @ mixed)[windows]
        offset = (self.theta.bias @ mixed + self.output.bias)[windows]
        answers = torch.baddbmm(offset[:, None], pixels, mapping).mT.unflatten(2, visual.shape[2:])
        features = visual + self.output_norm(answers)
        return self.layer_norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), projected
