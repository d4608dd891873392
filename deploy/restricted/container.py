"""An image of buildah's storage, run by runc without an engine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]
INSIDE = (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")
CGROUPS = Path("/sys/fs/cgroup")
NAME = f"vaeserve-restricted-{os.getpid()}"
LIMITS = (
    *("pids.max", "pids.current"),
    *("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.max", "memory.peak"),
)
WAITING = "import signal; signal.pause()"
READY_SECONDS, ASK_SECONDS = 180, 1


@contextmanager
def mounted(image: str) -> Iterator[tuple[Path, Json]]:
    """Give the files of an image, in a copy of its own, and its `config`."""
    container = said("buildah", "from", "--pull-never", image)
    try:
        described = json.loads(said("buildah", "inspect", "--type", "image", image))
        yield Path(said("buildah", "mount", container)), described["Docker"]["config"]
    finally:
        said("buildah", "rm", container)


def looked(configuration: Json) -> Json:
    """Return what is seen from inside of a container that does nothing else."""
    process = {**configuration["process"], "args": ["python", "-I", "-", "look"]}
    with bundle({**configuration, "process": process}) as folder:
        return decoded(said("runc", "run", "--bundle", str(folder), NAME, feed=INSIDE))


def limited(configuration: Json) -> dict[str, str]:
    """Return the limits of a container that does nothing but wait."""
    process = {**configuration["process"], "args": ["python", "-I", "-c", WAITING]}
    with Container({**configuration, "process": process}, ["python", "-I", "-c", ""]) as container:
        container.wait_until_ready()
        return container.limits()


class Container:
    """The image's own command, from its start to its end."""

    def __init__(self, configuration: Json, health: list[str]) -> None:
        self._configuration, self._health = configuration, health

    def __enter__(self) -> Self:
        self._folder = bundle(self._configuration)
        self._process = subprocess.Popen(["runc", "run", "--bundle", self._folder.__enter__(), NAME])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            subprocess.run(["runc", "delete", "--force", NAME], check=False)
            self._process.wait()
        self._folder.__exit__(kind, error, trace)

    def wait_until_ready(self) -> float:
        """Ask what the image's health check asks until it passes; return the seconds that it took."""
        began = time.monotonic()
        while subprocess.run(["runc", "exec", NAME, *self._health], capture_output=True).returncode != 0:
            if self._ended_within(ASK_SECONDS) or time.monotonic() - began > READY_SECONDS:
                raise RuntimeError("the service did not become ready")
        return time.monotonic() - began

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def told(self, *arguments: str) -> Json:
        """Return what inside.py says in the container."""
        return decoded(said("runc", "exec", NAME, "python", "-I", "-", *arguments, feed=INSIDE))

    def limits(self) -> dict[str, str]:
        """Return the limits of the container's control groups, of either version, and what was used."""
        pid = json.loads(said("runc", "state", NAME))["pid"]
        found = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for name in LIMITS:
                for file in (CGROUPS / controllers / path[1:] / name, CGROUPS / path[1:] / name):
                    if file.exists():
                        found[name] = file.read_text().strip()
        return found

    def stop(self, seconds: float) -> tuple[int, float]:
        """Send SIGTERM; return the exit status and the seconds that it took."""
        began = time.monotonic()
        said("runc", "kill", NAME, "TERM")
        return self._process.wait(seconds), time.monotonic() - began


@contextmanager
def bundle(configuration: Json) -> Iterator[str]:
    """Give a folder with the runtime's configuration, and the names that an engine writes there."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="utf-8")
        (Path(folder) / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
        yield folder


def said(*command: str, feed: str | None = None) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, input=feed, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def decoded(text: str) -> Json:
    """Return a JSON object."""
    return dict(json.loads(text))
