"""The loaded models on a GPU: pinned staging, one CUDA graph for each power-of-two batch size, two in flight.

rows ─► pinned slot ─► device rows (a bucket's) ─► graph replay ─► pinned outputs ─► arrays

Everything runs on one stream, so that a batch's rows never overwrite those of the one before it, and the
graphs can share one memory pool.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.batcher import Arrays, Pending
from app.metrics import DeviceMemory
from app.operations import GRAPHABLE, ModelTask, Operation, Outputs, example_rows, run_operation
from app.settings import Precision
from models.bundle import Bundle

WARM_UP_RUNS = 3  # cuDNN chooses its algorithms before a graph may be captured


def bucket(count: int) -> int:
    """Return the smallest power of two that holds `count` rows."""
    return 1 << (count - 1).bit_length()


@dataclass(frozen=True)
class CapturedGraph:
    """A replayable computation: from `rows`, in place, to `outputs`, in place."""

    graph: torch.cuda.CUDAGraph
    rows: Tensor
    outputs: Outputs


class Slot:
    """Pinned memory of one batch in flight, grown to the largest batch seen."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return pinned memory of a shape; it holds what the slot's last batch left there."""
        size = int(np.prod(shape))
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size, dtype=dtype, pin_memory=True)
            self._buffers[name, dtype] = buffer
        return buffer[:size].view(shape)


@dataclass(frozen=True)
class InFlight:
    """A batch on the device; `outputs` are pinned and filled once `finished` has happened."""

    finished: torch.cuda.Event
    outputs: Outputs
    give_back: Callable[[], None]  # the slot that the outputs lie in

    def result(self) -> Arrays:
        """Wait for the device and return copies of the outputs; call it once."""
        try:
            self.finished.synchronize()
            return tuple(output.numpy().copy() for output in self.outputs)
        finally:
            self.give_back()


class CudaEngine:
    """Runs batches on one GPU, staging the next while one computes."""

    depth = 2

    def __init__(
        self, bundles: list[Bundle], device: torch.device, precision: Precision, max_batch: int
    ) -> None:
        self._bundles, self._device, self._precision = bundles, device, precision
        self.max_batch = max_batch
        self._graphs: dict[tuple[str, Operation, int], CapturedGraph] = {}
        self._free_slots = [Slot() for _ in range(self.depth)]

    def __str__(self) -> str:
        return f"{self._device}, {torch.cuda.get_device_name(self._device)}, {self._precision}"

    def room(self, task: ModelTask) -> int:
        """Return the images of a batch of a task at most."""
        return max(1, self.max_batch // task.samples)

    def warm_up(self) -> None:
        """Move the models to the device and capture their graphs; call it in the thread that will launch."""
        torch.cuda.set_device(self._device)
        precision = "ieee" if self._precision == "float32" else "tf32"
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = precision
        self._stream = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()
        self._models = {bundle.id: deepcopy(bundle.model).to(self._device) for bundle in self._bundles}
        torch.cuda.synchronize(self._device)
        for name in self._models:
            for operation in GRAPHABLE:
                size = bucket(self.max_batch)
                rows = torch.from_numpy(example_rows(self._models[name], operation, size)).to(self._device)
                while size:  # the largest first: the others fit into its memory
                    key = (name, operation, size)
                    self._graphs[key] = self._capture(ModelTask(name, operation), rows[:size])
                    size //= 2
            for count in (1, self.max_batch):  # so that the first score finds its kernels loaded
                scored = example_rows(self._models[name], Operation.SCORE, count)
                self.launch(ModelTask(name, Operation.SCORE), [scored]).result()

    def _capture(self, task: ModelTask, rows: Tensor) -> CapturedGraph:
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                self._run(task, rows)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = self._run(task, rows)
        return CapturedGraph(graph, rows, outputs)

    def _run(self, task: ModelTask, rows: Tensor) -> Outputs:
        is_mixed = self._precision == "bf16"
        autocast = torch.autocast("cuda", torch.bfloat16, enabled=is_mixed, cache_enabled=False)
        with torch.inference_mode(), autocast:
            return run_operation(self._models[task.model], task, rows)

    def launch(self, task: ModelTask, parts: list[np.ndarray]) -> Pending:
        """Stage the concatenated rows of `parts` and start computing them; returns before they are done."""
        slot = self._free_slots.pop()
        try:
            return self._launch(slot, task, parts)
        except BaseException:
            self._free_slots.append(slot)
            raise

    def _launch(self, slot: Slot, task: ModelTask, parts: list[np.ndarray]) -> Pending:
        staged = self._stage(slot, parts)
        with torch.cuda.stream(self._stream), torch.inference_mode():
            if task.operation in GRAPHABLE:
                captured = self._graphs[task.model, task.operation, bucket(len(staged))]
                captured.rows[: len(staged)].copy_(staged, non_blocking=True)
                captured.graph.replay()
                outputs = tuple(output[: len(staged)] for output in captured.outputs)
            else:
                outputs = self._run(task, staged.to(self._device, non_blocking=True))
            return self._fetch(slot, outputs)

    def _stage(self, slot: Slot, parts: list[np.ndarray]) -> Tensor:
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        staged = slot.tensor("rows", shape, torch.uint8 if parts[0].dtype == np.uint8 else torch.float32)
        np.concatenate(parts, out=staged.numpy())
        return staged

    def _fetch(self, slot: Slot, outputs: Outputs) -> InFlight:
        fetched = []
        for index, output in enumerate(outputs):
            target = slot.tensor(f"output {index}", tuple(output.shape), output.dtype)
            fetched.append(target.copy_(output, non_blocking=True))
        finished = torch.cuda.Event()
        finished.record(self._stream)
        return InFlight(finished, tuple(fetched), lambda: self._free_slots.append(slot))

    def is_lost(self) -> bool:
        """Return whether the device answers no more, which CUDA repeats to every call after a fault."""
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return True
        return False

    def memory(self) -> DeviceMemory | None:
        """Return the device's memory; None where it answers no more."""
        try:
            free, total = torch.cuda.mem_get_info(self._device)
            reserved = torch.cuda.memory_reserved(self._device)
            allocated = torch.cuda.memory_allocated(self._device)
        except RuntimeError:
            return None
        return DeviceMemory(str(self._device), total, total - free, reserved, allocated)
