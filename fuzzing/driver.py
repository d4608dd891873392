"""`python -m fuzzing.driver fuzzing.targets.NAME …`: a target under libFuzzer, with its options and files."""

from __future__ import annotations

import ast
import sys
from types import FunctionType

import atheris
from numpy.lib import _format_impl

from fuzzing import targets

# What guides the mutations is what they reach in these, and in numpy's reader of npy headers. Native code is
# not among it, and numba compiles the modules of the codec that are left out.
INSTRUMENTED = ["app", "codec", "models", "PIL"]
COMPILED = [
    f"codec.{name}" for name in ("context", "integer", "ladder", "latents", "layers", "mixture", "rans")
]


def main() -> None:
    """Run the target until it is at fault, or for as long as the options say."""
    module, *options = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=COMPILED):
        target = targets.load(module)
    for function in (*vars(_format_impl).values(), ast.literal_eval):
        if isinstance(function, FunctionType):
            atheris.instrument_func(function)

    def mutated(data: bytes, max_bytes: int, seed: int) -> bytes:
        changed = atheris.Mutate(data, max_bytes)
        mended = target.mended(changed) if target.mended is not None and seed % 2 else changed
        return mended[:max_bytes]

    arguments = [sys.argv[0], f"-max_len={target.max_bytes}", *options]
    mutating = {} if target.mended is None else {"custom_mutator": mutated}
    atheris.Setup(arguments, target.check, **mutating)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
