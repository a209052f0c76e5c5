"""A proxy for a real PostgreSQL whose first connections get "is starting up" errors."""

import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

_SSL_REQUEST = 80877103


class StartingUp:
    def __init__(self, url: str, *, refusals: int) -> None:
        parts = urlsplit(url)
        folder = unquote(parse_qs(parts.query).get("host", [""])[0])
        port = parts.port or int(parse_qs(parts.query).get("port", ["5432"])[0])
        self._target = (
            str(Path(folder) / f".s.PGSQL.{port}") if folder else (parts.hostname, port)
        )
        self._left = refusals
        self.refused = 0
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        user = f"{parts.username or 'postgres'}{':' + parts.password if parts.password else ''}"
        self.url = f"postgresql://{user}@127.0.0.1:{self._listening.getsockname()[1]}{parts.path}?sslmode=disable"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._cut()
        self._thread.join(60)

    def restart(self, *, refusals: int) -> None:
        """Break all connections, and refuse the next `refusals` ones."""
        self._left = refusals
        self._cut()

    def _cut(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self._left > 0:
                self._left -= 1
                self.refused += 1
                self._refuse(client)
                continue
            server = socket.socket(
                socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
            )
            server.connect(self._target)
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(
                    target=_carry, args=(source, sink), daemon=True
                ).start()

    @staticmethod
    def _refuse(client: socket.socket) -> None:
        with suppress(OSError), client:
            head = client.recv(8)
            if len(head) == 8 and struct.unpack("!II", head)[1] == _SSL_REQUEST:
                client.sendall(b"N")
            client.recv(4096)
            fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
            client.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
