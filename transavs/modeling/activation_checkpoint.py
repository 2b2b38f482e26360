"""Less memory for more time in training: activations are computed again in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from fnmatch import fnmatch
from functools import partial
from itertools import accumulate
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from transavs.utils.errors import AVSInputError


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, of which the backward pass keeps the arguments alone and computes the rest again."""
    return checkpoint(function, *args, use_reentrant=False)


def checkpoint_activations(model: nn.Module, patterns: list[str]) -> None:
    """Keep only the inputs of some modules during the forward pass and run them again in the backward pass.

    Losses, gradients and the running statistics of batch norms stay the same.

    Args:
        model: changed in place; the names of its parameters are not.
        patterns: of the modules' names in the model, with ``*`` for any characters, dots included; a module within
            another that is chosen needs none of its own.

    Raises:
        AVSInputError: a pattern fits no module.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise AVSInputError(f"MODEL.ACTIVATION_CHECKPOINTING: no module is called {pattern!r}: correct the pattern")
    chosen = {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
    for name in chosen:
        parents = accumulate(name.split(".")[:-1], "{}.{}".format)
        if chosen.isdisjoint(parents):  # what lies within another is computed again with it
            module = model.get_submodule(name)
            module.forward = partial(
                checkpoint, module.forward, use_reentrant=False, context_fn=partial(_contexts, module)
            )


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _kept_statistics(module)


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms within the context: they have seen the batch before."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    kept = {norm: (norm.momentum, norm.num_batches_tracked) for norm in norms}
    for norm, (_, number) in kept.items():
        norm.momentum, norm.num_batches_tracked = 0.0, deepcopy(number)  # which is counted up in place
    try:
        yield
    finally:
        for norm, (momentum, number) in kept.items():
            norm.momentum, norm.num_batches_tracked = momentum, number
