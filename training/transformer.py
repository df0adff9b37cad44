"""The harmonizer that reads: a transformer, pooled over the passage and over the entities that a task marks.

Its head sees the mean of the last hidden states over all tokens and, beside it, the mean over the tokens of each
entity, in the task's order, so that a relation and its reverse differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.encoder import DEFAULT_ENCODER, fast_tokenizer, locate
from training.errors import InputError
from training.reading import Batch, Reader
from training.running import Runner, ahead

KIND = "transformer"
"""The kind of harmonizer that a version of it is."""


class Transformer(nn.Module):
    """An encoder and a linear head on its pooled states: a batch to log-probabilities (n, classes), in float32."""

    def __init__(self, encoder: Any, entities: int, classes: int):
        super().__init__()
        self.entities = entities
        self.encoder = encoder
        self.dropout = nn.Dropout(float(getattr(encoder.config, "hidden_dropout_prob", 0.1)))
        self.out = nn.Linear((1 + entities) * encoder.config.hidden_size, classes)

    def forward(self, batch: Batch) -> Tensor:
        """Log-probabilities (n, classes)."""
        states = self.encoder(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        with torch.autocast(states.device.type, enabled=False):
            return self.judge(batch.pools @ states.float())

    def judge(self, pooled: Tensor) -> Tensor:
        """Pooled states (n, 1 + entities, width) float32 to log-probabilities (n, classes)."""
        return self.out(self.dropout(pooled.flatten(1))).log_softmax(dim=1)


@dataclass(frozen=True)
class TextHarmonizer:
    """A network with what reads for it: texts and spans to log-probabilities."""

    network: Transformer
    reader: Reader = field(repr=False)

    def __call__(self, texts: np.ndarray, spans: np.ndarray, pack_tokens: int | None = None) -> np.ndarray:
        """Log-probabilities (n, classes) float32; they depend on the batch only by rounding.

        texts: (n,) strings. spans: (n, entities, 2), the number of entities being the one trained with.
        pack_tokens: of one pass; what suits the device, unless given.

        Raises:
            InputError: another number of entities.
        """
        if spans.shape[1] != self.network.entities:
            raise InputError(f"a text should come with {self.network.entities} spans, one an entity, as this "
                             f"transformer was trained. Found {spans.shape[1]}.")
        none = np.empty((0, self.network.out.out_features), dtype=np.float32)
        return np.concatenate([none, *self.runner(pack_tokens).over(ahead(self.reader, texts, spans))])

    def runner(self, pack_tokens: int | None = None) -> Runner:
        """What runs the network, with its present weights, over tokens of its `reader`: log-probabilities."""
        self.network.eval()
        return Runner(self.network.encoder, str(self.network.out.weight.device), self.network.judge, pack_tokens)


def make_transformer(entities: int, classes: int, seed: int, name: str = DEFAULT_ENCODER) -> TextHarmonizer:
    """The packaged encoder (or one of Hugging Face) as it was trained, and a fresh head; the same seed, the same head.

    Raises:
        InputError: the encoder cannot be loaded, or its tokenizer does not tell where in the text its tokens are.
    """
    from transformers import AutoModel

    encoder = _quietly(name, lambda path: AutoModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextHarmonizer(Transformer(encoder, entities, classes), _reader(name))


def restore_transformer(
    entities: int, classes: int, weights: Mapping[str, Tensor], name: str = DEFAULT_ENCODER
) -> TextHarmonizer:
    """A transformer with the given weights (`network.state_dict()`): the same outputs, bit for bit.

    The encoder's package gives the architecture and the tokenizer, not the weights.

    Raises:
        InputError: the encoder cannot be loaded, or the weights are not those of such a transformer.
    """
    from transformers import AutoConfig, AutoModel

    encoder = _quietly(name, lambda path: AutoModel.from_config(AutoConfig.from_pretrained(path), dtype=torch.float32))
    network = Transformer(encoder, entities, classes)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError:
        raise InputError(f"these are no weights of a 'transformer' harmonizer on '{name}' for {classes} classes "
                         f"and {entities} entities.") from None
    return TextHarmonizer(network.eval(), _reader(name))


def _reader(name: str) -> Reader:
    from transformers import AutoTokenizer

    return Reader(fast_tokenizer(_quietly(name, AutoTokenizer.from_pretrained), name))


def _quietly(name: str, load: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return load(locate(name)[0])
    except (OSError, ValueError) as error:
        raise InputError(f"the encoder '{name}' cannot be loaded: {str(error).splitlines()[0]}") from None
