"""A BERT's forward over packed tokens: no padding anywhere, and attention within each text alone.

On a GPU that computes in bfloat16, attention is PyTorch's variable-length flash attention, and what lies between the
matrix products is fused by torch.compile. Elsewhere texts of equal length, neighbours in a pack, attend together.
Networks of another make run padded, as `transformers` runs them, behind the same call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, layer_norm, linear, relu, scaled_dot_product_attention

from training.capacity import in_bf16
from training.packing import runs
from training.reading import Tokens

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu, "gelu_new": partial(gelu, approximate="tanh"), "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
}
FIRST_PLACE = {"bert": 0, "roberta": 1, "xlm-roberta": 1}
"""The architectures that run packed, and how far behind the padding's id their positions begin."""

Norm = tuple[Tensor, Tensor, float]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pack:
    """Tokens on a device: ids, places in their texts (T,), pools (T, 1 + entities), borders of the texts (n + 1,).

    lengths: (n,), where the processor can read them.
    """

    ids: Tensor
    places: Tensor
    pools: Tensor
    borders: Tensor
    lengths: np.ndarray


@dataclass(frozen=True)
class Layer:
    """The weights of one layer: query, key and value in one matrix."""

    inward: tuple[Tensor, Tensor]
    outward: tuple[Tensor, Tensor]
    attention_norm: Norm
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    output_norm: Norm


def loaded(tokens: Tokens, device: str) -> Pack:
    """Tokens put on a device, without waiting for the copy."""
    ends = np.cumsum(tokens.lengths)
    borders = np.concatenate([[0], ends]).astype(np.int32)
    places = np.arange(len(tokens.ids), dtype=np.int32) - np.repeat(borders[:-1], tokens.lengths)

    def there(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    return Pack(there(tokens.ids), there(places), there(tokens.pools), there(borders), tokens.lengths)


class PackedNetwork:
    """A network's weights, arranged for packs and cast to `dtype`. Immutable; make it again after a training step."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        """network: a BERT or RoBERTa of `transformers`."""
        config: Any = network.config
        weights = {name: tensor.detach() for name, tensor in network.named_parameters()}

        def of(*names: str) -> tuple[Tensor, Tensor]:
            weight, bias = (torch.cat([weights[f"{name}.{what}"] for name in names]).to(dtype)
                            for what in ("weight", "bias"))
            return _fixed(weight), _fixed(bias)

        def norm(name: str) -> Norm:
            return *of(name), config.layer_norm_eps

        start = (config.pad_token_id + 1) * FIRST_PLACE[config.model_type]
        places = (weights["embeddings.position_embeddings.weight"][start:]
                  + weights["embeddings.token_type_embeddings.weight"][0])
        self._words = _fixed(weights["embeddings.word_embeddings.weight"].to(dtype))
        self._places = _fixed(places.to(dtype))
        self._norm, self._heads = norm("embeddings.LayerNorm"), config.num_attention_heads
        self._layers = [
            Layer(of(*(f"{at}.attention.self.{name}" for name in ("query", "key", "value"))),
                  of(f"{at}.attention.output.dense"), norm(f"{at}.attention.output.LayerNorm"),
                  of(f"{at}.intermediate.dense"), of(f"{at}.output.dense"), norm(f"{at}.output.LayerNorm"))
            for at in (f"encoder.layer.{number}" for number in range(config.num_hidden_layers))
        ]
        on_gpu = self._words.device.type == "cuda"
        self._flash = on_gpu and dtype in (torch.bfloat16, torch.float16)
        fused = self._flash and config.hidden_act.startswith("gelu")
        self._up = _up_gelu if fused else partial(_up, ACTIVATIONS[config.hidden_act])
        self._enter = _compiled(_embed) if on_gpu else _embed
        self._leave = _compiled(_after) if on_gpu else _after

    def __call__(self, pack: Pack) -> Tensor:
        """The last hidden states (T, width)."""
        attend: Attend = partial(_flash, pack) if self._flash else partial(_by_length, list(runs(pack.lengths)))
        ids, places = _of_any_length(pack.ids), _of_any_length(pack.places)
        states = self._enter(ids, places, self._words, self._places, self._norm)
        for layer in self._layers:
            heads = linear(states, *layer.inward).view(len(states), 3, self._heads, -1)
            mixed = attend(*heads.unbind(1)).reshape(states.shape)
            states = self._leave(_of_any_length(states), _of_any_length(mixed), layer, self._up)
        return states


class PaddedNetwork:
    """Any other network of `transformers`, behind the same call."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self._network, self._half = network, dtype != torch.float32

    def __call__(self, pack: Pack) -> Tensor:
        """The last hidden states (T, width)."""
        device = pack.ids.device
        mask = torch.from_numpy(np.arange(pack.lengths.max()) < pack.lengths[:, None]).to(device)
        ids = torch.zeros(mask.shape, dtype=torch.long, device=device)
        ids[mask] = pack.ids.long()
        with in_bf16(device.type if self._half else "cpu"):
            return self._network(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]


def packed(network: nn.Module, dtype: torch.dtype) -> Callable[[Pack], Tensor]:
    """What runs a network of `transformers` over packs: without padding where its make is known."""
    config: Any = network.config
    known = (config.model_type in FIRST_PLACE and config.hidden_act in ACTIVATIONS
             and getattr(config, "position_embedding_type", "absolute") == "absolute"
             and not getattr(config, "is_decoder", False))
    return PackedNetwork(network, dtype) if known else PaddedNetwork(network, dtype)


def pooled(states: Tensor, pack: Pack) -> Tensor:
    """The means over each text and over its entities: (n, 1 + entities, width) float32."""
    weighed = states.float()[:, None, :] * pack.pools[:, :, None]
    return torch.segment_reduce(weighed, "sum", offsets=pack.borders.long(), axis=0)


def _flash(pack: Pack, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = -(-int(pack.lengths.max()) // 64) * 64  # few values, so that few kernels are chosen
    mixed = varlen_attn(query, key, value, pack.borders, pack.borders, longest, longest)
    assert isinstance(mixed, Tensor)  # without the further results that it can be asked for
    return mixed


def _by_length(found: list[tuple[int, int, int]], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for start, texts, length in found:
        part = slice(start, start + texts * length)
        q, k, v = (each[part].unflatten(0, (texts, length)).transpose(1, 2) for each in (query, key, value))
        out[part] = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
    return out


def _embed(ids: Tensor, places: Tensor, words: Tensor, positions: Tensor, norm: Norm) -> Tensor:
    return _normed(embedding(ids, words) + embedding(places, positions), norm)


def _after(states: Tensor, mixed: Tensor, layer: Layer, up: Callable[[Tensor, Layer], Tensor]) -> Tensor:
    states = _normed(states + linear(mixed, *layer.outward), layer.attention_norm)
    return _normed(states + linear(up(states, layer), *layer.down), layer.output_norm)


def _up(activation: Callable[[Tensor], Tensor], states: Tensor, layer: Layer) -> Tensor:
    return activation(linear(states, *layer.up))


def _up_gelu(states: Tensor, layer: Layer) -> Tensor:
    """The GELU inside the matrix product; in its tanh form, which differs by less than bfloat16 rounds."""
    weight, bias = layer.up
    return torch._addmm_activation(bias, states, weight.t(), use_gelu=True)


def _normed(states: Tensor, norm: Norm) -> Tensor:
    weight, bias, eps = norm
    return layer_norm(states, weight.shape, weight, bias, eps)


def _fixed(weight: Tensor) -> Tensor:
    """A weight, on whose shape a compilation may rely."""
    from torch._dynamo import mark_static  # it takes seconds to import

    mark_static(weight)
    return weight


def _of_any_length(tokens: Tensor) -> Tensor:
    """A tensor (T, …) for whose T nothing is compiled again."""
    from torch._dynamo import mark_static, maybe_mark_dynamic

    maybe_mark_dynamic(tokens, 0)
    for dimension in range(1, tokens.ndim):
        mark_static(tokens, dimension)
    return tokens


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function)
