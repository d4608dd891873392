"""Counter-based noise: item i of seed s has the same noise whatever batch or offset asks for it.

Philox 4×64 (Salmon et al. 2011) is keyed by (seed, stream) and its counter by the item, so any run of
items is one contiguous read of the generator. Only its raw 64-bit words are used: they are a fixed
function of key and counter, where NumPy's own distributions may change between its versions. The logarithm
and the cosine that make normals of them are the machine's: another one may round the last bit otherwise.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64

NORMAL, COMPONENT = 0, 1  # streams
MAX_SEED = 2**63 - 1
_WORDS_PER_BLOCK = 4


def _uniform_words(
    seed: int, stream: int, offset: int, count: int, words: int
) -> Float64[np.ndarray, "count words"]:
    """Return uniforms in (0, 1], each from the upper 53 bits of a word; only a word of ones rounds to 1."""
    blocks = -(-words // _WORDS_PER_BLOCK)
    generator = np.random.Philox(key=[seed, stream], counter=offset * blocks)
    raw = generator.random_raw(count * blocks * _WORDS_PER_BLOCK).reshape(count, -1)[:, :words]
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal_noise(seed: int, offset: int, count: int, dim: int) -> Float32[np.ndarray, "count dim"]:
    """Return standard normal noise of items offset … offset + count − 1, by the Box–Muller transform."""
    pairs = -(-dim // 2)
    uniforms = _uniform_words(seed, NORMAL, offset, count, 2 * pairs)
    radius = np.sqrt(-2 * np.log(uniforms[:, :pairs]))
    angle = 2 * np.pi * uniforms[:, pairs:]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals[:, :dim].astype(np.float32)


def component_noise(seed: int, offset: int, count: int) -> Float64[np.ndarray, " count"]:
    """Return one uniform in (0, 1] an item, to choose its mixture component."""
    return _uniform_words(seed, COMPONENT, offset, count, 1)[:, 0]
