"""Threads that code chunks side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def workers(threads: int) -> ThreadPoolExecutor:
    """Return an executor of threads that torch does not divide further: chunks are what is divided."""
    return ThreadPoolExecutor(threads, "codec", initializer=_keep_to_one_thread)


def _keep_to_one_thread() -> None:
    # Not torch.set_num_threads, which changes every thread that first uses torch later. Torch sets its own
    # number in a thread that first asks for it, so that comes before ours.
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")
