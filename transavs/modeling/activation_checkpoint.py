"""Less memory for more time in training: activations are computed again in the backward pass."""

from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from transavs.errors import AVSInputError


def light(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, of which the backward pass keeps the arguments alone and computes the rest again."""
    return checkpoint(function, *args, use_reentrant=False)


def checkpoint_modules(model: nn.Module, patterns: list[str]) -> None:
    """Keep only the inputs of some modules during the forward pass and run them again in the backward pass.

    Losses and gradients stay the same. A batch norm inside sees each batch twice, so its running statistics follow the
    batches faster.

    Args:
        model: changed in place; the names of its parameters are not.
        patterns: of the modules' names in the model, with ``*`` for any characters, dots included.

    Raises:
        AVSInputError: a pattern fits no module.
    """
    for pattern in patterns:
        modules = [module for name, module in model.named_modules() if name and fnmatch(name, pattern)]
        if not modules:
            raise AVSInputError(f"MODEL.CHECKPOINT_MODULES: no module is called {pattern!r}: correct the pattern")
        for module in modules:
            module.forward = partial(light, module.forward)
