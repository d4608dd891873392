"""The loaded models on the CPU, one batch at a time: what the batcher drives where there is no GPU."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from app.batcher import Arrays, Pending
from app.cuda import CudaEngine
from app.interpreter import PromptReturn
from app.operations import GRAPHABLE, ModelTask, Operation, Outputs, example_rows, run_operation
from app.settings import Precision, Settings
from models.bundle import Bundle
from models.vae import VAE

CPU_BATCH, CUDA_BATCH = 32, 256  # images: more leave a core's cache, or keep a GPU no busier
# For small networks, of whose images some are computed in the time that a batch takes to be handed over.
LARGER_BATCHES = (64, 128, 256)
LARGER_SECONDS = 0.01  # at most, as a small request waits for a batch of what came before it
LEAST_RATE = 0.9  # of the most images a second
TRIALS = 3
MAX_JOINED_BYTES = 1 << 20  # in one go, which takes a tenth of a millisecond
log = logging.getLogger("vaeserve")


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
        max_batch: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.max_batch = max_batch or CPU_BATCH
        self._chooses_batches = max_batch is None
        self._batches: dict[tuple[str, Operation], int] = {}  # where another is better
        self._precision = precision
        # Channels last, which is faster at any batch; the last bits of an answer differ from the model's own.
        self._models = {bundle.id: deepcopy(bundle.model) for bundle in bundles}
        for model in self._models.values():
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graphs: dict[ModelTask, Callable[[Tensor], Outputs]] = {}
        self._threads = threads
        self._returns: defaultdict[tuple[str, Operation], PromptReturn] = defaultdict(PromptReturn)

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
            if self._chooses_batches:
                for operation in GRAPHABLE:
                    self._batches[name, operation] = self._best_batch(ModelTask(name, operation))
                rooms = ", ".join(
                    f"{self._batches[name, operation]} to {operation}" for operation in GRAPHABLE
                )
                log.info("%s: images of a batch are %s", name, rooms)

    def room(self, task: ModelTask) -> int:
        """Return the images of a batch of a task at most."""
        return max(1, self._batches.get((task.model, task.operation), self.max_batch) // task.samples)

    def _best_batch(self, task: ModelTask) -> int:
        seconds = {CPU_BATCH: self._seconds_of(task, CPU_BATCH)}
        for count in LARGER_BATCHES:
            if seconds[count // 2] > LARGER_SECONDS / 2:
                break
            seconds[count] = self._seconds_of(task, count)
        return best_batch(seconds)

    def _seconds_of(self, task: ModelTask, count: int) -> float:
        """Return the seconds of a batch: the least of some, or of fewer that are too slow."""
        rows = example_rows(self._models[task.model], task.operation, count)
        seconds = math.inf
        for trial in range(1 + TRIALS):  # the first also makes memory, and may take twice as long for it
            started = time.perf_counter()
            self.launch(task, [rows])
            seconds = min(seconds, time.perf_counter() - started)
            if seconds > LARGER_SECONDS * (1 if trial else 2):
                break
        return seconds

    def launch(self, task: ModelTask, parts: list[np.ndarray]) -> Pending:
        """Compute the concatenated rows of `parts`."""
        # What is read-only is a view of a request's body, which torch would warn of.
        is_ready = len(parts) == 1 and parts[0].flags.writeable
        rows = parts[0] if is_ready else joined_rows(parts)
        inputs, graph = torch.from_numpy(rows), self._graphs.get(task)
        with torch.inference_mode(), self._returns[task.model, task.operation]:
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


def joined_rows(parts: list[np.ndarray]) -> np.ndarray:
    """Return a copy of the rows of `parts`, which are of one dtype and row shape.

    NumPy lets go of the interpreter's lock at every part, and each time waits to have it back: several parts
    are joined without that, unless there are so many bytes that others had better not wait for them.
    """
    if len(parts) == 1 or sum(part.nbytes for part in parts) > MAX_JOINED_BYTES:
        return np.concatenate(parts)
    rows = bytearray().join(np.ascontiguousarray(part).data for part in parts)
    return np.frombuffer(rows, parts[0].dtype).reshape(-1, *parts[0].shape[1:])


def best_batch(seconds: Mapping[int, float]) -> int:
    """Return the most images whose batch takes no long time, and hardly more for an image than others.

    `seconds` are those of batches of each size, the smallest one first, which is taken where none is better.
    """
    rates = {count: count / spent for count, spent in seconds.items()}
    least_rate = LEAST_RATE * max(rates.values())
    good = [n for n, spent in seconds.items() if spent <= LARGER_SECONDS and rates[n] >= least_rate]
    return max(good, default=min(seconds))


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
        return CpuEngine(bundles, settings.threads, settings.max_batch, settings.precision)
    device = torch.device("cuda" if settings.device == "auto" else settings.device)
    if not has_cuda or (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"VAE_DEVICE={settings.device}: there are {torch.cuda.device_count()} CUDA devices")
    return CudaEngine(
        bundles, torch.device("cuda", device.index or 0), settings.precision, settings.max_batch or CUDA_BATCH
    )
