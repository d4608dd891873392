"""The loaded models on the CPU, one batch at a time: what the batcher drives where there is no GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from app.batcher import Arrays, Pending
from app.cuda import CudaEngine
from app.operations import GRAPHABLE, ModelTask, Operation, Outputs, example_rows, run_operation
from app.settings import Precision, Settings
from models.bundle import Bundle
from models.vae import VAE

CPU_BATCH, CUDA_BATCH = 32, 256  # images: more leave a core's cache, or keep a GPU no busier


@dataclass(frozen=True)
class Done:
    """A batch whose outputs are here already."""

    arrays: Arrays

    def result(self) -> Arrays:
        """Return the outputs."""
        return self.arrays


class CpuEngine:
    """Runs batches on the CPU in the calling thread."""

    depth = 1

    def __init__(
        self,
        bundles: list[Bundle],
        threads: int | None,
        max_batch: int = CPU_BATCH,
        precision: Precision = "float32",
    ) -> None:
        self.max_batch = max_batch
        self._precision = precision
        # Channels last, which is faster at any batch; the last bits of an answer differ from the model's own.
        self._models = {bundle.id: deepcopy(bundle.model) for bundle in bundles}
        for model in self._models.values():
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graphs: dict[ModelTask, Callable[[Tensor], Outputs]] = {}
        self._threads = threads

    def __str__(self) -> str:
        return f"cpu, {self._threads or torch.get_num_threads()} thread(s), {self._precision}"

    def warm_up(self) -> None:
        """Record and run every operation; call it in the thread that will launch batches."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        for name, model in self._models.items():
            for operation in GRAPHABLE:
                with self._mixed():
                    self._graphs[ModelTask(name, operation)] = recorded(model, operation)
            for operation in (*GRAPHABLE, Operation.SCORE):
                for count in (1, 2, self.max_batch):
                    self.launch(ModelTask(name, operation), [example_rows(model, operation, count)])

    def launch(self, task: ModelTask, parts: list[np.ndarray]) -> Pending:
        """Compute the concatenated rows of `parts`."""
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if not rows.flags.writeable:  # a view of a request's body, which torch would warn of
            rows = rows.copy()
        inputs, graph = torch.from_numpy(rows), self._graphs.get(task)
        with torch.inference_mode():
            outputs = graph(inputs) if graph else self._run(task, inputs)
        return Done(tuple(output.numpy() for output in outputs))

    def _run(self, task: ModelTask, rows: Tensor) -> Outputs:
        with self._mixed():
            return run_operation(self._models[task.model], task, rows)

    def _mixed(self) -> torch.autocast:
        # Without the cache, which would keep weights that a recorded graph has to convert itself.
        is_mixed = self._precision == "bf16"
        return torch.autocast("cpu", torch.bfloat16, enabled=is_mixed, cache_enabled=False)

    def is_lost(self) -> bool:
        """Return False: a CPU fails a batch, never for good."""
        return False

    def memory(self) -> None:
        """Return None: a CPU's memory is the process's."""
        return None


class _Operation(nn.Module):
    def __init__(self, model: VAE, operation: Operation) -> None:
        super().__init__()
        self.model, self.operation = model, operation

    def forward(self, rows: Tensor) -> Outputs:
        return GRAPHABLE[self.operation](self.model, rows)


def recorded(model: VAE, operation: Operation) -> Callable[[Tensor], Outputs]:
    """Return an operation as one call into torch, with the same kernels.

    The interpreter's lock is let go of once, not at every kernel: while requests are parsed, each would wait
    for the lock longer than it runs. TorchScript is deprecated; what would replace it needs a C++ compiler.
    """
    example = torch.from_numpy(example_rows(model, operation, 2))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        graph: Callable[[Tensor], Outputs] = torch.jit.trace(
            _Operation(model, operation), example, check_trace=False
        )
    return graph


def build_engine(bundles: list[Bundle], settings: Settings) -> CpuEngine | CudaEngine:
    """Build the engine for the device in the settings; raise ValueError where there is no such device."""
    has_cuda = torch.cuda.is_available()
    if settings.device == "cpu" or (settings.device == "auto" and not has_cuda):
        if settings.precision == "tf32":
            raise ValueError("VAE_PRECISION=tf32 needs CUDA, and the device is the CPU")
        return CpuEngine(bundles, settings.threads, settings.max_batch or CPU_BATCH, settings.precision)
    device = torch.device("cuda" if settings.device == "auto" else settings.device)
    if not has_cuda or (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"VAE_DEVICE={settings.device}: there are {torch.cuda.device_count()} CUDA devices")
    return CudaEngine(
        bundles, torch.device("cuda", device.index or 0), settings.precision, settings.max_batch or CUDA_BATCH
    )
