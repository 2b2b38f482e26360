"""torch.compile in training."""

from typing import Any

import torch

from transavs.modeling.meta_arch import AVSModel
from transavs.utils.errors import AVSInputError


def compile_network(model: AVSModel, backend: str) -> None:
    """Let torch compile what of a model lies between tensors, its method ``network``, in training.

    Losses stay the same to the backend's rounding, and so do the names of parameters; in evaluation the model is as it
    was. Clips of other lengths make one more graph, which fits them all.

    Args:
        model: changed in place, and not to be copied afterwards.
        backend: as torch.compile's.

    Raises:
        AVSInputError: the model does not name its network.
    """
    if not model.network:
        raise AVSInputError(f"MODEL.COMPILE: {type(model).__name__} does not name its network: set it to ''")
    plain = getattr(model, model.network)
    compiled = torch.compile(plain, backend=backend)

    def network(*tensors: Any) -> Any:
        return (compiled if model.training else plain)(*tensors)

    setattr(model, model.network, network)
