"""The run under compose's restrictions: what the runtime is told, and what counts as a fault."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.restricted import inside, runtime, verdict
from deploy.restricted.__main__ import COMPOSE, CONTROLS, LIMIT_CONTROLS, RESTRICTIONS

ROOT = Path(__file__).parents[2]
RECORD: dict[str, Any] = json.loads(
    (ROOT / "deploy" / "restricted" / "result.json").read_text(encoding="utf-8")
)
SERVICE = runtime.compose_service(ROOT / COMPOSE)
IMAGE = {
    "User": "10001:10001",
    "Env": ["VAE_PORT=8000"],
    "Cmd": ["python", "-m", "app"],
    "WorkingDir": "/srv",
}


def configured(**changes: Any) -> dict[str, Any]:
    return runtime.configuration({**SERVICE, **changes}, IMAGE, Path("/root-of-the-image"), None, None)


def mounts(configuration: dict[str, Any]) -> dict[str, set[str]]:
    return {each["destination"]: set(each["options"]) for each in configuration["mounts"]}


class TestTheRuntimeIsTold:
    def test_the_user_of_the_image_and_the_environment_of_both(self) -> None:
        process = configured()["process"]
        assert process["user"] == {"uid": 10001, "gid": 10001}
        assert process["env"] == ["VAE_PORT=8000", *(f"{k}={v}" for k, v in SERVICE["environment"].items())]
        assert (process["args"], process["cwd"]) == (["python", "-m", "app"], "/srv")

    def test_a_root_that_is_read_only(self) -> None:
        assert configured()["root"] == {"path": "/root-of-the-image", "readonly": True}
        assert configured(read_only=False)["root"]["readonly"] is False

    def test_no_capability(self) -> None:
        assert set(map(tuple, configured()["process"]["capabilities"].values())) == {()}

    def test_what_docker_leaves_where_compose_takes_less_away(self) -> None:
        assert runtime.capabilities({}) == runtime.DOCKER_CAPABILITIES
        assert "CAP_KILL" not in runtime.capabilities({"cap_drop": ["KILL"]})
        assert runtime.capabilities({"cap_drop": ["ALL"], "cap_add": ["CHOWN"]}) == ["CAP_CHOWN"]

    def test_no_new_privileges(self) -> None:
        assert configured()["process"]["noNewPrivileges"] is True
        assert configured(security_opt=[])["process"]["noNewPrivileges"] is False

    def test_tmp_as_compose_has_it(self) -> None:
        assert mounts(configured())["/tmp"] == {"noexec", "nosuid", "nodev", "mode=1777", "size=64m"}

    def test_the_options_that_docker_adds_to_a_tmpfs(self) -> None:
        assert runtime.tmpfs("/run") == ("/run", "tmpfs", "nosuid,noexec,nodev")
        assert runtime.tmpfs("/run:exec,size=1m") == ("/run", "tmpfs", "nosuid,nodev,exec,size=1m")

    def test_the_limits(self) -> None:
        limits = configured(pids_limit=7, mem_limit="2m")["linux"]["resources"]
        assert limits == {"pids": {"limit": 7}, "memory": {"limit": 2 << 20}}
        assert runtime.resources({}) == runtime.resources({"pids_limit": None, "mem_limit": None}) == {}

    def test_an_init_where_there_is_one(self) -> None:
        told = runtime.configuration(SERVICE, IMAGE, Path("/"), Path("/usr/bin/tini-static"), None)
        assert told["process"]["args"] == ["/sbin/docker-init", "--", "python", "-m", "app"]
        assert mounts(told)["/sbin/docker-init"] >= {"bind", "ro"}

    def test_namespaces_of_its_own(self) -> None:
        assert {each["type"] for each in configured()["linux"]["namespaces"]} >= {
            "pid",
            "mount",
            "network",
            "ipc",
        }

    def test_a_filter_of_system_calls_where_there_is_one(self) -> None:
        told = runtime.configuration(SERVICE, IMAGE, Path("/"), None, {"defaultAction": "SCMP_ACT_ERRNO"})
        assert told["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ERRNO"}
        assert "seccomp" not in configured()["linux"]


def rule(name: str, **conditions: Any) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", **conditions}


def test_the_filter_has_the_rules_for_the_capabilities_and_the_machine() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            rule("read", args=[], errnoRet=None),
            rule("mount", includes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("clone", excludes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("arch_prctl", includes={"arches": ["amd64"]}),
            rule("s390_runtime_instr", includes={"arches": ["s390x"]}),
            rule("not_here", excludes={"arches": ["amd64"]}),
        ],
    }

    def names(kept: list[str]) -> list[str]:
        return [
            name
            for each in runtime.seccomp_filter(profile, kept, "x86_64")["syscalls"]
            for name in each["names"]
        ]

    assert names([]) == ["read", "clone", "arch_prctl"]
    assert names(["CAP_SYS_ADMIN"]) == ["read", "mount", "arch_prctl"]
    assert runtime.seccomp_filter(profile, [], "x86_64")["architectures"] == [
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
    ]
    assert runtime.seccomp_filter(profile, [], "x86_64")["syscalls"][0] == rule("read")


@pytest.mark.parametrize(("size", "count"), [("64m", 64 << 20), ("4g", 4 << 30), ("1kb", 1024), ("7B", 7)])
def test_a_size_of_a_compose_file_in_bytes(size: str, count: int) -> None:
    assert runtime.in_bytes(size) == count


@pytest.mark.parametrize("size", ["4", "4 GB", "-1g", "g"])
def test_a_size_that_is_none(size: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        runtime.in_bytes(size)


SEEN: dict[str, Any] = RECORD["found"]


def test_nothing_is_at_fault_in_what_was_recorded() -> None:
    assert verdict.faults(SEEN) == verdict.of_routes(RECORD["routes"]) == RECORD["faults"] == []
    assert verdict.of_limits(RECORD["limits"], SERVICE) == []
    assert RECORD["exit_status_on_sigterm"] == 0


WRONG = {
    "Uid": "0 0 0 0",
    "Gid": "10001 0 10001 10001",
    "Groups": "10001 27",
    "CapEff": "0000000000000400",
    "CapBnd": "00000000a80425fb",
    "NoNewPrivs": "0",
}


@pytest.mark.parametrize(("key", "value"), WRONG.items())
def test_a_process_with_more_than_it_should_have_is_a_fault(key: str, value: str) -> None:
    seen = copy.deepcopy(SEEN)
    name = list(seen["processes"])[-1]
    seen["processes"][name][key] = value
    assert verdict.faults(seen) == [f"{key} of {name} is {value!r}"]


@pytest.mark.parametrize(
    ("place", "mount", "fault"),
    [
        ("/var/tmp", "overlay rw,relatime", "/var/tmp can be written (overlay rw,relatime)"),
        ("/srv", "tmpfs rw,nosuid,nodev,noexec", "/srv can be written (tmpfs rw,nosuid,nodev,noexec)"),
        ("/tmp", "ext4 rw,nosuid,nodev,noexec", "/tmp can be written (ext4 rw,nosuid,nodev,noexec)"),
        ("/tmp", "tmpfs rw,nosuid,nodev", "/tmp is mounted without noexec"),
    ],
)
def test_a_place_that_can_be_written_and_should_not_be_is_a_fault(place: str, mount: str, fault: str) -> None:
    assert verdict.faults({**SEEN, "writable": {place: mount}}) == [fault]


def test_a_root_that_can_be_written_is_a_fault() -> None:
    assert verdict.faults({**SEEN, "root": "overlay rw,errors=ro"}) == ["the root is overlay rw,errors=ro"]


def test_a_process_whose_system_calls_nothing_filters_is_told() -> None:
    [name, *_] = SEEN["processes"]
    unfiltered = {**SEEN["processes"][name], "Seccomp": "0"}
    assert verdict.of_filter({"processes": {**SEEN["processes"], name: unfiltered}}) == [
        f"Seccomp of {name} is 0"
    ]
    assert verdict.of_filter(SEEN) == []


@pytest.mark.parametrize("how", ["done", "ENOENT"])
def test_an_attempt_that_nothing_denied_is_a_fault(how: str) -> None:
    assert verdict.faults({**SEEN, "attempts": {"become root": how}}) == [f"become root: {how}"]


LIMITED = {"pids_limit": 7, "mem_limit": "2m"}


@pytest.mark.parametrize("file", ["memory.limit_in_bytes", "memory.max"])
def test_limits_as_they_were_asked_for_are_none(file: str) -> None:
    assert verdict.of_limits({"pids.max": "7", file: "2097152", "pids.current": "9"}, LIMITED) == []


@pytest.mark.parametrize(
    ("told", "service", "fault"),
    [
        ({"pids.max": "max", "memory.max": "2097152"}, LIMITED, "the limit of pids is max, not 7"),
        ({"pids.max": "7", "memory.max": "max"}, LIMITED, "the limit of memory is max, not 2097152"),
        (
            {"pids.max": "7", "memory.limit_in_bytes": "9223372036854771712"},
            LIMITED,
            "the limit of memory is 9223372036854771712, not 2097152",
        ),
        ({"pids.max": "7"}, LIMITED, "the limit of memory is not told, not 2097152"),
        ({"memory.max": "2097152"}, LIMITED, "the limit of pids is not told, not 7"),
        (
            {"pids.max": "7", "memory.max": "max"},
            {"pids_limit": 7},
            "the limit of memory is max, not a limit",
        ),
    ],
)
def test_a_limit_that_is_not_as_it_was_asked_for_is_a_fault(
    told: dict[str, str], service: dict[str, Any], fault: str
) -> None:
    assert verdict.of_limits(told, service) == [fault]


def test_a_route_that_does_not_answer_is_a_fault() -> None:
    assert verdict.of_routes({"GET /": 200, "GET /sample": 500, "POST /new": -1}) == [
        "GET /sample answered 500",
        "POST /new answered -1",
    ]


class TestTheRecord:
    def test_is_of_the_compose_file_as_it_is(self) -> None:
        assert RECORD["from"] == COMPOSE
        assert RECORD["applied"] == {key: SERVICE[key] for key in RESTRICTIONS}, (
            "make restricted records anew"
        )

    def test_has_the_service_itself_among_the_processes(self) -> None:
        names = [name.split()[1] for name in SEEN["processes"]]
        assert names[0] in {"docker-init", "python"}
        assert names.count("python") >= 2  # the service, and what looks

    def test_saw_each_restriction_missing_where_it_was_taken_away(self) -> None:
        assert RECORD["controls"].keys() == {*CONTROLS, *LIMIT_CONTROLS, "no filter of system calls"}
        assert all(RECORD["controls"].values())

    def test_tried_all_that_is_tried(self) -> None:
        assert SEEN["attempts"].keys() == inside.ATTEMPTS.keys()
