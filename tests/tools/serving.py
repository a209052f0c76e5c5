"""An echo server and a token server on loopback, in a thread."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        server: Any = self.server
        server.seen.append((self.command, self.path))
        if parts.path == "/token":
            self._send_token(body, len(server.seen))
        elif parts.path == "/extension":
            authorization = self.headers.get("authorization")
            self._send(200, _extension(json.loads(body), authorization))
        elif parts.path.endswith("/fails"):
            self._send(422, {"error": "not like that"})
        elif parts.path.endswith("/text"):
            self._raw(200, b"plain words", "text/plain")
        elif parts.path.endswith("/bytes"):
            self._raw(200, b"\x00\x01\x02", "application/octet-stream")
        elif parts.path.endswith("/nothing"):
            self._raw(204, b"", "")
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = {
                "method": self.command,
                "path": parts.path,
                "query": parse_qsl(parts.query, keep_blank_values=True),
                "headers": headers,
                "body": body.decode("utf-8", "replace"),
            }
            self._send(200, request)

    def _send_token(self, body: bytes, number: int) -> None:
        """Send a token if the client's credentials are right."""
        fields = dict(parse_qsl(body.decode()))
        credentials = (fields.get("client_id"), fields.get("client_secret"))
        if credentials != ("me", "hush"):
            self._send(401, {})
            return
        self._send(200, {"access_token": f"token-{number}", "expires_in": 3600})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _send(self, status: int, value: Any) -> None:
        self._raw(status, json.dumps(value).encode(), "application/json")

    def _raw(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        if content_type:
            self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *details: Any) -> None: ...


def _extension(request: dict[str, Any], key: str | None) -> dict[str, Any]:
    """Answer as an API extension: weather data, and moderation of forbidden words."""
    point, params = request["point"], request["params"]
    text = str(params.get("query") or params.get("text") or "")
    match point:
        case "ping":
            return (
                {"result": "pong"}
                if key == "Bearer hush"
                else {"result": "who are you?"}
            )
        case "app.external_data_tool.query":
            return {"result": f"sunny in {params['inputs'].get('city')}"}
        case "app.moderation.input" if "soften" in text:
            return {
                "flagged": True,
                "action": "overridden",
                "inputs": params["inputs"],
                "query": "Say it gently.",
            }
        case _:
            return {
                "flagged": "rude" in text,
                "action": "direct_output",
                "preset_response": "Please be kind.",
            }


@contextmanager
def echo() -> Generator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
