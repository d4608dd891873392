"""How the codec's loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])
_njit: Any = njit  # its types know nothing of `_nrt`

compiled: Callable[[F], F] = _njit(cache=True, nogil=True)
# For what inner loops call: it becomes part of its caller, and does not count references to arrays, which
# would cost more than a layer of a network does. Such a function makes no arrays.
inlined: Callable[[F], F] = _njit(cache=True, nogil=True, forceinline=True, _nrt=False)
