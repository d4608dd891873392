"""`python -m deploy.restricted`: run the image under the compose file's restrictions, and record it.

It needs root, buildah (in whose storage the image is) and runc; `make image` builds the image.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving.machine import describe_commit, describe_machine
from deploy.restricted import verdict
from deploy.restricted.container import Container, limited, looked, mounted, said
from deploy.restricted.runtime import capabilities, compose_service, configuration, in_seconds, seccomp_filter

HERE = Path(__file__).parent
COMPOSE = "docker-compose.cpu.yml"
INITS = (Path("/usr/bin/docker-init"), Path("/usr/bin/tini-static"))
SECCOMP = Path("/usr/share/containers/seccomp.json")
RESTRICTIONS = (
    *("read_only", "tmpfs", "cap_drop", "security_opt", "pids_limit", "mem_limit"),
    *("init", "environment", "stop_grace_period"),
)
# Each takes one restriction away, which has to be seen: from inside, or for limits in the control groups.
CONTROLS: dict[str, dict[str, Any]] = {
    "a root that can be written": {"read_only": False},
    "the capabilities that Docker leaves": {"cap_drop": []},
    "new privileges": {"security_opt": []},
    "root as the user": {"user": "0:0"},
    "programs in /tmp": {"tmpfs": ["/tmp:exec,mode=1777,size=64m"]},
}
LIMIT_CONTROLS: dict[str, dict[str, Any]] = {
    "any number of processes": {"pids_limit": None},
    "memory without an end": {"mem_limit": None},
}
Json = dict[str, Any]


def main() -> int:
    """Record the run; return 1 where something falls short, or a control is not seen."""
    parser = argparse.ArgumentParser(prog="python -m deploy.restricted")
    parser.add_argument("--image", default="vaeserve:cpu", help="in buildah's storage")
    parser.add_argument("--to", type=Path, default=HERE / "result.json")
    options = parser.parse_args()
    service = compose_service(HERE.parents[1] / COMPOSE)
    with mounted(options.image) as (root, image):
        record = recorded(service, image, root)
    unseen = [f"not seen: {name}" for name, seen in record["controls"].items() if not seen]
    faults = record["faults"] + unseen
    described = {
        "command": f"python -m deploy.restricted --image {options.image}",
        "commit": describe_commit(),
        "machine": {**describe_machine(), "kernel": said("uname", "-r")},
        "versions": {tool: said(tool, "--version").splitlines()[0] for tool in ("runc", "buildah")},
    }
    options.to.write_text(json.dumps({**described, **record}, indent=2) + "\n", encoding="utf-8")
    print(*faults or ["every restriction holds, and is missed where it is taken away"], sep="\n")
    return 1 if faults else 0


def recorded(service: Json, image: Json, root: Path) -> Json:
    """Return what was applied, what was seen of it, and what is seen with one restriction less."""
    init = next((path for path in INITS if path.exists()), None)
    profile = json.loads(SECCOMP.read_text(encoding="utf-8")) if SECCOMP.exists() else None

    def configured(**changes: Any) -> Json:
        changed = {**service, **changes}
        filtered = seccomp_filter(profile, capabilities(changed), platform.machine()) if profile else None
        return configuration(changed, image, root, init, filtered)

    unfiltered = configuration(service, image, root, init, None)

    with Container(configured(), image["Healthcheck"]["Test"][1:]) as container:
        ready_seconds = container.wait_until_ready()
        routes, found, limits = container.told("ask", "8000"), container.told("look"), container.limits()
        status, stop_seconds = container.stop(in_seconds(service["stop_grace_period"]))
    return {
        "from": COMPOSE,
        "applied": {key: service[key] for key in RESTRICTIONS},
        "user": image["User"],
        "seccomp": str(SECCOMP) if profile else None,
        "init_program": str(init) if init else None,
        "not_applied": {
            "AppArmor": "no profile is loaded without Docker's engine",
            "port": "asked from inside, in a network of its own without a way out",
            **({} if init else {"init": "no docker-init here, nor tini-static"}),
            **({} if profile else {"seccomp": "no profile here"}),
        },
        "seconds": {"until ready": round(ready_seconds, 1), "to stop": round(stop_seconds, 1)},
        "exit_status_on_sigterm": status,
        "limits": limits,
        "found": found,
        "routes": routes,
        "faults": [
            *verdict.faults(found),
            *(verdict.of_filter(found) if profile else []),
            *verdict.of_limits(limits, service),
            *verdict.of_routes(routes),
            *([f"exit status {status}"] if status else []),
        ],
        "controls": {
            **{name: verdict.faults(looked(configured(**each))) for name, each in CONTROLS.items()},
            **{
                name: verdict.of_limits(limited(configured(**each)), service)
                for name, each in LIMIT_CONTROLS.items()
            },
            "no filter of system calls": verdict.of_filter(looked(unfiltered)),
        },
    }


if __name__ == "__main__":
    sys.exit(main())
