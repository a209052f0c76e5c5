"""The instrument of the gateway benchmark: its two C programs, what it refuses to
count, and what its table says."""

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from bench import gateway, native, peers, processes, stages
from bench.gateway import Load, RefusedError, Report, Sample, Scenario, Server
from bench.peers import PRODUCT, REFERENCE
from tools.show import bench_gateway
from tools.show.proof import Proof, free_port

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")

_HTTP_OK = b"HTTP/1.1 200 OK\r\n"
_STREAM = (
    _HTTP_OK + b"Transfer-Encoding: chunked\r\n\r\n"
    b"12\r\ndata: 1\n\ndatadata:\r\n"
    # The line goes on, and is no event; then an event that is cut within its name.
    b"6\r\n 2\n\nda\r\n7\r\nta: 3\n\n\r\n"
    # A comment; then an event in two chunks.
    b"c\r\n: c\ndata: [D\r\n5\r\nONE]\n\r\n0\r\n\r\n"
)
"""Three events, for the connection that receives it in any parts."""


class _ScriptedServer(socketserver.ThreadingTCPServer):
    """A server whose threads end before `server_close` returns."""

    daemon_threads = False
    block_on_close = True


@contextmanager
def scripted_server(*packets: bytes, closes: bool = False) -> Iterator[int]:
    """Answer every request on a port with these bytes, and close the connection after
    the answer or not."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self.request.recv(65536):
                for packet in packets:
                    self.request.sendall(packet)
                if closes:
                    return

    with _ScriptedServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def load_of(port: int, folder: Path, *, requests: int = 4) -> dict[str, Any]:
    """Return the load generator's figures for this many requests on two connections."""
    load = Load(native.compiled("load"), folder)
    scenario = Scenario("chat", "chat", 2, 1.0)
    return load.run(Server(0, port, 0.0), scenario, seconds=30, requests=requests)


# ------------------------------------------------------------------- load generator


@pytest.mark.parametrize("size", [1, 7, len(_STREAM)])
def test_events_are_counted_wherever_the_stream_is_cut(tmp_path: Path, size: int):
    packets = [_STREAM[at : at + size] for at in range(0, len(_STREAM), size)]
    with scripted_server(*packets) as port:
        figures = load_of(port, tmp_path)
    assert (figures["requests"], figures["events"]) == (4, 12)
    assert (figures["bad"], figures["connection_errors"]) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        _HTTP_OK + b"Content-Length: 0\r\n\r\n",
        _HTTP_OK + b"content-length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + _HTTP_OK + b"Content-Length: 2\r\n\r\nok",
        _HTTP_OK
        + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nTrail: 1\r\n\r\n",
    ],
)
def test_every_framing_of_a_body_is_read(tmp_path: Path, answer: bytes):
    with scripted_server(answer) as port:
        figures = load_of(port, tmp_path)
    assert figures["requests"] == 4
    assert figures["connection_errors"] == figures["unanswered"] == 0


def test_a_body_that_ends_with_the_connection_is_read(tmp_path: Path):
    with scripted_server(_HTTP_OK + b"\r\ndata: 1\n", closes=True) as port:
        figures = load_of(port, tmp_path)
    assert (figures["requests"], figures["events"]) == (4, 4)
    assert figures["connection_errors"] == 0


def test_a_broken_connection_is_an_error(tmp_path: Path):
    with scripted_server(_HTTP_OK + b"Content-Length: 9\r\n\r\nx", closes=True) as port:
        figures = load_of(port, tmp_path)
    assert figures["requests"] == 0
    assert figures["connection_errors"] == 4


def test_other_statuses_are_bad(tmp_path: Path):
    answer = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
    with scripted_server(answer) as port:
        assert load_of(port, tmp_path)["bad"] == 4


def test_a_server_that_cannot_be_reached_is_refused(tmp_path: Path):
    with pytest.raises(RefusedError, match="connect"):
        load_of(free_port(), tmp_path)


# --------------------------------------------------------------- simulated provider


def ask(port: int, **request: Any) -> bytes:
    """Return the provider's answer to a request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    # A body from an iterator has the chunked transfer encoding.
    body = json.dumps(request).encode()
    chunks = [body[:10], body[10:]]
    connection.request("POST", "/v1/chat/completions", chunks, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 200
    content = response.read()
    connection.close()
    return content


def test_the_provider_answers_completely_and_in_streams():
    usage = {"include_usage": True}
    with gateway.upstream() as port:
        complete = json.loads(ask(port, model="mock"))
        plain = ask(port, model="mock-n7-d0", stream=True)
        paced = ask(port, model="up-mock-n7-d1", stream=True, stream_options=usage)
    assert complete["usage"]["total_tokens"] == 160
    assert plain.count(b"data:") == 8
    assert b'"usage"' not in plain
    assert paced.count(b"data:") == 9
    events = [line[6:] for line in paced.split(b"\n") if line]
    assert events.pop() == b"[DONE]"
    last = json.loads(events.pop())
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 200)
    reasons = [json.loads(event)["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * 6 + ["stop"]


def test_the_programs_need_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(native, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        gateway, "available_cores", lambda: processes.available_cores()[:1]
    )
    proof = bench_gateway.prove()
    assert not proof.ok
    assert {PRODUCT, REFERENCE} <= proof.figures["missing"].keys()
    assert all("C compiler" in text for _, text, ok in proof.lines if ok is False)


def test_an_error_of_the_compiler_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(native, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    (tmp_path / "load.c").write_text("int main(void) { return missing; }")
    with pytest.raises(RuntimeError, match="missing"):
        native.compiled("load")


# --------------------------------------------------------------------------- refusals


def test_a_port_in_use_is_refused():
    with (
        scripted_server() as port,
        pytest.raises(RuntimeError, match="in use"),
        processes.running_server(["true"], port, cores=[0]),
    ):
        pass


def test_a_server_that_ends_is_shown_with_its_log():
    command = ["sh", "-c", "echo no configuration; exit 3"]
    with (
        pytest.raises(RuntimeError, match="no configuration"),
        processes.running_server(
            command, free_port(), cores=processes.available_cores()
        ),
    ):
        pass


_FIGURES = {
    "requests": 10,
    "bad": 0,
    "connection_errors": 0,
    "unanswered": 0,
    "events": 2020,
}
_STREAMED = Scenario("burst", "burst", 1, 1.0, chunks=200)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bad": 1}, "bad: 1 of 10"),
        ({"connection_errors": 2}, "connection errors: 2"),
        ({"unanswered": 3}, "unanswered: 3"),
        ({"requests": 0}, "no request"),
        ({"events": 1900}, "190.0 events"),
        ({"events": 2200}, "220.0 events"),
    ],
)
def test_figures_with_errors_are_refused(change: dict[str, int], reason: str):
    gateway._check(_FIGURES, _STREAMED)
    with pytest.raises(RefusedError, match=reason):
        gateway._check({**_FIGURES, **change}, _STREAMED)


def test_a_server_without_processor_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gateway, "cpu_nanoseconds", lambda pid: 0)
    load = Load(native.compiled("load"), tmp_path)
    with gateway.upstream() as port, pytest.raises(RefusedError, match="another one"):
        server = Server(0, port, 0.0)
        gateway.sample(load, server, gateway.scenarios()["chat1"], 0.05)


def test_a_peer_that_cannot_be_installed_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    programs = {name: native.compiled(name) for name in ("load", "upstream")}
    monkeypatch.setattr(gateway, "compiled", programs.get)
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setattr(peers.sys, "executable", str(tmp_path / "no-python"))
    figures = gateway.measure(["LiteLLM"], rounds=1).figures()
    assert "no-python" in figures["missing"]["LiteLLM"]
    assert figures["rows"] == []


def test_an_unknown_server_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELYARD_BENCH_SERVERS", "nginx, Caddy")
    with pytest.raises(RuntimeError, match="Unknown server 'Caddy'; expected some of"):
        gateway.measure_selected()


# ------------------------------------------------------------------------------ table


def report_of(**costs: dict[str, list[float]]) -> Report:
    """Return a report with the costs by server, scenario and round."""
    report = Report()
    for server, scenarios in costs.items():
        for scenario, rounds in scenarios.items():
            for number, cost in enumerate(rounds):
                report.samples[server, scenario][number] = Sample(cost, 1, 1, 1)
    return report


def test_costs_are_compared_within_a_round():
    report = report_of(
        nginx={"chat32": [10, 20, 40], "paced": [2]},
        Modelyard={"chat32": [30, 40, 160], "translated": [3]},
    )
    # The ratio of the medians would be 2.
    assert report.ratios(PRODUCT, "chat32") == [3, 2, 4]
    rows = {(row["server"], row["scenario"]): row for row in report.figures()["rows"]}
    assert rows[PRODUCT, "chat32"]["ratio"] == 3
    assert rows[PRODUCT, "translated"]["ratio"] == 1.5


def goals(report: Report) -> list[bool | None]:
    """Return which lines of the table hold their goals."""
    return [ok for _, _, ok in gateway.table(report.figures())]


def test_the_goals_decide():
    assert goals(report_of(nginx={"chat1": [10]}, Modelyard={"chat1": [20]})) == [
        None,
        True,
    ]
    assert goals(report_of(nginx={"chat1": [10]}, Modelyard={"chat1": [21]})) == [
        None,
        False,
    ]


def test_without_nginx_no_goal_holds():
    assert goals(report_of(Modelyard={"chat1": [1]})) == [False]
    report = Report(missing={REFERENCE: "no network", "Portkey": "no npm"})
    assert goals(report) == [False, None]


def test_a_refused_round_is_named_and_fails():
    report = report_of(nginx={"chat1": [10]}, Modelyard={"chat1": [11]})
    report.refused[PRODUCT, "chat1"].append("bad: 1 of 10")
    lines = list(gateway.table(report.figures()))
    assert "1 refused: bad: 1 of 10" in lines[1][1]
    assert lines[1][2] is False


def test_what_a_server_does_not_offer_is_named():
    server, report = Server(0, 1, 0.0), Report()
    load = Load("", Path())
    translated = gateway.scenarios()["translated"]
    gateway._round(report, load, {REFERENCE: server}, translated, 0, 1.0)
    lines = list(gateway.table(report.figures()))
    assert lines == [(f"{translated.label}: {REFERENCE}", "not offered", None)]


def test_workers_are_not_measured_on_few_processors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateway, "available_cores", lambda: [0, 1])
    gain = gateway.worker_gain()
    assert gain == {"gain": None, "reason": "needs 4 processors, and has 2"}
    proof = Proof()
    bench_gateway._report_workers(proof, gain)
    assert [ok for _, _, ok in proof.lines] == [None]
    assert "not measurable" in proof.lines[0][1]


# ---------------------------------------------------------------------------- stages


def test_a_stack_belongs_to_its_innermost_layer():
    frames = ["json.decoder", "modelyard.wire.openai", "modelyard.gateway.app"]
    assert stages.layer(frames) == "modelyard.wire"
    outside = "event loop and HTTP server"
    assert stages.layer(["asyncio.runners", "modelyard.cli.serve"]) == outside
    assert stages.layer([]) == outside
    assert stages.shares({"a": 1, "b": 3}) == {"b": 75.0, "a": 25.0}
