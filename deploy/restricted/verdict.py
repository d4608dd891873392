"""What must hold inside of the container, and what does not."""

from __future__ import annotations

from typing import Any

from deploy.restricted.runtime import resources

USER = "10001"
NO_CAPABILITY = "0" * 16
DENIED = {"EPERM", "EACCES", "EROFS", "ENOSYS"}
WRITABLE = {"/tmp", "/dev/shm", "/dev/mqueue"}
LIMIT_FILES = {"pids": ("pids.max",), "memory": ("memory.limit_in_bytes", "memory.max")}  # of either version
SAFE_MOUNT = {"noexec", "nosuid", "nodev"}


def faults(found: dict[str, Any]) -> list[str]:
    """Return what falls short in what `inside.look` found."""
    return [
        *(fault for name, status in found["processes"].items() for fault in of_process(name, status)),
        *([] if "ro" in found["root"].split()[1].split(",") else [f"the root is {found['root']}"]),
        *(fault for place, mount in found["writable"].items() for fault in of_place(place, mount)),
        *(f"{what}: {how}" for what, how in found["attempts"].items() if how not in DENIED),
    ]


def of_filter(found: dict[str, Any]) -> list[str]:
    """Return the processes whose system calls nothing filters."""
    return [
        f"Seccomp of {name} is {s['Seccomp']}"
        for name, s in found["processes"].items()
        if s["Seccomp"] != "2"
    ]


def of_limits(told: dict[str, str], service: dict[str, Any]) -> list[str]:
    """Return the limits that a compose file's service should have and its control groups have not."""
    asked = resources(service)
    faults = []
    for name, files in LIMIT_FILES.items():
        limit = str(asked[name]["limit"]) if name in asked else "a limit"
        found = [told[file] for file in files if file in told]
        if found != [limit]:
            faults.append(f"the limit of {name} is {' and '.join(found) or 'not told'}, not {limit}")
    return faults


def of_process(name: str, status: dict[str, str]) -> list[str]:
    """Return the privileges that a process has and should not have."""
    allowed = {
        "Uid": {" ".join([USER] * 4)},
        "Gid": {" ".join([USER] * 4)},
        "Groups": {"", USER},
        **{f"Cap{of}": {NO_CAPABILITY} for of in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
        "NoNewPrivs": {"1"},
    }
    return [f"{key} of {name} is {status[key]!r}" for key in allowed if status[key] not in allowed[key]]


def of_place(place: str, mount: str) -> list[str]:
    """Return what is wrong with a place that can be written."""
    system, options = mount.split()
    if place not in WRITABLE or system not in {"tmpfs", "mqueue"}:
        return [f"{place} can be written ({mount})"]
    missing = SAFE_MOUNT - set(options.split(","))
    return [f"{place} is mounted without {name}" for name in sorted(missing)]


def of_routes(statuses: dict[str, int]) -> list[str]:
    """Return the routes that did not answer as they should."""
    return [f"{route} answered {status}" for route, status in statuses.items() if status != 200]
