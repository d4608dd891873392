"""What an engine makes of a compose file and an image: the OCI runtime's configuration.

Docker hands the same configuration to the same kind of runtime, so that runc, which needs no engine, runs the
image under the same restrictions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Json = dict[str, Any]

# What Docker leaves to a container of which nothing is taken away.
DOCKER_CAPABILITIES = [
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"),
    *("CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP"),
    *("CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"),
]
NAMESPACES = ("pid", "ipc", "uts", "mount", "network", "cgroup")
SAFE = "nosuid,noexec,nodev"
MOUNTS = (
    ("/proc", "proc", SAFE),
    ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620"),
    ("/dev/mqueue", "mqueue", SAFE),
    ("/dev/shm", "tmpfs", f"{SAFE},mode=1777,size=65536k"),
    ("/sys", "sysfs", f"{SAFE},ro"),
)
MASKED = ("acpi", "asound", "interrupts", "kcore", "keys", "sched_debug", "scsi", "timer_list")
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
INIT = "/sbin/docker-init"
ARCHITECTURES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}
UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def compose_service(file: Path) -> Json:
    """Return the one service of a compose file."""
    [service] = YAML(typ="safe").load(file)["services"].values()
    return dict(service)


def configuration(service: Json, image: Json, root: Path, init: Path | None, seccomp: Json | None) -> Json:
    """Return the runtime's configuration for a service of a compose file and the `config` of its image."""
    user, _, group = str(service.get("user", image["User"] or "0:0")).partition(":")
    environment = [*image["Env"], *(f"{key}={value}" for key, value in service["environment"].items())]
    kept = capabilities(service)
    command = list(image["Cmd"])
    mounts = [mount(*each) for each in (*MOUNTS, *map(tmpfs, service.get("tmpfs", [])))]
    mounts.append(mount("/etc/hosts", "bind", "bind,ro", "hosts"))
    if init is not None and service.get("init"):
        command = [INIT, "--", *command]
        mounts.append(mount(INIT, "bind", "bind,ro,nosuid,nodev", str(init)))
    return {
        "ociVersion": "1.0.2",
        "hostname": "vaeserve",
        "process": {
            "user": {"uid": int(user), "gid": int(group)},
            "args": command,
            "env": environment,
            "cwd": image["WorkingDir"],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), kept),
            "noNewPrivileges": "no-new-privileges:true" in service.get("security_opt", []),
        },
        "root": {"path": str(root), "readonly": bool(service.get("read_only"))},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "maskedPaths": [*(f"/proc/{name}" for name in MASKED), "/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in READ_ONLY],
            "resources": resources(service),
            **({"seccomp": seccomp} if seccomp else {}),
        },
    }


def capabilities(service: Json) -> list[str]:
    """Return the capabilities that a service keeps."""
    dropped = {f"CAP_{name}" for name in service.get("cap_drop", [])}
    left = [] if "CAP_ALL" in dropped else [name for name in DOCKER_CAPABILITIES if name not in dropped]
    return left + [f"CAP_{name}" for name in service.get("cap_add", [])]


def tmpfs(line: str) -> tuple[str, str, str]:
    """Return the mount of a line of `tmpfs`, with the options that Docker adds where it says nothing else."""
    place, _, given = line.partition(":")
    names = given.split(",")
    added = [option for option in SAFE.split(",") if option.removeprefix("no") not in names]
    return place, "tmpfs", ",".join(filter(None, (*added, *(name for name in names if name not in added))))


def mount(place: str, system: str, options: str, source: str = "") -> Json:
    """Return a mount in the runtime's words."""
    return {
        "destination": place,
        "type": system,
        "source": source or system,
        "options": options.split(","),
    }


def resources(service: Json) -> Json:
    """Return the limits of a service."""
    limits: Json = {}
    if service.get("pids_limit"):
        limits["pids"] = {"limit": int(service["pids_limit"])}
    if service.get("mem_limit"):
        limits["memory"] = {"limit": in_bytes(service["mem_limit"])}
    return limits


def in_bytes(size: str) -> int:
    """Return a size of a compose file, such as 64m, in bytes."""
    if (parts := re.fullmatch(r"(\d+)([bkmg])b?", size.lower())) is None:
        raise ValueError(f"no size: {size}")
    return int(parts[1]) * UNITS[parts[2]]


def seccomp_filter(profile: Json, kept: list[str], machine: str) -> Json:
    """Return the runtime's filter of a profile as engines ship it, for the capabilities kept on a machine."""
    architecture, name = ARCHITECTURES[machine]
    rules = [
        {key: rule[key] for key in ("names", "action", "errnoRet", "args") if rule.get(key)}
        for rule in profile["syscalls"]
        if applies(rule, set(kept), architecture)
    ]
    native = next(each for each in profile["archMap"] if each["architecture"] == name)
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": [native["architecture"], *native["subArchitectures"]],
        "syscalls": rules,
    }


def applies(rule: Json, kept: set[str], architecture: str) -> bool:
    """Tell whether a rule is for a container that keeps these capabilities, on this architecture."""
    included, excluded = rule.get("includes") or {}, rule.get("excludes") or {}
    return (
        set(included.get("caps") or []) <= kept
        and architecture in (included.get("arches") or [architecture])
        and not set(excluded.get("caps") or []) & kept
        and architecture not in (excluded.get("arches") or [])
    )


def in_seconds(period: str) -> float:
    """Return a period of a compose file, such as 40s, in seconds."""
    return float(period.removesuffix("s"))
