"""The VAE codec: payloads without loss, or within an error, made in integers alone.

    images ─► payload ─► chunks ─┬─► chunk: encoder ─► k ─► latents, decoder ─► context ─► rans ─┬─► bytes
                                 └─► classical: WebP, where no model fits or it is less ──────────┘

`integer` and `networks` run the VAE in integers, `layers` the context network; `mixture` gives a level's
table. FORMAT.md is the contract. Classical streams are lossless unless loss is asked for.
"""

import hashlib
import os
from pathlib import Path

import numba

# Numba compiles a function anew when its own file changes, not when one that it imports does.
_FOLDER = Path(__file__).parent
_SOURCES = b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.py")))
_CACHE = Path(os.environ.get("NUMBA_CACHE_DIR") or _FOLDER / "__pycache__")
numba.config.CACHE_DIR = str(_CACHE / f"codec-{hashlib.sha256(_SOURCES).hexdigest()[:16]}")  # type: ignore[attr-defined]
