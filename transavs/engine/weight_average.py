"""Averaged weights beside those of training."""

from typing import Any

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(HookBase):
    """Exponential moving average of a model's weights, from those after the first iteration on.

    Statistics of batch norms are those of training. In checkpoints the average is the model, and the weights that
    training goes on with are in this hook's state.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: that is trained.
            decay: share of the average that each iteration leaves.
        """
        self._model = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights, which is also what checkpoints are loaded into."""
        averaged: nn.Module = self._average.module
        return averaged

    def before_train(self) -> None:
        if not self._average.n_averaged:  # MODEL.WEIGHTS, or a checkpoint without an average
            self._model.load_state_dict(self.model.state_dict())

    def after_step(self) -> None:
        self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._model.state_dict(), "number": int(self._average.n_averaged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._model.load_state_dict(state_dict["weights"])
        self._average.n_averaged.fill_(state_dict["number"])
