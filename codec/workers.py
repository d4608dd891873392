"""Threads that code chunks side by side."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def workers(threads: int) -> ThreadPoolExecutor:
    """Return an executor of threads that torch does not divide further: chunks are what is divided.

    All are there when it returns: where one cannot be started (RuntimeError), that is known now, and not by a
    chunk that is never coded.
    """
    executor = ThreadPoolExecutor(threads, "codec", initializer=_keep_to_one_thread)
    all_are_there = threading.Barrier(threads)
    try:
        for running in [executor.submit(all_are_there.wait) for _ in range(threads)]:
            running.result()
    except BaseException:
        all_are_there.abort()  # or those that are there would wait for ever, and the process for them
        executor.shutdown(wait=False)
        raise
    return executor


def _keep_to_one_thread() -> None:
    # Not torch.set_num_threads, which changes every thread that first uses torch later. Torch sets its own
    # number in a thread that first asks for it, so that comes before ours.
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")
