"""h(x), whichever the harmonizer: a small network on the encoder's vectors, or a transformer on the texts themselves.

This is the one place that tells the two apart: whoever scores hands over texts, spans and an encoder, which a
transformer leaves alone.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.capacity import Budget
from training.encoder import Encoder, locate, passages
from training.errors import InputError
from training.harmonizer import restore_harmonizer
from training.spec import EncoderSpec
from training.transformer import KIND, TextHarmonizer, restore_transformer

ROWS = 65_536

Encode = Callable[[Sequence[str]], np.ndarray]
Harmonizer = nn.Module | TextHarmonizer


def beliefs_of(harmonizer: Harmonizer, texts: np.ndarray, spans: np.ndarray, encode: Encode) -> np.ndarray:
    """h(x) (n, K) float32, rows summing to 1. A GPU that runs out of memory is given smaller batches.

    texts: (n,) strings. spans: (n, entities, 2). encode: what vectors are made with, and what is not called for a
    transformer.
    """
    if isinstance(harmonizer, TextHarmonizer):
        return np.exp(harmonizer(texts, spans))
    return beliefs_in(harmonizer, encode(passages(texts, spans)))


def beliefs_in(harmonizer: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """h(x) (n, K) float32 of a small network that is given the vectors (n, width)."""
    device = next(harmonizer.parameters()).device
    inputs = torch.from_numpy(np.ascontiguousarray(vectors))

    @torch.inference_mode()
    def read(rows: int) -> np.ndarray:
        return torch.cat([harmonizer(chunk.to(device)).exp().cpu() for chunk in inputs.split(rows)]).numpy()

    return Budget(ROWS, least=1, unit="rows").run(read)


def network_of(harmonizer: Harmonizer) -> nn.Module:
    """The network, whose `state_dict()` a version keeps."""
    return harmonizer.network if isinstance(harmonizer, TextHarmonizer) else harmonizer


def restore(
    kind: str, encoder: EncoderSpec, entities: int, classes: int, weights: Mapping[str, Tensor], device: str
) -> Harmonizer:
    """A harmonizer with the weights of `network_of(…).state_dict()`, on a device: the same beliefs, bit for bit.

    Raises:
        InputError: the weights are not those of such a harmonizer, or a transformer's encoder is not installed.
    """
    if kind != KIND:
        return restore_harmonizer(kind, encoder.width, classes, weights).to(device)
    harmonizer = restore_transformer(entities, classes, weights, encoder.name)
    harmonizer.network.to(device)
    return harmonizer


def encoder_for(harmonizer: Harmonizer, spec: EncoderSpec, device: str) -> Encode:
    """What makes the vectors that a harmonizer reads; nothing is loaded for a transformer, which brings its own.

    Raises:
        InputError: another encoder is installed than the one it was trained with, or none.
    """
    if isinstance(harmonizer, TextHarmonizer):
        refuse_other(EncoderSpec(spec.name, locate(spec.name)[1], spec.width), spec)
        return _no_vectors
    encoder = Encoder(spec.name, device)
    refuse_other(encoder.spec, spec)
    return encoder.encode


def refuse_other(found: EncoderSpec, spec: EncoderSpec) -> None:
    """Refuse an encoder that is not the one that a version was trained with.

    Raises:
        InputError: says which one is needed.
    """
    if found != spec:
        raise InputError(f"the version was trained on {spec}. Found {found}; install the one that it needs.")


def _no_vectors(texts: Sequence[str]) -> np.ndarray:
    raise TypeError("a transformer reads texts; there is no encoder to make vectors of them.")
