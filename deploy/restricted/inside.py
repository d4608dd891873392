"""What is looked at from inside of the container, with the standard library alone.

`python inside.py look` tries what a process that was taken over would, `python inside.py ask PORT` asks every
route of the service; each prints JSON.
"""

from __future__ import annotations

import ctypes
import errno
import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
KERNEL = ("/proc", "/sys", "/dev/pts")
KINDS = (stat.S_IFREG, stat.S_IFDIR)
SHOWN = 20  # writable places, beyond which there is nothing more to learn
JSON = "application/json"


def look() -> dict[str, Any]:
    """Return the privileges of every process here, what can be written, and what an intruder would try."""
    return {
        "processes": dict(processes()),
        "root": mount_options("/"),
        "writable": {place: mount_options(place) for place in writable()},
        "attempts": {name: outcome(attempt) for name, attempt in ATTEMPTS.items()},
    }


def processes() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name and the privileges of each process that can be seen, this one too."""
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        lines = (folder / "status").read_text().splitlines()
        fields = {key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines)}
        yield f"{folder.name} {fields['Name']}", {key: fields[key] for key in STATUS}


def mounts() -> dict[str, str]:
    """Return the file system and the options of each place where one is mounted."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        found[fields[4]] = f"{after.split()[0]} {fields[5]}"  # the last one lies on top
    return found


def mount_options(place: str) -> str:
    """Return the file system on which a place lies, and how it is mounted."""
    found = mounts()
    path = Path(place)
    return next(found[str(each)] for each in (path, *path.parents) if str(each) in found)


def writable() -> list[str]:
    """Return the folders and files that this process may write, each folder without what is in it.

    What the kernel says is mounted read-only is not walked through: nothing there can be written.
    """
    found = mounts()
    places: list[str] = []
    for mounted, options in found.items():
        if "rw" in options.split()[1].split(",") and not mounted.startswith(KERNEL):
            places += writable_within(mounted, others=found.keys() - {mounted})
    return sorted(places)[:SHOWN]


def writable_within(top: str, others: Set[str]) -> Iterator[str]:
    """Yield what may be written in a file system, up to where others are mounted."""
    if os.access(top, os.W_OK):
        yield top
        return
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if os.path.join(folder, name) not in others]
        for name in (*names, *files):
            path = os.path.join(folder, name)
            if stat.S_IFMT(os.lstat(path).st_mode) in KINDS and os.access(path, os.W_OK):
                yield path
        names[:] = [name for name in names if not os.access(os.path.join(folder, name), os.W_OK)]


def outcome(attempt: Callable[[], object]) -> str:
    """Return "done", or the name of the error that kept it from being done."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def _mount() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def _run_from_tmp() -> None:
    program = shutil.copy("/bin/true", "/tmp/program")
    try:
        Path(program).chmod(0o755)
        subprocess.run([program], check=True)
    finally:
        os.unlink(program)


def _raw_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


ATTEMPTS: dict[str, Callable[[], object]] = {
    "become root": lambda: os.setuid(0),
    "mount a file system": _mount,
    "open a raw socket": _raw_socket,
    "make a device": lambda: os.mknod("/tmp/device", 0o020666, os.makedev(1, 1)),
    "change the root": lambda: os.chroot("/tmp"),
    "write beside the program": lambda: Path("written").touch(),
    "write to the root": lambda: Path("/written").touch(),
    "write to /var/tmp": lambda: Path("/var/tmp/written").touch(),
    "run a program from /tmp": _run_from_tmp,
}


class Asker:
    """Asks the service, and keeps each route's status."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.statuses: dict[str, int] = {}

    def __call__(self, method: str, route: str, query: str = "", body: Any = None, **names: str) -> bytes:
        """Ask a route, which has its names in braces, and return the body of the answer."""
        kind = JSON if isinstance(body, dict) else "image/png"
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(
            method, route.format(**names) + query, sent, {"Content-Type": kind} if sent else {}
        )
        answer = connection.getresponse()
        received = answer.read()
        connection.close()
        self.statuses[f"{method} {route}"] = answer.status
        return received


def ask(port: int) -> dict[str, int]:
    """Return the status of every route of the OpenAPI document, and of the pages; -1 for one not asked."""
    asked = Asker(port)
    png = asked("GET", "/sample", "?n=1&seed=1&format=png")
    latents = json.loads(asked("POST", "/encode", body=png))["mu"]
    asked("POST", "/decode", body={"latents": latents})
    asked("POST", "/reconstruct", body=png)
    asked("POST", "/score", "?samples=2", png)
    payload = json.loads(asked("POST", "/compress", body=png))["payload"]
    asked("POST", "/decompress", body={"payload": payload})
    [model, *_] = (each["id"] for each in json.loads(asked("GET", "/models"))["models"])
    for route in ("/models/{id}", "/models/{id}/latents"):
        asked("GET", route, id=model)
    for route in ("/v2", "/v2/models/stats"):
        asked("GET", route)
    for health in ("/health/live", "/health/ready"):
        asked("GET", health)
        asked("GET", f"/v2{health}")
    asked("POST", "/v2/repository/index", body={"ready": True})
    inputs = [{"name": "n", "datatype": "INT64", "shape": [1], "data": [1]}]
    for at in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        for end in ("", "/ready", "/config", "/stats"):
            asked("GET", at + end, name="sample", version="1")
        asked("POST", f"{at}/infer", body={"inputs": inputs}, name="sample", version="1")
    for page in ("/", "/docs", "/metrics"):
        asked("GET", page)
    paths = json.loads(asked("GET", "/openapi.json"))["paths"]
    listed = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    return {**dict.fromkeys(listed, -1), **asked.statuses}


if __name__ == "__main__":
    print(json.dumps(look() if sys.argv[1] == "look" else ask(int(sys.argv[2]))))
