"""How the codec's loops are compiled."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numba import config, njit

# What the image compiled when it was built: numba finds it where it may write alone.
SHIPPED = Path(__file__).parents[1] / "compiled"

F = TypeVar("F", bound=Callable[..., Any])
_njit: Any = njit  # its types know nothing of `_nrt`

compiled: Callable[[F], F] = _njit(cache=True, nogil=True)
# For what inner loops call: it becomes part of its caller, and does not count references to arrays, which
# would cost more than a layer of a network does. Such a function makes no arrays.
inlined: Callable[[F], F] = _njit(cache=True, nogil=True, forceinline=True, _nrt=False)


def lay_out(shipped: Path, cache: Path) -> None:
    """Copy what was compiled before to numba's cache, unless there is one.

    What another processor compiled is not taken by numba, which then compiles anew.
    """
    if cache.exists() or not shipped.is_dir():
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as workplace:
        copy = shutil.copytree(shipped, Path(workplace) / "copy")
        try:
            copy.rename(cache)  # whole, as other processes may look there
        except OSError:
            if not cache.exists():  # else another process was first
                raise


_config: Any = config
_cache = Path(_config.CACHE_DIR)  # of these very sources, by its name
lay_out(SHIPPED / _cache.name, _cache)
