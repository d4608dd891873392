"""An entropy coder: range asymmetric numeral systems (Duda 2013) on one 64-bit state, exact integers alone.

    symbols, last to first ─► push(state, start, frequency) ─► state and words ─► bytes
    bytes ─► state and words ─► peek a slot, find its symbol, pop(state, start, frequency) ─► first symbol …

A symbol owns `frequency` of TOTAL slots, from `start`. The state starts at nothing, so that a stream has no
length of its own to pay for: the decoder reads words while there are any, and runs down to the same zero.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from codec.compiled import compiled

TOTAL_BITS = 20
TOTAL = 1 << TOTAL_BITS
_WORD_BITS = 16
_LOW_BITS = 40  # a state with words behind it is in [2^40, 2^56)
_HIGH_BITS = _LOW_BITS + _WORD_BITS
_MAX_STATE_BYTES = _HIGH_BITS // 8


# What a symbol of 1024 … 2047 slots costs beyond one of 2048, in COSTS_A_BIT-ths of a bit.
COSTS_A_BIT = 256
_MANTISSA_BITS = 10
_MANTISSAS = np.arange(1 << _MANTISSA_BITS, 2 << _MANTISSA_BITS)
_COSTS = np.round(COSTS_A_BIT * (_MANTISSA_BITS + 1 - np.log2(_MANTISSAS))).astype(np.int64)


class StreamError(ValueError):
    """Coded bytes that no encoder wrote."""


@compiled
def push(state: int, start: int, frequency: int, words: np.ndarray, count: int) -> tuple[int, int]:
    """Code a symbol; return the new state, and the count of `words` with those that left the state."""
    while state >= frequency << (_HIGH_BITS - TOTAL_BITS):
        words[count] = state & 0xFFFF
        state >>= _WORD_BITS
        count += 1
    return ((state // frequency) << TOTAL_BITS) + start + state % frequency, count


@compiled
def pop(state: int, start: int, frequency: int, words: np.ndarray, count: int) -> tuple[int, int]:
    """Take the symbol that owns the state's slot off; return the state before it, and the words left."""
    state = frequency * (state >> TOTAL_BITS) + (state & (TOTAL - 1)) - start
    while state < 1 << _LOW_BITS and count > 0:
        count -= 1
        state = (state << _WORD_BITS) | words[count]
    return state, count


@compiled
def cost(frequency: int) -> int:
    """Return what a symbol of so many slots costs: −log2(frequency / TOTAL), in COSTS_A_BIT-ths of a bit."""
    octave = 0
    while frequency >= 2 << _MANTISSA_BITS:
        frequency >>= 1
        octave += 1
    while frequency < 1 << _MANTISSA_BITS:
        frequency <<= 1
        octave -= 1
    return (TOTAL_BITS - _MANTISSA_BITS - 1 - octave) * COSTS_A_BIT + _COSTS[
        frequency - (1 << _MANTISSA_BITS)
    ]


@compiled
def costs_of(frequencies: np.ndarray) -> np.ndarray:
    """Return the sum of what symbols cost, an image a row."""
    costs = np.zeros(len(frequencies), np.int64)
    for n in range(len(frequencies)):
        for i in range(frequencies.shape[1]):
            costs[n] += cost(frequencies[n, i])
    return costs


@compiled
def push_all(starts: np.ndarray, frequencies: np.ndarray, words: np.ndarray) -> tuple[int, int]:
    """Code symbols, last to first, on an empty state; return the state and the count of words."""
    state, count = 0, 0
    for i in range(len(starts) - 1, -1, -1):
        state, count = push(state, starts[i], frequencies[i], words, count)
    return state, count


def encode(starts: Int64[np.ndarray, " symbol"], frequencies: Int64[np.ndarray, " symbol"]) -> bytes:
    """Return the stream of symbols given by their slots, at least one each."""
    words = np.empty(2 * len(starts) + 1, np.uint16)
    state, count = push_all(starts, frequencies, words)
    state_bytes = int(state).to_bytes((int(state).bit_length() + 7) // 8, "big")
    return state_bytes + words[:count][::-1].astype(">u2").tobytes()


def opened(stream: bytes) -> tuple[int, np.ndarray]:
    """Return the state and the words of a stream, the next word last; raise StreamError for a broken one."""
    size = len(stream)
    if size > _MAX_STATE_BYTES:  # then words are there, and the state has 6 or 7 bytes
        size = _MAX_STATE_BYTES if len(stream) % 2 else _MAX_STATE_BYTES - 1
    if stream[:1] == b"\0":
        raise StreamError("the stream begins with a zero byte, as none that an encoder wrote does")
    words = np.frombuffer(stream, ">u2", offset=size)[::-1].astype(np.uint16)
    return int.from_bytes(stream[:size], "big"), words
