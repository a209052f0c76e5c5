"""Network access of sandboxed programs: what works, what is refused, and that nothing of
it outlives the program."""

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelyard.sandbox import program_network
from modelyard.sandbox.program_network import NO_NETWORK, NetworkAccess
from modelyard.sandbox.runner import Sandbox, SandboxError, SandboxLimits
from modelyard.transport.egress import EgressRules
from modelyard.transport.egress_proxy import EgressProxy, TransferBudget

pytestmark = pytest.mark.proof("attacks")


class Site(BaseHTTPRequestHandler):
    """A website of this machine."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        if self.path.startswith("/to/"):
            self.answer(302, b"", location=self.path[4:])
        elif self.path == "/gzip":
            self.answer(200, gzip.compress(b"packed"), **{"content-encoding": "gzip"})
        elif self.path == "/large":
            self.answer(200, b"x" * 3_000_000)
        else:
            echoed = f"{self.command} {self.path} {body.decode()} {self.headers.get('x-name')} {self.headers.get('authorization')}"
            self.answer(200, echoed.encode())

    do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve a site on a port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as number:
        yield number


class Cell:
    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    def run(
        self, code: str, *, network: NetworkAccess, language: str = "python3", **inputs: Any
    ) -> Any:  # fmt: skip
        coroutine = self.sandbox.run_code(language, code, inputs, network=network)
        return self.runner.run(coroutine)


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    with asyncio.Runner() as runner:

        async def make() -> Sandbox:
            return Sandbox(SandboxLimits(seconds=30.0, memory_mb=512))

        new_cell = Cell(runner, runner.run(make()))
        yield new_cell
        runner.run(new_cell.sandbox.aclose())


def proxy(*ports: int, host: str = "127.0.0.1", **options: Any) -> EgressProxy:
    rules = EgressRules(private=frozenset(f"{host}:{number}" for number in ports))
    return EgressProxy(lambda: rules, lambda: "", **options)


def access(*ports: int, **options: Any) -> NetworkAccess:
    return NetworkAccess(connector=proxy(*ports, **options))


PYTHON_CLIENTS = {
    "urllib": "import urllib.request\ndef main(url):\n    request = urllib.request.Request(url, b'body', {'X-Name': 'ada'})\n    return urllib.request.urlopen(request).read().decode()",
    "http.client": "import http.client, urllib.parse\ndef main(url):\n    parts = urllib.parse.urlsplit(url)\n    client = http.client.HTTPConnection(parts.hostname, parts.port)\n    client.request('POST', parts.path, 'body', {'X-Name': 'ada'})\n    return client.getresponse().read().decode()",
    "requests": "import requests\ndef main(url):\n    return requests.post(url, data='body', headers={'X-Name': 'ada'}, timeout=5).text",
    "a session": "import requests\ndef main(url):\n    with requests.Session() as session:\n        session.get(url)\n        return session.post(url, data='body', headers={'X-Name': 'ada'}).text",
    "httpx": "import httpx\ndef main(url):\n    return httpx.post(url, content='body', headers={'X-Name': 'ada'}).text",
    "httpx, asynchronous": "import httpx\nasync def main(url):\n    async with httpx.AsyncClient() as client:\n        return (await client.post(url, content='body', headers={'X-Name': 'ada'})).text",
    "asyncio": "import asyncio, urllib.parse\nasync def main(url):\n    parts = urllib.parse.urlsplit(url)\n    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)\n    writer.write(b'POST ' + parts.path.encode() + b' HTTP/1.0\\r\\nX-Name: ada\\r\\nContent-Length: 4\\r\\n\\r\\nbody')\n    answer = await reader.read()\n    writer.close()\n    return answer.decode().partition('\\r\\n\\r\\n')[2]",
    "a plain socket": "import socket, urllib.parse\ndef main(url):\n    parts = urllib.parse.urlsplit(url)\n    with socket.create_connection((parts.hostname, parts.port), 5) as client:\n        assert client.getpeername() == (parts.hostname, parts.port)\n        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n        client.sendall(b'POST ' + parts.path.encode() + b' HTTP/1.0\\r\\nX-Name: ada\\r\\nContent-Length: 4\\r\\n\\r\\nbody')\n        return b''.join(iter(lambda: client.recv(4096), b'')).decode().partition('\\r\\n\\r\\n')[2]",
    "threads": "import urllib.request\nfrom concurrent.futures import ThreadPoolExecutor\ndef main(url):\n    def ask(number):\n        request = urllib.request.Request(url, b'body', {'X-Name': 'ada'})\n        return urllib.request.urlopen(request).read().decode()\n    with ThreadPoolExecutor(12) as pool:\n        (answer,) = set(pool.map(ask, range(48)))\n    return answer",
}


@pytest.mark.parametrize("name", PYTHON_CLIENTS)
def test_the_clients_of_python_work_as_they_are(cell: Cell, port: int, name: str):
    url = f"http://127.0.0.1:{port}/path"
    result = cell.run(PYTHON_CLIENTS[name], network=access(port), url=url)
    assert result == "POST /path body ada None"


def test_they_work_on_the_level_of_namespaces(port: int):
    async def work() -> Any:
        sandbox = Sandbox(SandboxLimits(seconds=30.0), level="namespaces")
        try:
            return await sandbox.run_code(
                "python3",
                PYTHON_CLIENTS["urllib"],
                {"url": f"http://127.0.0.1:{port}/path"},
                network=access(port),
            )
        except SandboxError as error:
            if "unprivileged namespaces" in str(error):
                pytest.skip(str(error))
            raise
        finally:
            await sandbox.aclose()

    assert asyncio.run(work()) == "POST /path body ada None"


JAVASCRIPT_CLIENTS = {
    "fetch": "async function main({url}) { const answer = await fetch(url, {method: 'POST', body: 'body', headers: {'X-Name': 'ada'}}); if (!answer.ok || answer.status !== 200) throw new Error('status'); return await answer.text(); }",
    "then": "function main({url}) { return fetch(url, {method: 'post', body: Buffer.from('body'), headers: new Headers([['x-name', 'ada']])}).then((answer) => answer.arrayBuffer()).then((data) => Buffer.from(data).toString()); }",
    "a request": "async function main({url}) { const request = new Request(url, {method: 'POST', body: new Uint8Array([98, 111, 100, 121]), headers: {'x-name': 'ada'}}); return (await fetch(request)).text(); }",
    "many at once": "async function main({url}) { const ask = () => fetch(url, {method: 'POST', body: 'body', headers: {'X-Name': 'ada'}}).then((answer) => answer.text()); const answers = new Set(await Promise.all(Array.from({length: 40}, ask))); return [...answers].join(); }",
    "http": "const http = require('http');\nfunction main({url}) { return new Promise((resolve, reject) => { const request = http.request(url, {method: 'POST', headers: {'X-Name': 'ada'}}, (answer) => { let text = ''; answer.on('data', (chunk) => text += chunk); answer.on('end', () => resolve(text)); }); request.on('error', reject); request.write('bo'); request.end('dy'); }); }",
    "http with options": "const http = require('node:http');\nasync function main({url}) { const {hostname, port, pathname: path} = new URL(url); const answer = await new Promise((resolve, reject) => { const request = http.request({hostname, port, path, method: 'POST', headers: {'X-Name': 'ada', 'Content-Length': 4}}, resolve); request.on('error', reject); request.end('body'); }); let text = ''; for await (const chunk of answer) text += chunk; return text; }",
}


@pytest.mark.parametrize("name", JAVASCRIPT_CLIENTS)
def test_the_clients_of_javascript_work_as_they_are(cell: Cell, port: int, name: str):
    url = f"http://127.0.0.1:{port}/path"
    code = JAVASCRIPT_CLIENTS[name]
    result = cell.run(code, network=access(port), language="javascript", url=url)
    assert result == "POST /path body ada None"


def test_fetch_follows_redirects_unpacks_and_reads_json(cell: Cell, port: int):
    code = """
    async function main({ base }) {
      const moved = await fetch(base + "/to//a?x=1", { method: "POST", body: "b" });
      const manual = await fetch(base + "/to//a", { redirect: "manual" });
      const packed = await fetch(base + "/gzip");
      let error = "";
      try { await fetch(base + "/to//a", { redirect: "error" }); } catch (caught) { error = caught.message; }
      const form = new FormData();
      form.append("name", "ada");
      const posted = await (await fetch(base + "/f", { method: "POST", body: form })).text();
      const query = await (await fetch(base + "/q", { method: "POST", body: new URLSearchParams({ a: "1 2" }) })).text();
      return { moved: [moved.redirected, moved.url.slice(base.length), await moved.clone().text()],
        manual: [manual.status, manual.headers.get("Location")], packed: await packed.text(), error,
        isForm: /form-data; name="name"\\r\\n\\r\\nada/.test(posted), query };
    }
    """
    base = f"http://127.0.0.1:{port}"
    result = cell.run(code, network=access(port), language="javascript", base=base)
    assert result == {
        "moved": [True, "/a?x=1", "GET /a?x=1  None None"],
        "manual": [302, "/a"],
        "packed": "packed",
        "error": "fetch failed: The response is a redirect",
        "isForm": True,
        "query": "POST /q a=1+2 None None",
    }


def test_secrets_are_not_passed_to_another_origin(cell: Cell, port: int):
    code = "async function main({url}) { return (await fetch(url, {headers: {authorization: 'secret', 'x-name': 'ada'}})).text(); }"
    with serving() as second_port:
        for target in (port, second_port):
            url = f"http://127.0.0.1:{port}/to/http://127.0.0.1:{target}/a"
            result = cell.run(code, network=access(port, second_port), language="javascript", url=url)  # fmt: skip
            assert result.endswith("ada secret" if target == port else "ada None")


def test_a_request_may_be_given_up(cell: Cell):
    code = """
    async function main({ url }) {
      try { await fetch(url, { signal: AbortSignal.timeout(50) }); return "answered"; }
      catch (error) { return error.name; }
    }
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        number = silent.getsockname()[1]
        url = f"http://127.0.0.1:{number}/"
        result = cell.run(code, network=access(number), language="javascript", url=url)
    assert result == "TimeoutError"


# ---------------------------------------------------------------------------------- TLS


def authority() -> tuple[str, bytes]:
    """Return a certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return pem, key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


TLS_CLIENTS = {
    "urllib": "import urllib.request\ndef main(url):\n    return urllib.request.urlopen(url).read().decode()",
    "requests": "import requests\ndef main(url):\n    return requests.get(url, timeout=5).text",
    "httpx": "import httpx\nasync def main(url):\n    async with httpx.AsyncClient() as client:\n        return (await client.get(url)).text",
}


def test_certificates_are_checked_and_the_operators_are_trusted(
    cell: Cell, tmp_path: Path
):
    pem, key = authority()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "certificate.pem").write_text(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    script = "async function main({url}) { return (await fetch(url)).text(); }"
    clients = [*(("python3", code) for code in TLS_CLIENTS.values()), ("javascript", script)]  # fmt: skip
    with serving(context) as number:
        url = f"https://127.0.0.1:{number}/a"
        for language, code in clients:
            trusting = NetworkAccess(connector=proxy(number), authorities=pem)
            result = cell.run(code, network=trusting, language=language, url=url)
            assert result == "GET /a  None None"
            with pytest.raises(SandboxError, match="(?i)certificate.verify.failed"):
                cell.run(code, network=access(number), language=language, url=url)


# ----------------------------------------------------------------------- what is refused


REFUSED = {
    "loopback": "http://127.0.0.1:{port}/",
    "a short form": "http://127.1:{port}/",
    "a number": "http://2130706433:{port}/",
    "a name": "http://localhost:{port}/",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "six": "http://[::1]:{port}/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata in six": "http://[fd00:ec2::254]/",
    "private": "http://10.0.0.1/",
    "another port": "http://93.184.215.14:22/",
    "a redirect": "http://127.0.0.1:{open}/to/http://127.0.0.1:{port}/",
    "a redirect to metadata": "http://127.0.0.1:{open}/to/http://169.254.169.254/",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("language", ["python3", "javascript"])
def test_what_the_rules_refuse_is_a_clear_error(
    cell: Cell, port: int, name: str, language: str
):
    code = {
        "python3": "import requests\ndef main(url):\n    try:\n        return requests.get(url, timeout=5).text\n    except Exception as error:\n        return 'refused: ' + str(error)",
        "javascript": "async function main({url}) { try { return await (await fetch(url)).text(); } catch (error) { return 'refused: ' + error.message; } }",
    }[language]
    with socket.create_server(("127.0.0.1", 0)) as hidden:
        url = REFUSED[name].format(port=hidden.getsockname()[1], open=port)
        result = cell.run(code, network=access(port), language=language, url=url)
        hidden.setblocking(False)
        with pytest.raises(BlockingIOError):
            hidden.accept()
    assert result.startswith("refused: ")
    assert "egress.private" in result


def test_a_name_that_changes_its_address_is_connected_where_it_was_checked(
    cell: Cell, port: int, monkeypatch: pytest.MonkeyPatch
):
    real, addresses_by_turn = (
        socket.getaddrinfo,
        iter(["93.184.215.14", "127.0.0.1"] * 20),
    )

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        address = next(addresses_by_turn) if host == "rebind.test" else host
        return real(address, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    addresses: list[str] = []

    async def connect(host: str, number: int, **options: Any) -> Any:
        addresses.append(host)
        raise OSError("No network in tests")

    monkeypatch.setattr("asyncio.open_connection", connect)
    code = "import urllib.request\ndef main(url):\n    found = []\n    for _ in range(6):\n        try:\n            found.append(urllib.request.urlopen(url).read().decode())\n        except OSError as error:\n            found.append(str(error))\n    return found"
    answers = cell.run(code, network=access(), url="http://rebind.test/")
    assert set(addresses) == {"93.184.215.14"}
    # The second of each two lookups has the internal address, and is refused.
    assert ["does not resolve to a public" in answer for answer in answers] == [False, True] * 3  # fmt: skip


CHANNEL = """
import os, socket

def open_channel():
    for number in range(3, 64):
        try:
            channel = socket.socket(fileno=os.dup(number))
            channel.sendall(b"+")
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        except OSError:
            continue
        if descriptors:
            return channel

def main(port):
    channel = open_channel()

    def granted():
        channel.sendall(b"+")
        _, (descriptor,), _, _ = socket.recv_fds(channel, 1, 1)
        return socket.socket(fileno=descriptor)

    answers = []
    for head in ["CONNECT 127.0.0.1:%d HTTP/1.1", "GET http://127.0.0.1:%d/ HTTP/1.1", "CONNECT localhost:%d HTTP/1.1", "GET http://127.0.0.1:%d/files/x HTTP/1.1"]:
        connection = granted()
        connection.sendall((head % port).encode() + b"\\r\\n\\r\\n")
        answers.append(connection.recv(4096).decode().splitlines()[0])
    return answers
"""


def test_the_channel_itself_leads_nowhere_else(cell: Cell):
    with socket.create_server(("127.0.0.1", 0)) as hidden:
        result = cell.run(CHANNEL, network=access(), port=hidden.getsockname()[1])
    assert len(result) == 4
    assert all(line.startswith("HTTP/1.1 403 ") for line in result), result


# ------------------------------------------------------------------------ without network


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python3", "import urllib.request\ndef main(): urllib.request.urlopen('http://example.org/')"),
        ("python3", "import requests\ndef main(): requests.get('https://example.org/')"),
        ("python3", "import httpx\ndef main(): httpx.get('https://example.org/')"),
        ("python3", "import asyncio\nasync def main(): await asyncio.open_connection('example.org', 80)"),
        ("python3", "import socket\ndef main(): socket.gethostbyname('example.org')"),
        ("python3", "import socket\ndef main(): socket.socket()"),
        ("javascript", "async function main() { await fetch('https://example.org/') }"),
        ("javascript", "const https = require('https')\nfunction main() { return new Promise((resolve, reject) => https.get('https://example.org/', resolve).on('error', reject)) }"),
    ],
)  # fmt: skip
def test_without_network_the_error_says_why(cell: Cell, language: str, code: str):
    with pytest.raises(SandboxError, match="It is off: turn on the setting"):
        off = NetworkAccess(refusal="It is off: turn on the setting")
        cell.run(code, network=off, language=language)


def test_sockets_that_are_no_network_still_work(cell: Cell):
    code = "import asyncio, socket\ndef main():\n    a, b = socket.socketpair()\n    a.sendall(b'x')\n    assert b.recv(1) == b'x' and a.family == socket.AF_UNIX\n    return asyncio.run(asyncio.sleep(0, 'slept'))"
    assert cell.run(code, network=NO_NETWORK) == "slept"


# ------------------------------------------------------------------------- limits, ends


def test_connections_are_limited_and_end_with_the_program(
    cell: Cell, port: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(program_network, "MAX_OPEN_CONNECTIONS", 5)
    code = "import socket\ndef main(port):\n    held = []\n    try:\n        while True:\n            held.append(socket.create_connection(('127.0.0.1', port)))\n    except OSError as error:\n        return [len(held), str(error)]"
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        count, error = cell.run(code, network=access(number), port=number)
        assert (count, "too many open connections" in error) == (5, True)
        for _ in range(count):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                assert connection.recv(1) == b""  # closed from the other side


@pytest.mark.parametrize("ending", ["time", "cancel", "crash"])
def test_nothing_is_left_of_a_program_that_is_ended(ending: str):
    code = {
        "time": "import socket, time\ndef main(port):\n    held = socket.create_connection(('127.0.0.1', port))\n    time.sleep(60)",
        "cancel": "import socket, time\ndef main(port):\n    held = socket.create_connection(('127.0.0.1', port))\n    held.recv(1)",
        "crash": "import socket, os\ndef main(port):\n    held = socket.create_connection(('127.0.0.1', port))\n    os.abort()",
    }[ending]

    async def work() -> None:
        sandbox = Sandbox(SandboxLimits(seconds=0.7 if ending == "time" else 30.0))
        connected = asyncio.Event()
        closed = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # fmt: skip
            connected.set()
            await reader.read()
            writer.close()
            closed.set()

        try:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            number = server.sockets[0].getsockname()[1]
            running = asyncio.ensure_future(sandbox.run_code("python3", code, {"port": number}, network=access(number)))  # fmt: skip
            if ending == "cancel":
                await connected.wait()
                running.cancel()
            with pytest.raises((SandboxError, asyncio.CancelledError)):
                await running
            async with asyncio.timeout(10):
                await connected.wait()
                await closed.wait()
            server.close()
            await server.wait_closed()
            names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
            assert not any("_Broker" in name or "EgressProxy" in name for name in names)
        finally:
            await sandbox.aclose()

    asyncio.run(work())


def test_what_a_program_transfers_is_limited(cell: Cell, port: int):
    code = "import urllib.request\ndef main(url):\n    found = []\n    for _ in range(3):\n        try:\n            found.append(len(urllib.request.urlopen(url).read()))\n        except Exception as error:\n            found.append(str(error))\n    return found"
    limited = access(port, budget=TransferBudget(4_000_000))
    answers = cell.run(code, network=limited, url=f"http://127.0.0.1:{port}/large")
    assert answers[0] == 3_000_000
    assert "IncompleteRead" in str(answers[1])
    assert "More than 4,000,000 bytes have been transferred" in str(answers[2])


def test_a_program_that_does_not_read_what_it_asks_for_is_given_no_more(
    cell: Cell, port: int
):
    code = "import socket\ndef main():\n    for number in range(3, 64):\n        try:\n            channel = socket.socket(fileno=number)\n            channel.setblocking(False)\n            for _ in range(100000): channel.send(b'+' * 64)\n        except OSError: pass\n    return 'done'"
    assert cell.run(code, network=access(port)) == "done"
    url = f"http://127.0.0.1:{port}/path"
    after = cell.run(PYTHON_CLIENTS["urllib"], network=access(port), url=url)
    assert after == "POST /path body ada None"
