"""Harmonizers: small networks from a vector to log-probabilities of classes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from training.errors import InputError

HIDDEN = 128


class Linear(nn.Module):
    """Multinomial logistic regression: (n, width) to log-probabilities (n, classes)."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.out = nn.Linear(width, classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """Log-probabilities (n, classes)."""
        return self.out(vectors).log_softmax(dim=1)


class MLP(nn.Module):
    """One hidden layer of 128 units: (n, width) to log-probabilities (n, classes)."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.hidden = nn.Linear(width, HIDDEN)
        self.out = nn.Linear(HIDDEN, classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """Log-probabilities (n, classes)."""
        return self.out(self.hidden(vectors).relu()).log_softmax(dim=1)


HARMONIZERS: dict[str, Callable[[int, int], nn.Module]] = {"linear": Linear, "mlp": MLP}


def make_harmonizer(kind: str, width: int, classes: int, seed: int) -> nn.Module:
    """A fresh harmonizer; the same seed gives the same weights.

    Raises:
        InputError: no harmonizer of that kind.
    """
    if kind not in HARMONIZERS:
        raise InputError(f"harmonizer '{kind}' is unknown. Expected one of {', '.join(HARMONIZERS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HARMONIZERS[kind](width, classes)


def restore_harmonizer(kind: str, width: int, classes: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """A harmonizer with the given weights (`harmonizer.state_dict()`): the same outputs, bit for bit.

    Raises:
        InputError: the weights are not those of such a harmonizer.
    """
    harmonizer = make_harmonizer(kind, width, classes, seed=0)
    try:
        harmonizer.load_state_dict(dict(weights))
    except RuntimeError:
        raise InputError(f"these are no weights of a '{kind}' harmonizer for {classes} classes.") from None
    return harmonizer.eval()
