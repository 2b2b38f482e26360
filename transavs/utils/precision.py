"""The numbers that a network computes in: float32, or under autocast 16 bits where they are enough."""

from contextlib import AbstractContextManager, nullcontext

import torch

from transavs.utils.errors import AVSInputError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_precision(name: str, device: str | torch.device) -> torch.dtype:
    """The type of a precision, on a device that can compute in it.

    Args:
        name: of :data:`PRECISIONS`, or "" for the better one of 16 bits: bfloat16, which has float32's range, or
            float16 on GPUs that lack it.
        device: that the network runs on.

    Raises:
        AVSInputError: there is no such precision, or not on this device.
    """
    on_gpu = torch.device(device).type == "cuda"
    if not name:
        lacks_bfloat16 = on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.float16 if lacks_bfloat16 else torch.bfloat16
    if name not in PRECISIONS:
        raise AVSInputError(f"there is no precision {name!r}: choose from {', '.join(PRECISIONS)}")
    if name == "float16" and not on_gpu:
        raise AVSInputError(f"the precision float16 needs a GPU and the device is '{device}': choose bfloat16")
    return PRECISIONS[name]


def autocast(precision: torch.dtype, device: str | torch.device) -> torch.autocast:
    """torch's context in which a network computes in ``precision``; in float32 it is switched off."""
    return torch.autocast(torch.device(device).type, precision, enabled=precision != torch.float32)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Context in which everything is computed in the type that it has; tensors that have 16 bits keep them."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # an exported graph would keep the other one
