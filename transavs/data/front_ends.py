"""Audio front-ends: what audio backbones take of each second of sound, from files, arrays, noise or silence.

Shape legend: T seconds of a clip; an example is what a front-end makes of one of them, of any shape.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor
from torch.nn import functional as F

from transavs.media.audio_file import Repair, load_audio, resample
from transavs.utils.errors import AVSInputError

AUDIO_FRONT_END_REGISTRY = Registry("AUDIO_FRONT_END")
AUDIO_FRONT_END_REGISTRY.__doc__ = """
Audio front-ends, frozen dataclasses of plain numbers that derive from :class:`AudioFrontEnd`. Exported models name
theirs, with its numbers.
"""

AUDIO_BACKBONE_REGISTRY = Registry("AUDIO_BACKBONE")
AUDIO_BACKBONE_REGISTRY.__doc__ = """
Audio backbones, of :mod:`transavs.modeling`; here, where loaders ask them for their front-end. The registered class
derives from :class:`transavs.modeling.backbones.audio.AudioBackbone` and is called with ``cls(cfg)``.
"""

SILENCE_MARGIN = 1e-3  # above the values of silence, for rounding
NOISE_LEVELS = (-2.0, 0.0)  # exponents of ten between which the amplitude of noise is drawn


@dataclass(frozen=True)
class AudioFrontEnd:
    """Base of audio front-ends. A new one has ``sample_rate`` and ``shape``, and makes an :meth:`example`.

    Attributes:
        context: seconds of sound before and after each second that its example is made of too.
        sample_rate: in Hz.
        max_context: the longest context that there may be.
    """

    context: float = 0.0

    sample_rate: ClassVar[int]
    max_context: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        """
        Raises:
            AVSInputError: a number is out of its range.
        """
        if not isinstance(self.context, int | float) or not 0 <= self.context <= self.max_context:
            raise AVSInputError(
                f"MODEL.AUDIO_BACKBONE.CONTEXT is {self.context!r}: {type(self).__name__} takes 0 to {self.max_context}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        raise NotImplementedError

    def example(self, sound: Tensor) -> Tensor:
        """Make an example of a second in the middle of its context: float (samples,) -> float32 of ``shape``."""
        raise NotImplementedError

    @property
    def samples(self) -> int:
        """Samples of sound that an example is made of."""
        return self.sample_rate + 2 * round(self.context * self.sample_rate)

    def examples(self, waveform: Tensor | np.ndarray, sample_rate: int) -> Tensor:
        """Make the examples of a waveform, with silence before its start and after its end.

        Args:
            waveform: float in [-1, 1], mono (n,) or (channels, n).
            sample_rate: in Hz; resampled where it differs from the front-end's.

        Returns:
            float32 (T, ...); of a last second that is not whole if half of it is there.

        Raises:
            AVSInputError: see :func:`transavs.media.audio_file.resample`.
        """
        wave = torch.as_tensor(waveform, dtype=torch.float64)
        wave = resample(wave.mean(0) if wave.ndim == 2 else wave, sample_rate, self.sample_rate)
        second, before = self.sample_rate, round(self.context * self.sample_rate)
        number = (len(wave) + second // 2) // second
        padded = F.pad(wave, (before, before + second))
        starts = range(0, number * second, second)
        made = [self.example(padded[start : start + self.samples]) for start in starts]
        return torch.stack(made) if made else torch.zeros(0, *self.shape)

    def silence(self) -> Tensor:
        """Make the example of no sound, float32 (1, ...)."""
        return self.example(torch.zeros(self.samples, dtype=torch.float64))[None]

    def is_silent(self, examples: Tensor) -> bool:
        """Tell whether examples (T, ...) hold no sound."""
        return bool((examples - _silence_of(self).to(examples.device)).abs().le(SILENCE_MARGIN).all())

    def fit(self, examples: Tensor, seconds: int) -> Tensor:
        """Cut to ``seconds`` examples or repeat the last one (silence where there is none), as AVSBench does."""
        if not len(examples):
            examples = self.silence()
        missing = max(0, seconds - len(examples))
        return torch.cat([examples[:seconds], examples[-1:].expand(missing, *examples.shape[1:])])

    def noise(self, seed: int, seconds: int) -> Tensor:
        """Make examples of white noise at a random level, float32 (T, ...); the same for the same seed."""
        rng = np.random.default_rng(seed)
        level = 10 ** rng.uniform(*NOISE_LEVELS)
        wave = level * rng.uniform(-1, 1, seconds * self.sample_rate)
        return self.fit(self.examples(wave, self.sample_rate), seconds)

    def read_stored(self, path: str) -> Tensor | None:
        """Read the examples in one of AVSBench's log-mel pickles; None where they are none of this front-end's."""
        return None

    def load(
        self,
        audio_file: str | None,
        log_mel_file: str | None,
        seconds: int,
        noise_seed: int | None = None,
        repair: Repair | None = None,
    ) -> Tensor:
        """Load the examples of one clip from its audio or AVSBench's pickle; noise or silence if none is named.

        Args:
            audio_file: path of the audio, or None.
            log_mel_file: path of the pickle to fall back on where ``audio_file`` does not exist, or None.
            seconds: T.
            noise_seed: of the noise to make where no audio is named; None for silence.
            repair: called for audio that is short of the clip or a little of its header; see
                :meth:`transavs.data.repairs.ClipRepairs.add`.

        Returns:
            float32 (T, ...).
        """
        if audio_file is None:
            if noise_seed is not None:
                return self.noise(noise_seed, seconds)
            return self.fit(torch.zeros(0, *self.shape), seconds)
        examples = None
        if log_mel_file is not None and not Path(audio_file).exists() and Path(log_mel_file).exists():
            examples = self.read_stored(log_mel_file)
        if examples is None:
            examples = self.examples(*load_audio(audio_file, repair))
        else:
            audio_file = log_mel_file
        if repair is not None and len(examples) < seconds:
            repair("audio-short", f"{audio_file} gives {len(examples)} examples for {seconds} seconds")
        return self.fit(examples, seconds)

    def cache_key(self) -> list[Any]:
        """List what examples depend on beside the sound, as JSON has it."""
        return [type(self).__name__, self.sample_rate, asdict(self), *NOISE_LEVELS]

    def to_dict(self) -> dict[str, Any]:
        """Give what :func:`front_end_from_dict` makes the same front-end of: its name and its numbers."""
        return {"name": type(self).__name__, **asdict(self)}


@lru_cache(maxsize=4)
def _silence_of(front_end: AudioFrontEnd) -> Tensor:
    """Keep :meth:`AudioFrontEnd.silence`, which every step of training compares with."""
    return front_end.silence()


def front_end_from_dict(values: Mapping[str, Any]) -> AudioFrontEnd:
    """Make the front-end that :meth:`AudioFrontEnd.to_dict` has told of.

    Raises:
        AVSInputError: it is not registered, or one of its numbers out of its range.
    """
    numbers = dict(values)
    name = numbers.pop("name")
    if name not in AUDIO_FRONT_END_REGISTRY:
        raise AVSInputError(f"the audio front-end {name!r} is not registered: import the module that registers it")
    found: AudioFrontEnd = AUDIO_FRONT_END_REGISTRY.get(name)(**numbers)
    return found


def find_front_end(cfg: CfgNode) -> AudioFrontEnd:
    """Find the front-end of ``MODEL.AUDIO_BACKBONE.NAME``.

    Raises:
        AVSInputError: MODEL.AUDIO_BACKBONE.CONTEXT is out of its range.
    """
    front_end: AudioFrontEnd = AUDIO_BACKBONE_REGISTRY.get(cfg.MODEL.AUDIO_BACKBONE.NAME).front_end(cfg)
    return front_end
