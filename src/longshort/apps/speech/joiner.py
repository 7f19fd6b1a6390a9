"""What a search needs of a transducer: its predictor, and the layer where predictor and encoder meet.

Axes: B rows, J joint width, V tokens of which 0 is the blank; natural logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Predictor(Protocol):
    """What the tokens so far say about the next one. A state is never changed in place."""

    def start(self, batch: int) -> Any:
        """The state before anything; a `step` with the blank follows."""

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One more token [B]: the prediction [B, J], and the state."""

    def select(self, state: Any, index: Tensor) -> Any:
        """The states of some rows."""

    def join(self, states: Sequence[Any]) -> Any:
        """One state of all their rows."""


class Transducer(Protocol):
    """A network whose logits are write(tanh(encoded + predicted))."""

    @property
    def predictor(self) -> Predictor | None:
        """None where the network is no transducer after all."""

    @property
    def write(self) -> nn.Linear:
        """From J to V."""


def check(network: Transducer, encoded: Tensor | None = None, ndim: int = 2) -> Predictor:
    """The predictor of a transducer.

    Args:
        network: what should be one.
        encoded: what should be the encoder's side of its joint layer, [T, J] or [B, T, J].
        ndim: how many axes it should have, 2 or 3.

    Raises:
        ValueError: either is not what it should be.
    """
    if network.predictor is None:
        raise ValueError("this network is no transducer: it has no predictor. Read what it says with `decode`.")
    J = network.write.in_features
    if encoded is not None and (encoded.ndim != ndim or encoded.shape[-1] != J):
        raise ValueError(f"encoded must be {('[T, J]', '[B, T, J]')[ndim - 2]} with J = {J}, got {list(encoded.shape)}.")
    return network.predictor


@torch.no_grad()
def start(network: Transducer) -> tuple[Tensor, Any]:
    """What is predicted before the first token, [1, J], and the state of the predictor."""
    predictor, device = check(network), network.write.weight.device
    return predictor.step(torch.zeros(1, dtype=torch.int64, device=device), predictor.start(1))


def log_probs(network: Transducer, encoded: Float[Tensor, "*B J"], predicted: Float[Tensor, "*B J"]) -> Float[Tensor, "*B V"]:
    """Log-probabilities of all tokens, in float32 at least; the arguments may be broadcast."""
    logits = network.write(torch.tanh(encoded + predicted))
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
