"""Models and parts of them with random weights, and clips for them."""

import torch
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from torch import nn

from helpers.repository import REPOSITORY
from transavs.config.load import load_config
from transavs.data import AVSDatasetMapper
from transavs.inference.backends import ClipFormat, PyTorchBackend
from transavs.inference.export import random_clips
from transavs.modeling import AudioQueryDecoder, TimmBackbone, TransAVS

CLASSES = ("background", "dog", "guitar", "tuba")


def make_decoder(**changes) -> AudioQueryDecoder:
    torch.manual_seed(0)
    settings = {
        "audio_dim": 10,
        "hidden_dim": 16,
        "conv_dim": 16,
        "num_queries": 4,
        "num_classes": 2,
        "num_seconds": 5,
        "query_mode": "frame",
        "audio_context": 0,
        "content_std": 0.3,
        "enc_layers": 1,
        "dec_layers": 3,
        "num_levels": 3,
        "num_heads": 2,
        "dim_feedforward": 32,
        "dropout": 0.0,
        "deep_supervision": True,
    }
    return AudioQueryDecoder(**(settings | changes))


def make_backbone(name: str, **changes) -> TimmBackbone:
    torch.manual_seed(0)
    settings = {
        "name": name,
        "in_channels": 3,
        "image_size": 64,
        "out_features": ["res2", "res3", "res4", "res5"],
        "pretrained": False,
        "weights": "",
        "drop_path_rate": 0.0,
        "frozen_stages": 0,
        "out_norm": "",
    }
    return TimmBackbone(**(settings | changes))


def make_features(frames: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(frames, 16, 8, 8, generator=generator), [
        torch.randn(frames, 16, size, size, generator=generator) for size in (1, 2, 4)
    ]


def load_clips(cfg, records: list[dict], is_train: bool) -> list[dict]:
    loader = build_detection_test_loader(records, mapper=AVSDatasetMapper(cfg, is_train=is_train))
    return [clip for batch in loader for clip in batch]


def make_backend(config: str, overrides: list[str]) -> PyTorchBackend:
    """A model with random weights, such that what it scores differs from place to place."""
    torch.manual_seed(0)
    cfg = load_config(REPOSITORY / "configs" / config, overrides)
    model = build_model(cfg).eval()
    backend = PyTorchBackend(model, ClipFormat.from_config(cfg, CLASSES[: cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES], model))
    for block in getattr(model, "blocks", nn.ModuleDict()).values():
        nn.init.ones_(block.output_norm.weight)  # zero at the start, which keeps the sound out
    if isinstance(model, TransAVS):
        # As drawn, all votes are nearly 0, where rounding shows, and all queries are of one class.
        nn.init.normal_(model.query_decoder.mask_projection.weight, std=0.01)
        images, log_mel = random_clips(backend.format, 1)
        with torch.no_grad():
            outputs = model.predict(model.normalize(images[0].float()), model.audio_backbone(log_mel[0])[None])
            model.query_decoder.classifier.bias -= outputs["pred_logits"].mean((0, 1))
    return backend
