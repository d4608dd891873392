"""A host without memory: large requests are refused clearly, and the service goes on."""

from __future__ import annotations

import json
import resource
from collections import Counter

from benchmarks.faults.bombs import plain_png
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import questions_of
from benchmarks.faults.service import left_after, ready_service, status_bytes

TIMES, SPARE_BYTES = 20, 16 << 20
SIDE = 4096
SETTINGS = {"VAE_THREADS": "1"}


def run(setup: Setup) -> list[Row]:
    """Forbid the process more address space, then ask for what would take it, and for what does not."""
    image, png = plain_png(SIDE, SIDE), {"Content-Type": "image/png"}
    [small, *_] = questions_of(setup.bundle)
    times, found, right = setup.times(TIMES), Counter[str](), 0
    with ready_service(setup, SETTINGS) as service:

        def ask_much() -> str:
            answer = service.ask("POST", "/encode?fit=resize", image, png)
            return "200" if answer.status == 200 else f"{answer.status} {json.loads(answer.body)['detail']}"

        ask_much()  # the threads that it needs are there then
        pid = service.process.popen.pid
        limit = status_bytes(pid, "VmSize") + SPARE_BYTES
        before = service.held()
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        for _ in range(times):
            found[ask_much()] += 1
            answer = service.ask(small.method, small.path, small.body, small.headers)
            right += answer.status == 200 and small.is_right(answer.body)
        left, is_ready = left_after(service, before), service.is_ready()
    return [
        Row(
            "no more memory on the host",
            times,
            SETTINGS,
            {"large": dict(found), "small_right": right, **left.figures()},
            {
                "large requests are refused, and told why": set(found)
                == {"429 the host has no memory for this request now"},
                "small requests are answered": right == times,
                **left.promises(),
                "ready at the end": is_ready,
            },
        )
    ]
