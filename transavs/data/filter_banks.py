"""Front-ends of the published audio transformers: AST's and AudioMAE's filter bank, and CLAP's."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F
from torchaudio.compliance import kaldi

from transavs.data.front_ends import AUDIO_FRONT_END_REGISTRY, AudioFrontEnd
from transavs.utils.errors import AVSInputError


@AUDIO_FRONT_END_REGISTRY.register()
@dataclass(frozen=True)
class KaldiFilterBank(AudioFrontEnd):
    """Kaldi's filter bank of 128 bands with AudioSet's mean and deviation, as AST (Gong et al. 2021) takes it.

    Attributes:
        multiple: that the number of frames is brought up to, with zeros before the normalization, as published.
    """

    multiple: int = 1

    sample_rate: ClassVar[int] = 16000
    window: ClassVar[int] = 400
    hop: ClassVar[int] = 160
    bands: ClassVar[int] = 128
    mean: ClassVar[float] = -4.2677393
    deviation: ClassVar[float] = 4.5689974

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.multiple, int) or not 1 <= self.multiple <= self.bands:
            raise AVSInputError(f"a filter bank of multiples of {self.multiple!r} frames: give 1 to {self.bands}")

    @property
    def shape(self) -> tuple[int, ...]:
        frames = 1 + (self.samples - self.window) // self.hop
        return (1, math.ceil(frames / self.multiple) * self.multiple, self.bands)

    def example(self, sound: Tensor) -> Tensor:
        energies = kaldi.fbank(
            sound[None].float(),
            sample_frequency=self.sample_rate,
            window_type="hanning",
            num_mel_bins=self.bands,
        )
        energies = F.pad(energies, (0, 0, 0, self.shape[1] - len(energies)))
        return ((energies - self.mean) / (2 * self.deviation))[None]


@AUDIO_FRONT_END_REGISTRY.register()
@dataclass(frozen=True)
class ClapLogMel(AudioFrontEnd):
    """CLAP's 64 mel bands in dB at 48 kHz (Wu et al. 2023), of sound that is followed by silence up to 10 s.

    Its own feature extractor would repeat short sound, and cut pieces from long sound at random.
    """

    sample_rate: ClassVar[int] = 48000
    max_context: ClassVar[float] = 4.5
    whole: ClassVar[int] = 480_000  # samples
    window: ClassVar[int] = 1024
    hop: ClassVar[int] = 480
    bands: ClassVar[int] = 64
    highest: ClassVar[float] = 14000.0  # Hz
    floor: ClassVar[float] = 1e-10  # power

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 1 + self.whole // self.hop, self.bands)

    def example(self, sound: Tensor) -> Tensor:
        power = torchaudio.functional.spectrogram(
            F.pad(sound.double(), (0, self.whole - len(sound))),
            pad=0,
            window=torch.hann_window(self.window, dtype=torch.float64),
            n_fft=self.window,
            hop_length=self.hop,
            win_length=self.window,
            power=2.0,
            normalized=False,
        )
        mel = power.T @ _clap_filters(self.window // 2 + 1, self.highest, self.bands, self.sample_rate)
        return 10 * mel.clamp(min=self.floor).log10().float()[None]


@lru_cache(maxsize=1)
def _clap_filters(bins: int, highest: float, bands: int, sample_rate: int) -> Tensor:
    """float64 (bins, bands), of unit area, on Slaney's scale."""
    filters = torchaudio.functional.melscale_fbanks(bins, 0.0, highest, bands, sample_rate, "slaney", "slaney")
    return filters.double()
