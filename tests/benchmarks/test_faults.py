"""Fault runs: what is counted, and that a broken promise is found and told."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.faults import __main__ as command
from benchmarks.faults import bombs, bundles, disk_full, hang, kill, overload, sigterm
from benchmarks.faults.bundles import DAMAGES, End, copied, flipped, parts_of, started_with_damage
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import SAMPLES, Client, Fate, Question, Tally, loaded, questions_of
from benchmarks.faults.overload import promises
from benchmarks.faults.payloads import damaged
from benchmarks.faults.service import Held, Left, Service
from benchmarks.faults.slow_clients import compared, kept_of_slow_ones, percentile
from benchmarks.serving.poisson import Answers, offer_one
from benchmarks.serving.processes import BenchmarkError, Process, free_port
from codec.encoding import compress
from models.bundle import load_bundle
from models.images import ImageError, decode_image
from tests.servers import Running, running, save_grey_and_colour

ASK = Question("GET", "/", b"", {}, lambda body: body == b"right")
RIGHT = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nright"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n"


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """Give the port of a server that answers every request alike and hangs up; never for None."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        held = []
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            connection.recv(1 << 12)
            if answer is None:
                held.append(connection)
                continue
            connection.sendall(answer)
            connection.close()
        for connection in held:
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(30)


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        (RIGHT, "answered"),
        (RIGHT.replace(b"right", b"wrong"), "wrong"),
        (BUSY + b"Retry-After: 1\r\n\r\n", "refused"),
        (BUSY + b"\r\n", "failed"),
        (RIGHT[:-1], "lost"),
        (b"", "lost"),
        (None, "hung"),
    ],
)
def test_every_request_meets_its_fate(answer: bytes | None, fate: Fate) -> None:
    with answering(answer) as port:
        client = Client(port, 0.2 if answer is None else 30, keeps_connection=True)
        assert client.ask(ASK)[0] == fate
        client.close()


def test_a_connection_that_nobody_takes_is_turned_away() -> None:
    assert Client(free_port(), 1, keeps_connection=False).ask(ASK)[0] == "turned_away"


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), OSError(99, "no address")])
def test_a_connection_that_ends_while_it_is_made_is_lost(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_: object) -> None:
        raise error

    monkeypatch.setattr("http.client.HTTPConnection.connect", connect)
    fate, _, what = Client(1, 1, keeps_connection=False).ask(ASK)
    assert (fate, what) == ("lost", f"/: {error!r} while connecting")


def test_a_load_is_counted_whole() -> None:
    with answering(RIGHT) as port, loaded(port, [ASK], clients=2, timeout=30) as tally:
        while tally.count("answered") < 5:
            threading.Event().wait(0.01)
    assert tally.document()["requests"] == tally.count("answered") >= 5


def test_tallies_add_up() -> None:
    one, other = Tally(), Tally()
    one.note("answered", 1.0)
    other.note("lost", 2.0, "/: gone")
    one.add(other)
    assert one.document() == {
        "requests": 2,
        "answered": 1,
        "lost": 1,
        "worst_seconds": 2.0,
        "examples": {"/: gone": 1},
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.json"


def test_rows_are_kept_beside_those_of_other_faults_and_a_broken_promise_is_told(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(name: str, is_kept: bool) -> list[Row]:
        return [Row(name, 3, {}, {"lost": 1}, {"it holds": is_kept})]

    def cannot(setup: Setup) -> list[Row]:
        raise BenchmarkError("slowhttptest is not installed")

    faults = {"one": lambda _: fault("one", True), "two": lambda _: fault("two", False), "three": cannot}
    monkeypatch.setattr(command, "FAULTS", faults)
    assert command.main(["one", "--out", str(out)]) == 0
    assert command.main(["two", "--scale", "0.5", "--out", str(out)]) == 1
    assert command.main(["three", "--out", str(out)]) == 1
    found = json.loads(out.read_text())
    assert list(found) == ["one", "two"]
    assert found["two"]["rows"] == [
        {"fault": "two", "times": 3, "settings": {}, "lost": 1, "promises": {"it holds": False}}
    ]
    assert {"machine", "versions", "commit"} <= found["one"].keys()
    assert found["one"]["command"] == "python -m benchmarks.faults one --bundle fashion-mnist"
    assert "--scale 0.5" in found["two"]["command"]
    told = capsys.readouterr()
    assert "BROKEN  it holds" in told.out
    assert "error: three: slowhttptest is not installed" in told.err


def test_an_unknown_fault_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse_arguments(["sigterm", "sigquit"])
    assert "no such fault: sigquit; there are sigterm, kill" in capsys.readouterr().err


def test_a_smaller_run_does_each_thing_once_at_least(tmp_path: Path) -> None:
    setup = Setup("x", tmp_path, 0.01)
    assert (setup.times(100), setup.times(3), setup.seconds(60)) == (1, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_grey_and_colour(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    with running(folder, models=(str(folder / "grey"),)) as server:
        yield server


def test_questions_are_answered_rightly_and_others_answers_are_wrong(service: Running, folder: Path) -> None:
    port = service.client.base_url.port
    assert port is not None
    questions = questions_of(str(folder / "grey"))
    client = Client(port, 30, keeps_connection=True)
    assert [client.ask(question)[0] for question in questions] == ["answered"] * len(questions)
    client.close()
    bodies = [
        service.client.request(q.method, q.path, content=q.body, headers=dict(q.headers)).content
        for q in questions
    ]
    assert not questions[0].is_right(bodies[3])
    assert not questions[0].is_right(b"")
    [samples] = [body for q, body in zip(questions, bodies, strict=True) if q.path.startswith("/sample")]
    is_right = questions[2].is_right
    assert len(samples) == 128 + SAMPLES * 64
    assert is_right(samples)
    for place in (128, len(samples) - 1):  # another first image, another last one
        level = samples[place] + (2 if samples[place] < 128 else -2)
        assert not is_right(samples[:place] + bytes([level]) + samples[place + 1 :])
    page = 32 * 64  # of a batch, whose place another has taken
    assert not is_right(samples[:128] + samples[128 + page :] + samples[128 : 128 + page])
    assert not is_right(samples[:-1])


def test_every_damaged_payload_is_refused_and_another_answer_is_found_wrong(
    service: Running, tmp_path: Path
) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    npy = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8, 8), }"
    body = npy.ljust(127) + b"\n" + image.tobytes()
    headers = {"Content-Type": "application/x-npy"}
    made = service.client.post("/compress?format=payload", content=body, headers=headers).content
    port = service.client.base_url.port
    assert port is not None
    setup, sent = Setup("", tmp_path), image[..., None]
    assert damaged(setup, port, "effort=best", made, sent).broken == []
    other = damaged(setup, port, "effort=best", made, sent + np.uint8(1))
    assert other.broken == ["the payload without damage gives the images that were sent"]
    assert damaged(setup, port, "of some loss", made, sent + np.uint8(1), limit=1).broken == []
    whole = damaged(setup, port, "whole", made + b"\0", sent)  # cut to the whole
    assert (whole.figures["wrong"], whole.figures["neither"]) == (1, 0)
    assert len(whole.broken) == 3


def test_every_damaged_bit_of_a_webp_file_is_refused(service: Running, tmp_path: Path) -> None:
    image = np.arange(400, dtype=np.uint8).reshape(1, 1, 20, 20)
    made, port = compress(image, None), service.client.base_url.port
    assert port is not None
    assert len(made) < image.size  # so it is no plain one
    assert damaged(Setup("", tmp_path), port, "WebP", made, image.transpose(0, 2, 3, 1)).broken == []


def test_one_bit_is_flipped() -> None:
    assert flipped(b"\x00\x00", 9) == b"\x00\x02"


def refusing(name: str, before: str = "") -> str:
    """Return the log of a service that refuses a bundle for a file."""
    said = "ERROR:     not started: bundle /tmp/vaeserve-faults-1/config.json: 1 fault(s)\n"
    return f"INFO:     loading\n{before}{said}  - {name}: missing\nINFO:     Shutting down\n"


@pytest.mark.parametrize(
    "end",
    [
        End(None, 1.0, False, refusing("config.json")),
        End(0, 1.0, False, refusing("config.json")),
        End(1, 5.5, False, refusing("config.json")),
        End(1, 1.0, True, refusing("config.json")),
        End(1, 1.0, False, refusing("model.safetensors")),
        End(1, 1.0, False, refusing("my-config.json")),
        End(1, 1.0, False, "ERROR: not started: [Errno 2] /tmp/vaeserve-faults-1/config.json"),
        End(1, 1.0, False, refusing("config.json", "Traceback (most recent call last):\n")),
    ],
)
def test_a_start_is_a_refusal_only_where_it_ends_in_time_names_the_file_and_never_was_ready(end: End) -> None:
    assert End(1, 1.0, False, refusing("config.json")).is_refusal_of("config.json")
    assert not end.is_refusal_of("config.json")


def test_the_list_of_sums_is_named_where_another_file_does_not_match_it() -> None:
    log = refusing("x").replace("x: missing", "card.md: SHA-256 is 0, SHA256SUMS lists none")
    assert End(1, 1.0, False, log).is_refusal_of("SHA256SUMS")


NOTHING_LEFT = Left(Held(1 << 30, 70), Held(1 << 30, 70), 0.0, 0.0)


@pytest.mark.parametrize(
    "left",
    [
        replace(NOTHING_LEFT, in_flight=1.0),
        replace(NOTHING_LEFT, after=Held((1 << 30) + (32 << 20), 70)),
        replace(NOTHING_LEFT, after=Held(1 << 30, 71)),
    ],
)
def test_what_is_left_breaks_a_promise(left: Left) -> None:
    assert all(NOTHING_LEFT.promises().values())
    assert list(left.promises().values()).count(False) == 1


class Looks:
    """A log that says so many times that nothing serves yet, and then that it does."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def asked_at(port: int, folder: Path) -> Service:
    """Return a service that is asked at a port, and has no process."""
    log = folder / "service.log"
    log.write_text("")
    return Service(Process(cast("subprocess.Popen[str]", None), log, ""), port)


@pytest.mark.parametrize(("answer", "kept"), [(RIGHT, False), (BUSY + b"Retry-After: 1\r\n\r\n", True)])
def test_a_service_that_says_it_is_ready_without_an_engine_breaks_its_promise(
    answer: bytes, kept: bool, tmp_path: Path
) -> None:
    ends, tally = kill.Ends(ready_after=[1.0]), Tally()
    with answering(answer) as port:
        kill.watch(asked_at(port, tmp_path), ends, 0.0, Looks(3))
    assert (ends.asked, ends.said_ready_wrongly) == ([3], 0 if kept else 3)
    promise = "not said to be ready while there is none"
    assert kill.row_of("engine", 1, tally, ends, NOTHING_LEFT, True).promises[promise] is kept
    assert promise not in kill.row_of("front-end", 1, tally, ends, NOTHING_LEFT, True).promises


def test_a_watch_that_never_asked_keeps_no_promise(tmp_path: Path) -> None:
    ends = kill.Ends(ready_after=[1.0])
    with answering(BUSY + b"\r\n") as port:
        kill.watch(asked_at(port, tmp_path), ends, 0.0, Looks(0))
    row = kill.row_of("engine", 1, Tally(), ends, NOTHING_LEFT, True)
    assert "not said to be ready while there is none" in row.broken


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_one_more_file_of_figures_breaks_a_promise(more: int, kept: bool) -> None:
    ends = kill.Ends(ready_after=[1.0], more_files=more)
    row = kill.row_of("front-end", 1, Tally(), ends, NOTHING_LEFT, True)
    assert row.promises["processes that are started anew keep no more files of figures"] is kept


def test_a_service_is_not_ready_again_before_the_new_process_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill, "GIVE_UP_SECONDS", 0.2)
    processes = {"engine": [1], "front-end": [2, 4]}
    monkeypatch.setattr(Service, "children", lambda _, role: processes[role])
    with answering(RIGHT) as port:  # by the front end that is left
        service = asked_at(port, tmp_path)
        with pytest.raises(BenchmarkError, match="not ready again"):
            kill.until_ready(service, [3], lambda: kill.said(service, "front-end") > 0)
        service.process.log.write_text("INFO:     ready in 0.10 s: grey on cpu\n")
        monkeypatch.setattr(kill, "GIVE_UP_SECONDS", 30.0)
        kill.until_ready(service, [3], lambda: kill.said(service, "front-end") > 0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_every_file_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    source = folder / "grey"
    for name in parts_of(source):
        broken = copied(source, tmp_path / "grey")
        DAMAGES[damage](broken / name)
        assert not bundles.is_taken(broken), name
    assert bundles.is_taken(copied(source, tmp_path / "grey"))


@pytest.mark.slow
def test_the_check_of_damaged_bundles_fails_where_the_damage_is_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "EXIT_SECONDS", 60.0)
    monkeypatch.setattr(bundles, "damages", lambda _: [("model.safetensors", "a bit flipped")])
    setup = Setup(str(folder / "grey"), tmp_path)
    assert started_with_damage(setup, folder / "grey").broken == []
    monkeypatch.setattr(bundles, "DAMAGES", {"a bit flipped": lambda path: None})
    assert len(started_with_damage(setup, folder / "grey").broken) == 1


HUNG = hang.Found((504, 504), 1.6, 6.5, 61.0, 0.3, True)


@pytest.mark.parametrize(
    "change",
    [
        {"statuses": (504, 200)},
        {"worst_seconds": 2.6},
        {"not_ready_after": 8.5},
        {"not_live_after": 6.5},
        {"not_live_after": 71.5},
        {"back_after": 5.1},
        {"is_right": False},
    ],
)
def test_a_service_that_hangs_keeps_every_promise_or_breaks_one(change: dict[str, Any]) -> None:
    assert hang.row_of(HUNG).broken == []
    assert len(hang.row_of(replace(HUNG, **change)).broken) == 1


def test_what_does_not_come_about_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match=r"it was not so within 0\.01 s"):
        hang.until(lambda: False, 0.01)


@pytest.mark.slow
def test_no_request_is_lost_at_sigterm(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigterm, "GRACE_SECONDS", 60)
    settings = {"VAE_GRACE_SECONDS": "60", "VAE_THREADS": "1"}
    row = sigterm.stopped(Setup(str(folder / "grey"), tmp_path), "SIGTERM", 1, settings)
    assert row.broken == [], row.figures


@pytest.mark.parametrize("fate", ["refused", "lost", "hung", "failed", "wrong"])
def test_a_request_that_a_stop_does_not_answer_breaks_a_promise(fate: Fate) -> None:
    tally = Tally()
    tally.fates.update(answered=11, turned_away=5)
    assert all(sigterm.promises(tally, 1, 1.0, [0]).values())
    tally.note(fate, 1.0)
    assert list(sigterm.promises(tally, 1, 1.0, [0]).values()).count(False) == 1


def test_bombs_are_what_they_say_and_are_refused(service: Running) -> None:
    made = {bomb.name: bomb for bomb in bombs.bombs(bytes(4))}
    for name in ("PNG, huge", "JPEG, huge", "WebP, huge"):
        with pytest.raises(ImageError, match=r"0000×60000|65000×65000|exceeds limit|16000×16000"):
            decode_image(made[name].body, 1 << 24)
    decode_image(made["PNG of the most pixels that are allowed"].body, 1 << 24)
    for bomb in made.values():
        if len(bomb.body) < 1 << 17:
            headers = {"Content-Type": bomb.content_type, **bomb.headers}
            answer = service.client.post(bomb.path, content=bomb.body, headers=headers)
            assert 400 <= answer.status_code < 500, bomb.name


def test_latencies_are_compared_by_their_99th_percentiles() -> None:
    alone, beside = (Answers(1.0, 1.0, [200] * 3, [seconds] * 3) for seconds in (0.01, 0.04))
    assert compared(alone, beside)["p99_ratio"] == 4.0
    assert percentile([]) == float("inf")


GOOD = {
    "goodput_per_second": 90.0,
    "answered_p99_seconds": 3.9,
    "refused": 5,
    "refused_p99_seconds": 0.05,
    "refused_worst_seconds": 0.25,
    "refused_with_retry_after": 5,
    "neither": 0,
    "recovery_seconds": 1.9,
}


@pytest.mark.parametrize(
    "change",
    [
        {"goodput_per_second": 89.0},
        {"answered_p99_seconds": 4.0},
        {"refused_p99_seconds": 0.051},
        {"refused_worst_seconds": 0.251},
        {"refused_with_retry_after": 4},
        {"neither": 1},
        {"refused": 0},
        {"recovery_seconds": 2.0},
    ],
)
def test_an_overload_keeps_every_promise_or_breaks_one(change: dict[str, float]) -> None:
    assert all(promises(GOOD, 100.0, 1.5, 2.0, True).values())
    assert list(promises({**GOOD, **change}, 100.0, 1.5, 2.0, True).values()).count(False) == 1


def test_an_overload_is_over_within_two_seconds_by_default() -> None:
    limits = [overload.recovery_limit(seconds) for seconds in overload.QUEUED_SECONDS]
    assert limits == [2.0, 5.5]


def test_a_default_that_leaves_no_time_to_recover_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(overload, "DEFAULT_QUEUED_SECONDS", 5.0)
    with pytest.raises(BenchmarkError, match=r"^5 s of work may wait by default; .* within 2 s$"):
        overload.run(Setup("no bundle", tmp_path))


def test_a_disk_that_was_filled_takes_no_more_and_is_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with disk_full.small_disk(folder, 1 << 16) as has_disk:
        if not has_disk:
            pytest.skip("this user may mount nothing")
        disk_full.fill(folder)
        with pytest.raises(OSError, match="No space left on device"):
            (folder / "more").write_bytes(bytes(1 << 13))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "end", ["status 0: ", "status 1: error: No space left on device", "status 1: error: File too large: x"]
)
def test_a_write_that_fails_says_why_and_which_file(end: str) -> None:
    good = "status 1: error: [Errno 28] No space left on device: 'x'"
    assert disk_full.says_which({"images": good}, "No space left on device")
    assert not disk_full.says_which({"images": good, "a bundle": end}, "No space left on device")


def test_small_bodies_are_taken_and_every_bomb_has_one(service: Running, folder: Path) -> None:
    small = list(bombs.small_bodies(load_bundle(folder / "grey")))
    port = service.client.base_url.port
    assert port is not None
    asked, made = Service(cast("Process", None), port), list(bombs.bombs(bytes(4)))
    assert bombs.small_ones(asked, small, made).broken == []
    broken = replace(small[0], body=b"")
    assert bombs.small_ones(asked, [broken, *small[1:]], made).broken == ["each is taken"]
    other = replace(made[0], path="/score")
    assert bombs.small_ones(asked, small, [other]).broken == ["every bomb has one"]


def test_a_lone_request_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: list[int] = []

    def one(port: int, request: bytes) -> Answers:
        served.append(port)
        return Answers(1.0, 1.0, [200], [float(len(served))])

    monkeypatch.setattr(overload, "offer_one", one)
    assert overload.lone_seconds(asked_at(7, tmp_path), b"") == 10.5
    assert served == [7] * 20
    with answering(RIGHT) as port:
        assert offer_one(port, b"GET / HTTP/1.1\r\n\r\n").status == [200]


@pytest.mark.parametrize(
    ("held", "halfway", "closed"), [(100, 200, 100.0), (200, 100, 100.0), (200, 200, 49.0)]
)
def test_slow_connections_are_there_and_are_given_up(held: int, halfway: int, closed: float) -> None:
    causes = {"head": 0.0, "body": 50.0, "reading": 0.0, "answered 504": 100.0}
    assert all(kept_of_slow_ones("bodies", 200, 200, causes).values())
    assert not kept_of_slow_ones("heads", 200, 200, causes)["the service gave slow connections up"]
    kept = kept_of_slow_ones("bodies", held, halfway, {**causes, "answered 504": closed})
    assert list(kept.values()).count(False) == 1
