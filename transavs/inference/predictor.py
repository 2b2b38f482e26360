"""A video or arrays in, the pixels of the objects that sound out.

Shape legend: T frames of a clip, one per second, S x S the network's input, H x W a frame's own size, K classes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.data import transforms
from torch import Tensor

from transavs.checkpoint.hub import find_pretrained
from transavs.checkpoint.share import push_to_hub, save_pretrained
from transavs.inference.arguments import check_number, frame_arrays, mono_sound, open_given, sound_blocks
from transavs.inference.backends import ClipFormat, InferenceBackend, PyTorchBackend, load_backend
from transavs.inference.prediction import ClipPrediction, FramePrediction
from transavs.media.audio_file import resample
from transavs.media.audio_stream import SoundAround
from transavs.media.frames import VideoFrame, VideoSource, sample_frames
from transavs.media.live import LiveVideo
from transavs.utils.errors import AVSInputError

SILENCE_DB = -100.0  # loudness is not told apart below


@dataclass
class _Sample:
    """A frame on its way through the network."""

    index: int
    time: float
    size: tuple[int, int]
    image: Tensor  # uint8 (3, S, S)
    log_mel: Tensor  # an example of the front-end
    loudness: float
    probabilities: Tensor | None = None  # (K, S, S), sum over windows
    weight: float = 0.0


class AVSPredictor:
    """Finds the pixels of the objects that sound, in videos and in arrays."""

    def __init__(
        self, backend: InferenceBackend, *, overlap: int | None = None, smoothing: float = 0.0, batch_size: int = 4
    ):
        """
        Args:
            backend: the model.
            overlap: seconds that neighboring windows of T seconds share; what they say is blended, with more weight
                on a window's middle. None: 0 where the model looks at each second by itself, else one.
            smoothing: time constant in seconds of an exponential moving average over frames; 0 = off.
            batch_size: clips of T frames that the network sees at once.

        Raises:
            AVSInputError: the backend is no model, such as the path of one, or a number is out of its range.
        """
        if not isinstance(backend, InferenceBackend):
            raise AVSInputError(f"{backend!r} is no model: load a file with AVSPredictor.from_checkpoint(path)")
        self.backend = backend
        if overlap is None:
            overlap = int(self.format.uses_temporal_context and self.format.num_frames > 1)
        for name, number in (("overlap", overlap), ("smoothing", smoothing), ("batch_size", batch_size)):
            check_number(number, name)
        if not 0 <= overlap < self.format.num_frames:
            raise AVSInputError(f"overlap is {overlap}: give 0 to {self.format.num_frames - 1} seconds")
        if not 0 <= smoothing < np.inf or batch_size < 1:
            raise AVSInputError(f"smoothing {smoothing}, batch_size {batch_size}: give at least 0 and 1")
        self.overlap, self.smoothing, self.batch_size = overlap, smoothing, batch_size

    @property
    def format(self) -> ClipFormat:
        return self.backend.format

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        config_file: str | Path | None = None,
        precision: str = "float32",
        trust_program: bool = False,
        **options: Any,
    ) -> "AVSPredictor":
        """
        Args:
            path: of a checkpoint of ``tools/train_net.py``, which may be a folder of :meth:`save_pretrained`, an
                address or ``hf://owner/name``, or of what ``tools/export_model.py`` has written.
            device: such as "cuda"; by default as :func:`transavs.inference.backends.load_backend` chooses.
            config_file: for weights that carry no config, such as converted ones.
            precision: that the network of a checkpoint computes in: "float32", "bfloat16" or, on GPUs, "float16".
            trust_program: load a .pt2 file, which may run code; .onnx files and checkpoints never do.
            options: of the constructor.

        Raises:
            AVSInputError: the file is missing or no such model, or the precision is none of the device's.
        """
        return cls(load_backend(path, device, config_file, precision, trust_program), **options)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        precision: str = "float32",
        **options: Any,
    ) -> "AVSPredictor":
        """Load a model that :meth:`save_pretrained` or :meth:`push_to_hub` has written; no code of it is run.

        Args:
            name: of a folder, or "owner/name" of a repository of Hugging Face's hub, which is fetched once.
            revision: branch, tag or commit of a repository; by default its main branch.
            device, precision, options: as of :meth:`from_checkpoint`.

        Raises:
            AVSInputError: there is no such folder or repository, the hub cannot be reached, or it is no such model.
        """
        return cls.from_checkpoint(find_pretrained(name, revision), device=device, precision=precision, **options)

    def save_pretrained(self, folder: str | Path, *, license: str, results: str | Path | None = None) -> None:
        """Write the model into a folder; the checkpoint that it was loaded from is read again.

        See :func:`transavs.checkpoint.share.save_pretrained`.
        """
        weights, config_file = self._checkpoint()
        save_pretrained(weights, folder, license=license, results=results, config_file=config_file)

    def push_to_hub(
        self, name: str, *, license: str, results: str | Path | None = None, private: bool | None = None
    ) -> str:
        """Write the same into a repository of Hugging Face's hub.

        See :func:`transavs.checkpoint.share.push_to_hub`.
        """
        weights, config_file = self._checkpoint()
        return push_to_hub(weights, name, license=license, results=results, private=private, config_file=config_file)

    def _checkpoint(self) -> tuple[Path, str | Path | None]:
        if not isinstance(self.backend, PyTorchBackend) or self.backend.checkpoint is None:
            raise AVSInputError(
                "only a model of a checkpoint can be shared: load one with AVSPredictor.from_checkpoint"
            )
        return self.backend.checkpoint

    def predict_video(
        self,
        source: str | Path | BinaryIO | VideoSource,
        rate: float = 1.0,
        sound: Iterable[np.ndarray] | None = None,
        seen: Callable[[VideoFrame], None] | None = None,
    ) -> Iterator[ClipPrediction]:
        """Predict as the video is read; neither time to the first result nor memory grow with its length.

        Args:
            source: path, folder of images, camera or address, see :func:`transavs.media.sources.open_source`; binary
                file object; or opened video. Of a live one, frames that come too late are left out.
            rate: masks per second; 0 = every frame.
            sound: in place of the video's own, blocks of float (channels, n) in [-1, 1], or one array (n,) or
                (channels, n), at the sample rate of the model's front-end, 16 kHz for VGGish, from the first frame on;
                it is silent after their end.
            seen: called with every frame that is read, in order, before it is sampled.

        Yields:
            predictions in order, of up to T seconds; of T masks where the model looks at each second by itself, and
            of one where the video is live besides.

        Raises:
            AVSInputError: the source or an argument is of another kind, or see
                :class:`transavs.media.video_reader.Video`.
        """
        check_number(rate, "the rate of masks")
        if not 0 <= rate < np.inf:
            raise AVSInputError(f"the rate of masks is {rate}: give a number per second, or 0 for every frame")
        if not isinstance(source, VideoSource):
            with open_given(source, needs_sound=sound is None) as video:
                yield from self.predict_video(video, rate, sound, seen)
            return
        blocks = source.sound(self.format.front_end.sample_rate) if sound is None else sound_blocks(sound)
        around = self._sound_around(blocks)
        frames = sample_frames(source, rate, seen)
        if is_live := isinstance(source, LiveVideo):
            frames = source.in_time(frames)
        middle = 0.5 / source.frame_rate  # of the time for which a frame is shown: images may last for seconds
        samples = (
            self._sample(frame.index, frame.time, frame.pixels(), around(frame.time + middle)) for frame in frames
        )
        yield from self._run(samples, at_once=is_live)

    def predict(
        self,
        frames: Iterable[np.ndarray | Tensor],
        waveform: np.ndarray | Tensor,
        sample_rate: int,
        rate: float = 1.0,
    ) -> list[FramePrediction]:
        """
        Args:
            frames: any number, uint8 (H, W, 3) each, in RGB; frame i stands in the middle of the i-th interval of
                1 / ``rate`` s.
            waveform: float in [-1, 1], (n,) or (channels, n).
            sample_rate: of it, in Hz.
            rate: frames per second.

        Returns:
            one per frame.

        Raises:
            AVSInputError: the arrays are not as described.
        """
        check_number(sample_rate, "the sample rate")
        check_number(rate, "the rate of frames")
        if not (0 < rate < np.inf and 0 < sample_rate < np.inf):
            raise AVSInputError(f"sound at {sample_rate} Hz, {rate} frames per second: give rates above 0")
        mono = resample(mono_sound(waveform), sample_rate, self.format.front_end.sample_rate)
        around = self._sound_around([mono[None].numpy()])
        samples = (
            self._sample(number, time, frame, around(time))
            for number, frame in enumerate(frame_arrays(frames))
            for time in [(number + 0.5) / rate]
        )
        return [frame for clip in self._run(samples) for frame in clip.frames]

    def _sound_around(self, blocks: Iterable[np.ndarray]) -> SoundAround:
        front_end = self.format.front_end
        return SoundAround(blocks, front_end.sample_rate, front_end.samples)

    def _sample(self, index: int, time: float, pixels: np.ndarray, sound: np.ndarray) -> _Sample:
        side, front_end = self.format.image_size, self.format.front_end
        context = (len(sound) - front_end.sample_rate) // 2
        size = pixels.shape[:2]
        resized = transforms.ResizeTransform(*size, side, side).apply_image(pixels)
        channels = resized if self.format.image_format == "RGB" else resized[..., ::-1]
        return _Sample(
            index=index,
            time=time,
            size=(size[0], size[1]),
            image=torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1))),
            log_mel=front_end.example(torch.from_numpy(sound)),
            loudness=loudness(sound[context : len(sound) - context]),
        )

    def _run(self, samples: Iterator[_Sample], at_once: bool = False) -> Iterator[ClipPrediction]:
        """Windows of T seconds over a stream of samples, blended and smoothed.

        Where the model looks at each second by itself a window is the next T samples, so that none waits longer; or
        ``at_once`` one sample, where it can be.
        """
        last: FramePrediction | None = None
        if not (self.overlap or self.format.uses_temporal_context):
            length = 1 if at_once and self.backend.takes_any_length else self.format.num_frames
            while window := [[sample] for sample in islice(samples, length)]:
                self._score(window)
                clip, last = self._finish(window, last)
                yield clip
            return
        window, done = [], []  # samples by second
        for second in _seconds(samples):
            if len(window) == self.format.num_frames:
                self._score(window)
                done = window[: len(window) - self.overlap]
                clip, last = self._finish(done, last)
                yield clip
                window = window[len(done) :]
            window.append(second)
        if window:
            # The last window reaches back to be full.
            self._score([*done, *window][-self.format.num_frames :])
            yield self._finish(window, last)[0]

    def _score(self, window: list[list[_Sample]]) -> None:
        """Let the network see clips of one sample per second, and add what it says to the samples.

        A second that has fewer samples than others repeats its last one, and so does a window that has fewer seconds
        than the network expects, where that matters.
        """
        is_free = self.backend.takes_any_length and not self.format.uses_temporal_context
        length = len(window) if is_free else self.format.num_frames
        padded = window + window[-1:] * (length - len(window))
        clips = [[second[min(number, len(second) - 1)] for second in padded] for number in range(max(map(len, padded)))]
        for first in range(0, len(clips), self.batch_size):
            batch = clips[first : first + self.batch_size]
            images = torch.stack([torch.stack([sample.image for sample in clip]) for clip in batch])
            log_mel = torch.stack([torch.stack([sample.log_mel for sample in clip]) for clip in batch])
            for number, inference in enumerate(self.backend(images, log_mel), start=first):
                for place, second in enumerate(window):
                    if number < len(second):
                        weight = min(place + 1, len(window) - place)
                        second[number].probabilities = weight * inference[place] + (
                            0 if second[number].probabilities is None else second[number].probabilities
                        )
                        second[number].weight += weight

    def _finish(
        self, seconds: list[list[_Sample]], last: FramePrediction | None
    ) -> tuple[ClipPrediction, FramePrediction | None]:
        """The predictions of samples that no later window sees, and the last of them."""
        found = []
        for sample in (sample for second in seconds for sample in second):
            assert sample.probabilities is not None  # every second is seen before it is given
            frame = FramePrediction(
                index=sample.index,
                time=sample.time,
                loudness=sample.loudness,
                size=sample.size,
                class_names=self.format.class_names,
                probabilities=sample.probabilities / sample.weight,
            )
            if self.smoothing and last is not None:
                keep = float(np.exp((last.time - frame.time) / self.smoothing))
                frame = replace(frame, probabilities=keep * last.probabilities + (1 - keep) * frame.probabilities)
            found.append(frame)
            last = frame
        return ClipPrediction(found), last


def _seconds(samples: Iterator[_Sample]) -> Iterator[list[_Sample]]:
    """The samples of each second that has any."""
    held: list[_Sample] = []
    for sample in samples:
        if held and int(sample.time) > int(held[0].time):
            yield held
            held = []
        held.append(sample)
    if held:
        yield held


def loudness(sound: np.ndarray) -> float:
    """Root mean square in dB of full scale, at least SILENCE_DB."""
    power = float(np.mean(np.square(sound, dtype=np.float64))) if sound.size else 0.0
    return max(SILENCE_DB, 10 * float(np.log10(max(power, 1e-30))))
