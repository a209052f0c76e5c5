"""A run always ends: 2,000 odd values through every kind of node that takes values from
outside, over the service API, as blocking and streamed runs, and as runs whose server
was killed.

Each run has to end within its time limit, with the outputs that are known for its
value. No response may have a status of 500 or more, and what is stored has to be
readable through both APIs, and replayable.
"""

import asyncio
import itertools
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from modelyard.app import Modelyard
from modelyard.base.json_types import is_array, is_object
from modelyard.workflow.events import parse_event
from tools.show.never_hangs_cases import (
    EVENT_ROOT,
    KINDS,
    MODES,
    Case,
    make_cases,
)
from tools.show.never_hangs_world import (
    RUN_SECONDS,
    Outside,
    install,
    serve_command,
    settings_of,
    start_server,
)
from tools.show.odd_values import stored_text
from tools.show.proof import Proof, free_port, is_healthy

RUNS = int(os.environ.get("MODELYARD_SHOW_CASES", "2000"))
SEED = int(os.environ.get("MODELYARD_SHOW_SEED", "7"))
PER_KILL = 120
"""Runs that are interrupted by one kill."""
_AT_ONCE = 10
_WAIT_SECONDS = RUN_SECONDS + 30
_ENDED = ("succeeded", "failed", "partial-succeeded", "stopped")
_USER = "u"
_MAX_FAULTS_SHOWN = 40
_WORD = re.compile(r"\w+")


@dataclass
class Outcome:
    """What became of a case."""

    status: str = ""
    """The status of the ended run; `refused` if the server has refused to start it."""
    run: str = ""
    faults: list[str] = field(default_factory=list[str])
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    conversation: str = ""


class Caller:
    """Calls both APIs of the server for the cases, and checks what comes back."""

    def __init__(
        self, http: httpx.AsyncClient, apps: dict[str, tuple[str, str]]
    ) -> None:
        self.http = http
        self._apps = apps
        self.hooks: dict[str, str] = {}
        self.outcomes: dict[int, Outcome] = defaultdict(Outcome)

    async def learn_hooks(self) -> None:
        """Read the addresses of the apps that webhooks start."""
        [subscription] = (await self.http.get("/admin/v1/subscriptions")).json()["data"]
        for name, kind in KINDS.items():
            if kind.root is not None and kind.root["type"] == "trigger-plugin":
                self.hooks[name] = f"/t/{subscription['id']}"
            elif kind.root is not None:
                found = await self.http.get(f"/admin/v1/apps/{self._apps[name][0]}/triggers")  # fmt: skip
                address = found.json()["data"][0]["address"]
                self.hooks[name] = urlsplit(str(address)).path

    def _key(self, case: Case) -> dict[str, str]:
        """Return the header with the key of the case's app."""
        return {"authorization": f"Bearer {self._apps[case.kind][1]}"}

    async def call(self, case: Case, method: str, path: str, **options: Any) -> httpx.Response:  # fmt: skip
        """Send a request with the app's key. A status of 500 or more is a fault."""
        headers = {**self._key(case), **options.pop("headers", {})}
        response = await self.http.request(method, path, headers=headers, **options)
        self._judge_status(case, response, path)
        return response

    def _judge_status(self, case: Case, response: httpx.Response, path: str) -> None:
        """Note a status that says that the server failed."""
        if response.status_code >= 500:
            self._fault(case, f"{response.status_code} of {path[:60]}")

    def _fault(self, case: Case, message: str) -> None:
        """Note a fault of a case."""
        self.outcomes[case.number].faults.append(message)

    # Starting

    async def start(self, case: Case) -> None:
        """Start the case's run, and wait for its end or for the server's."""
        outcome = self.outcomes[case.number]
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                if case.kind in self.hooks:
                    await self._hook(case, outcome)
                elif case.mode == "blocking":
                    await self._start_blocking(case, outcome)
                else:
                    await self._start_streamed(case, outcome)
        except TimeoutError:
            self._fault(case, "did not answer in time")
        except (httpx.HTTPError, ValueError) as error:
            # The server is killed while the run is watched.
            if case.mode != "resumed":
                self._fault(case, f"{type(error).__name__}: {error}"[:200])

    async def _hook(self, case: Case, outcome: Outcome) -> None:
        """Start a run by a webhook."""
        # What is odd in an event is what the plugin says of it.
        is_event = KINDS[case.kind].root == EVENT_ROOT
        value = "null" if is_event else case.odd.json or "null"
        content = f'{{"n": {case.number}, "v": {value}}}'
        response = await self.http.post(
            self.hooks[case.kind],
            content=content.encode("utf-8", "surrogatepass"),
            headers={"content-type": "application/json"},
        )
        if is_event:
            await self._find_run(case, outcome, response)
            return
        self._judge_status(case, response, "webhook")
        outcome.run = response.json().get("run_id") or ""
        outcome.status = "" if outcome.run else "refused"

    async def _find_run(
        self, case: Case, outcome: Outcome, response: httpx.Response
    ) -> None:
        """Find the run that a plugin's event has started. The response is the plugin's
        own, and 502 if that is none."""
        if response.status_code != 502:
            self._judge_status(case, response, "event")
        path = f"/admin/v1/apps/{self._apps[case.kind][0]}/runs?limit=1000"
        runs = (await self.http.get(path)).json()["data"]
        ids = [run["id"] for run in runs if _number_of(run["inputs"]) == case.number]
        outcome.run = ids[0] if ids else ""
        outcome.status = "" if ids else "refused"

    async def _start_blocking(self, case: Case, outcome: Outcome) -> None:
        """Start a run with a blocking call."""
        path, body = await self._request(case)
        response = await self._post(case, path, body)
        answer = response.json()
        outcome.run = answer.get("workflow_run_id") or answer.get("task_id") or ""
        outcome.conversation = answer.get("conversation_id") or ""
        if not outcome.run and response.status_code < 500:
            outcome.status = "refused"

    async def _start_streamed(self, case: Case, outcome: Outcome) -> None:
        """Start a run with a streamed call, and read the stream to its end."""
        path, body = await self._request(case)
        headers = {**self._key(case), "content-type": "application/json"}
        async with self.http.stream("POST", path, content=body, headers=headers) as response:  # fmt: skip
            self._judge_status(case, response, path)
            if response.status_code >= 400:
                outcome.status = "refused"
                return
            async for event in _events_of(response):
                outcome.run = event.get("workflow_run_id") or outcome.run
                outcome.conversation = event.get("conversation_id") or outcome.conversation  # fmt: skip

    async def _post(self, case: Case, path: str, body: bytes) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return await self.call(case, "POST", path, content=body, headers=headers)

    async def _request(self, case: Case) -> tuple[str, bytes]:
        """Return (path, body) of the call that starts the run."""
        inputs = {"n": str(case.number), **case.inputs}
        if case.upload is not None:
            inputs["doc"] = await self._uploaded(case, *case.upload)
        pairs = ", ".join(f'"{name}": {value}' for name, value in inputs.items())
        mode = "blocking" if case.mode == "blocking" else "streaming"
        fields = f'"inputs": {{{pairs}}}, "user": "{_USER}", "response_mode": "{mode}"'
        path = "/v1/workflows/run"
        if KINDS[case.kind].mode != "workflow":
            path = "/v1/chat-messages"
            conversation = self.outcomes[case.number].conversation
            query = json.dumps(f"case {case.number}: {_said(case)}")
            fields += f', "query": {query}, "conversation_id": "{conversation}"'
        return path, f"{{{fields}}}".encode("utf-8", "surrogatepass")

    async def _uploaded(self, case: Case, name: str, content: bytes) -> str:
        """Upload a file and return the input that refers to it, as JSON."""
        mended = name.encode("utf-8", "replace").decode()
        response = await self.call(case, "POST", "/v1/files/upload", files={"file": (mended, content)}, data={"user": _USER})  # fmt: skip
        # A file that is refused is no input; the run goes on without.
        if response.status_code >= 400:
            return "null"
        file = {"type": "document", "transfer_method": "local_file", "upload_file_id": response.json()["id"]}  # fmt: skip
        return json.dumps(file)

    # People

    async def submit(self, case: Case) -> None:
        """Submit the form of a paused run: an odd value, then a text, if that is
        refused."""
        run = self.outcomes[case.number].run
        events = [event async for event in self._events(case, f"/v1/workflow/{run}/events")]  # fmt: skip
        tokens = [event["data"]["form_token"] for event in events if event.get("event") == "human_input_required"]  # fmt: skip
        value = json.dumps("a" + case.odd.value) if case.variant == "text" else case.odd.json  # fmt: skip
        path = f"/v1/form/human_input/{tokens[-1]}"
        for note in (value, '"fine"'):
            body = f'{{"action": "yes", "user": "{_USER}", "inputs": {{"note": {note}}}}}'  # fmt: skip
            response = await self._post(case, path, body.encode("utf-8", "surrogatepass"))  # fmt: skip
            if response.status_code < 400:
                return
        self._fault(case, f"the form was refused: {response.text[:100]}")

    # Reading

    async def read(self, case: Case) -> None:
        """Wait for the end of a run; read it through both APIs, and compare."""
        outcome = self.outcomes[case.number]
        if not outcome.run:
            self._judge_refusal(case, outcome)
            return
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                if case.kind == "human input":
                    await self.submit(case)
                await self._read_record(case, outcome)
        except TimeoutError:
            self._fault(case, "did not end in time")
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            self._fault(case, f"cannot be read: {type(error).__name__}: {error}"[:300])
        self._judge(case, outcome)

    def _judge_refusal(self, case: Case, outcome: Outcome) -> None:
        """A refused run is right for values that no run may have as its input."""
        if outcome.status != "refused":
            self._fault(case, "has no run")
        elif case.expected:
            self._fault(case, "was refused")

    async def _read_record(self, case: Case, outcome: Outcome) -> None:
        """Read the run and its events through both APIs."""
        # The stream of the console's API ends with the run.
        console = [event async for event in self._events(case, f"/admin/v1/runs/{outcome.run}/events")]  # fmt: skip
        record = (await self._get(case, f"/admin/v1/runs/{outcome.run}")).json()
        # The record read by itself has more: the mails that the run has sent.
        if console[-1].get("event") != "end" or not (
            console[-1]["run"].items() <= record.items()
        ):
            self._fault(case, "its events do not end with its record")
        outcome.status, outcome.error = record["status"], record["error"] or ""
        outcome.outputs = record["outputs"]
        shown = (await self._get(case, f"/v1/workflows/run/{outcome.run}")).json()
        if (shown["status"], shown["outputs"]) != (record["status"], record["outputs"]):
            self._fault(case, "the APIs show different records")
        service = [event async for event in self._events(case, f"/v1/workflow/{outcome.run}/events")]  # fmt: skip
        if service[-1]["event"] not in ("workflow_finished", "message_end", "error"):
            self._fault(case, f"its stream ends with {service[-1]['event']}")
        if outcome.conversation:
            await self._read_messages(case, outcome)

    async def _read_messages(self, case: Case, outcome: Outcome) -> None:
        """Read the conversation of a run."""
        path = f"/v1/messages?user={_USER}&conversation_id={outcome.conversation}"
        [message] = (await self._get(case, path)).json()["data"]
        asked = stored_text(f"case {case.number}: {_said(case)}")
        if message["query"] != asked:
            self._fault(case, "its message has another query")

    async def _get(self, case: Case, path: str) -> httpx.Response:
        response = await self.call(case, "GET", path)
        if response.status_code != 200:
            self._fault(case, f"{response.status_code} of {path.partition('?')[0]}")
        return response

    async def _events(self, case: Case, path: str) -> AsyncGenerator[Any, None]:
        """Yield the events of a stream until its end."""
        user = "trigger" if case.kind in self.hooks else _USER
        async with self.http.stream("GET", path, headers=self._key(case), params={"user": user}) as response:  # fmt: skip
            self._judge_status(case, response, path)
            async for event in _events_of(response):
                yield event

    def _judge(self, case: Case, outcome: Outcome) -> None:
        """Compare an ended run with what is known of its case."""
        if outcome.status not in _ENDED:
            self._fault(case, f"is {outcome.status or 'unknown'}")
        elif case.error and not _fails_with(outcome, case.error):
            self._fault(case, f"{outcome.status} instead of an error that names {case.error}: {outcome.error[:100]}")  # fmt: skip
        elif case.expected:
            self._judge_outputs(case, outcome)

    def _judge_outputs(self, case: Case, outcome: Outcome) -> None:
        """Compare the outputs of a run that has to succeed."""
        if outcome.status != "succeeded":
            self._fault(case, f"{outcome.status}: {outcome.error[:200]}")
        for name, value in case.expected.items():
            if not _is_same(outcome.outputs.get(name), value):
                seen = ascii(outcome.outputs.get(name))[:150]
                self._fault(case, f"output {name} is {seen}, not {ascii(value)[:150]}")


async def _events_of(response: httpx.Response) -> AsyncGenerator[Any, None]:
    """Yield the events of a stream. The lines of such streams end with a line feed; text
    may contain other characters that Python takes for the end of a line."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])


def _is_same(value: Any, expected: Any) -> bool:
    """Return whether two JSON values are equal. JSON does not tell 1 from 1.0, but 1
    from true."""
    if is_object(expected) and is_object(value):
        return value.keys() == expected.keys() and all(
            _is_same(value[key], expected[key]) for key in expected
        )
    if is_array(expected) and is_array(value):
        return len(value) == len(expected) and all(map(_is_same, value, expected))
    return value == expected and isinstance(value, bool) == isinstance(expected, bool)


def _fails_with(outcome: Outcome, term: str) -> bool:
    """Return whether a run has failed with an error in which a term stands alone."""
    return outcome.status == "failed" and term in _WORD.findall(outcome.error)


def _number_of(inputs: Any) -> Any:
    """Return the number of the case in the inputs of a run."""
    return inputs.get("n") if is_object(inputs) else None


def _said(case: Case) -> str:
    """Return the odd text in the question of a chat."""
    return case.odd.value if isinstance(case.odd.value, str) else case.odd.label


class World:
    """The server process, which is killed and started again, and the outside server."""

    def __init__(self, home: Path, cases: Sequence[Case], outside: Outside) -> None:
        self._log = home / "server.log"
        self.port = free_port()
        self._command = serve_command(str(home), outside.origin, self.port, SEED, RUNS)
        self._process: subprocess.Popen[bytes] | None = None
        self.cases, self.outside = cases, outside

    async def start(self) -> None:
        """Start the server and wait until it is healthy. Raises RuntimeError with the
        end of its log."""
        self._process = start_server(self._command, self._log)
        deadline = time.monotonic() + 120
        while not await asyncio.to_thread(is_healthy, self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log_end())
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Kill the server with SIGKILL, and wait until it has exited."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def is_running(self) -> bool:
        """Whether the server has not exited by itself."""
        return self._process is not None and self._process.poll() is None

    def log_end(self) -> str:
        """Return the end of the server's log."""
        return self._log.read_text("utf-8", "replace")[-6000:]

    def tracebacks(self) -> int:
        """Return how many unexpected errors the server has logged."""
        return self._log.read_text("utf-8", "replace").count("Traceback (most recent")


async def _gather(cases: Sequence[Case], work: Any, at_once: int = _AT_ONCE) -> None:
    """Do the work for all cases, so many at once."""
    slots = asyncio.Semaphore(at_once)

    async def limited(case: Case) -> None:
        async with slots:
            await work(case)

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(limited(case))


async def _run_undisturbed(caller: Caller, cases: Sequence[Case]) -> None:
    """Run cases without a kill."""

    async def run(case: Case) -> None:
        await caller.start(case)
        await caller.read(case)

    await _gather(cases, run)


async def _run_killed(world: World, caller: Caller, cases: Sequence[Case]) -> None:
    """Start cases, kill the server while all of them are held, or run their odd node;
    start it again, and let them end."""
    chance = random.Random(SEED)
    gates = {case.number: chance.choice(("before", "after", "model")) for case in cases}
    world.outside.hold(gates)
    tasks = {case.number: asyncio.create_task(caller.start(case)) for case in cases}
    await _settled(world.outside, tasks)
    # These run their odd node when the process ends.
    world.outside.release("before")
    await asyncio.sleep(chance.uniform(0.0, 0.3))
    world.kill()
    await asyncio.gather(*tasks.values())
    world.outside.release()
    await world.start()
    await _gather(cases, caller.read)


async def _settled(outside: Outside, tasks: Mapping[int, asyncio.Task[None]]) -> None:
    """Wait until each run is at its gate, or has ended or paused."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        if all(task.done() or n in outside.arrived for n, task in tasks.items()):
            return
        await asyncio.sleep(0.02)


@asynccontextmanager
async def _served(cases: Sequence[Case]) -> AsyncGenerator[tuple[World, Caller, Path]]:
    """Install the apps and serve them until the block ends."""
    with tempfile.TemporaryDirectory(prefix="modelyard-never-") as folder:
        outside = Outside(cases)
        with outside.upstream:
            apps = await install(folder, outside.origin)
            world = World(Path(folder), cases, outside)
            base_url = f"http://127.0.0.1:{world.port}"
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
            async with httpx.AsyncClient(base_url=base_url, timeout=_WAIT_SECONDS, limits=limits) as http:  # fmt: skip
                try:
                    await world.start()
                    caller = Caller(http, apps)
                    await caller.learn_hooks()
                    yield world, caller, Path(folder)
                finally:
                    world.kill()


async def _prove(proof: Proof) -> None:
    """Run all cases and report them."""
    cases = make_cases(SEED, RUNS)
    undisturbed = [case for case in cases if case.mode != "resumed"]
    resumed = [case for case in cases if case.mode == "resumed"]
    random.Random(SEED).shuffle(resumed)
    started = time.monotonic()
    async with _served(cases) as (world, caller, folder):
        await _run_undisturbed(caller, undisturbed)
        has_survived = world.is_running
        if not has_survived:
            print(world.log_end())
        proof.figures["seconds_undisturbed"] = round(time.monotonic() - started, 1)
        batches = [resumed[index : index + PER_KILL] for index in range(0, len(resumed), PER_KILL)]  # fmt: skip
        for batch in batches:
            await _run_killed(world, caller, batch)
            has_survived = has_survived and world.is_running
        world.kill()
        undecodable = await _undecodable_events(folder, world.outside.origin)
        tracebacks = world.tracebacks()
    proof.figures |= {"seconds": round(time.monotonic() - started, 1), "seed": SEED, "kills": len(batches)}  # fmt: skip
    _report(proof, cases, caller.outcomes)
    proof.line("the server", "exited by itself only when it was killed" if has_survived else "has crashed", has_survived)  # fmt: skip
    proof.line("stored events that cannot be read", undecodable, undecodable == 0)
    proof.line("unexpected errors in the log", tracebacks, tracebacks == 0)
    proof.figures |= {"undecodable": undecodable, "tracebacks": tracebacks}


async def _undecodable_events(home: Path, origin: str) -> int:
    """Return how many stored events cannot be parsed."""
    async with Modelyard(settings_of(str(home), origin), environ={}) as yard:
        rows = await yard.services.storage.database.fetch("SELECT body FROM run_events")
    return sum(not _is_event(row["body"]) for row in rows)


def _is_event(body: Any) -> bool:
    """Return whether a stored event can be parsed."""
    try:
        parse_event(body)
    except ValueError:
        return False
    return True


def _report(
    proof: Proof, cases: Sequence[Case], outcomes: Mapping[int, Outcome]
) -> None:
    """Report a line for each kind and mode, and the faults."""
    proof.line("seed", SEED)
    for kind, mode in itertools.product(KINDS, MODES):
        numbers = [
            case.number for case in cases if (case.kind, case.mode) == (kind, mode)
        ]
        ended = [outcomes[number] for number in numbers]
        is_right = not any(outcome.faults for outcome in ended)
        proof.line(f"{kind}, {mode}", _summary(ended), is_right)
    faulty_cases = [case for case in cases if outcomes[case.number].faults]
    _report_faults(proof, faulty_cases, outcomes)
    known = len([case for case in cases if case.expected or case.error])
    proof.line("runs", f"{len(cases)}, with a known result: {known}", not faulty_cases)
    statuses = Counter(outcomes[case.number].status for case in cases)
    proof.figures |= {"runs": len(cases), "known": known, "faults": len(faulty_cases)}
    proof.figures |= statuses


def _report_faults(
    proof: Proof, cases: Sequence[Case], outcomes: Mapping[int, Outcome]
) -> None:
    """Report a line for each of the first faulty cases."""
    for case in cases[:_MAX_FAULTS_SHOWN]:
        observed = f"{case.odd.label} ({case.variant}): {outcomes[case.number].faults}"
        proof.line(f"  case {case.number}, {case.kind}", observed[:500], ok=False)


def _summary(outcomes: Sequence[Outcome]) -> str:
    """Return how many runs ended in which way."""
    counts = Counter(outcome.status or "no end" for outcome in outcomes)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def prove() -> Proof:
    """Run odd values through every kind of node, and report what did not end well."""
    proof = Proof()
    asyncio.run(_prove(proof))
    return proof
