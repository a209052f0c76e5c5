"""The sockets that Python programs see in the sandbox.

The kernel refuses a program every socket but a pair of streams. A program that may use
the network asks the server for connections over its channel: for each it receives one
end of a pair, at whose other end a proxy connects to what the egress rules allow.
`socket.socket` hides this, so that `urllib`, `requests`, `httpx` and `asyncio` work as
they are. Without a channel it says why there is no network. None of this protects
anything: a program can undo it, and then meets the kernel's refusal.
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import _socket
import errno
import ipaddress
import os
import socket
import ssl
import threading
from typing import Any

_real_socket = socket.socket
# Also for sockets that do not block: connecting takes a moment only.
_MAX_CONNECT_SECONDS = 25.0
_MAX_HEAD_BYTES = 4096
_PORTS = {"http": 80, "https": 443}
# Where systems keep the certificates of authorities.
AUTHORITY_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Channel:
    """The way to the server's proxy, shared by all threads of the program."""

    def __init__(self, descriptor: Any) -> None:
        self._socket = _real_socket(fileno=descriptor)
        self._lock = threading.Lock()

    def connect(self, host: Any, port: Any, timeout: Any) -> Any:
        """Return the descriptor of a connection to a host. Raises OSError with the
        proxy's reason."""
        # One request at a time: answers have no numbers. They come at once.
        with self._lock:
            self._socket.sendall(b"+")
            _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not descriptors:
            raise OSError(errno.EMFILE, "The program has too many open connections")
        connection = _real_socket(fileno=descriptors[0])
        connection.settimeout(timeout or _MAX_CONNECT_SECONDS)
        try:
            head = f"CONNECT {_ascii_host(host)}:{port} HTTP/1.1\r\n\r\n"
            connection.sendall(head.encode("ascii"))
            _check_status(_read_head(connection))
            # As a new socket has it; the caller sets what it wants.
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection.detach()


def _ascii_host(host: Any) -> Any:
    """Return a host as a request has it. Raises OSError for one that cannot be a name."""
    if ":" in host:
        return f"[{host}]"
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"Invalid host {host[:80]!r}: {error}") from None


def _read_head(connection: Any) -> Any:
    """Return the head of the proxy's response; what follows it is the program's."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(head) > _MAX_HEAD_BYTES:
            raise ConnectionResetError(errno.ECONNRESET, "The connection was closed")
        head += byte
    return head.decode("latin-1")


def _check_status(head: Any) -> Any:
    """Raise OSError with the reason if the proxy has not connected."""
    status, _, reason = head.partition("\r\n")[0].partition(" ")[2].partition(" ")
    # The proxy's reason follows the name of its status.
    reason = reason.partition(": ")[2] or reason
    if status == "403":
        raise PermissionError(errno.EACCES, reason)
    if status != "200":
        raise ConnectionRefusedError(errno.ECONNREFUSED, reason)


class _Network:
    """What the sockets of this process connect through."""

    channel: Any = None
    refusal = "Programs have no network access here"


class ProgramSocket(_real_socket):
    """A TCP socket that connects through the channel; other sockets are real ones."""

    # Reports the family that was asked for, which libraries compare.
    _peer: Any = None
    is_of_channel = False

    def __init__(
        self, family: Any = -1, type: Any = -1, proto: Any = -1, fileno: Any = None
    ) -> None:
        is_internet = family in (-1, socket.AF_INET, socket.AF_INET6)
        if fileno is None and is_internet:
            if _Network.channel is None:
                raise PermissionError(errno.EPERM, _Network.refusal)
            # The flags for blocking and inheritance are beyond the type itself.
            if type != -1 and int(type) & 0xF != socket.SOCK_STREAM:
                raise PermissionError(
                    errno.EPERM, "Programs may use TCP only, not UDP or raw sockets"
                )
            self.is_of_channel = True
            family = socket.AF_INET if family == -1 else family
            super().__init__(family, socket.SOCK_STREAM, proto, _placeholder())
            return
        super().__init__(family, type, proto, fileno)

    def connect(self, address: Any) -> Any:
        """Connect to (host, port). Raises OSError with the reason."""
        if not self.is_of_channel:
            super().connect(address)
            return
        host, port = _text(address[0]), address[1]
        descriptor = _Network.channel.connect(host, int(port), self.gettimeout())
        # The number stays, because it may have been passed on already.
        os.dup2(descriptor, self.fileno(), inheritable=False)
        os.close(descriptor)
        os.set_blocking(self.fileno(), self.gettimeout() is None)
        self._peer = (host, int(port))

    def connect_ex(self, address: Any) -> Any:
        """Connect like `connect`, and return the number of an error; 0 for none."""
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or errno.ECONNREFUSED
        return 0

    def getpeername(self) -> Any:
        """Return the (host, port) that was connected to."""
        if not self.is_of_channel:
            return super().getpeername()
        if self._peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._peer

    def getsockname(self) -> Any:
        """Return an address that means none."""
        return ("127.0.0.1", 0) if self.is_of_channel else super().getsockname()

    def setsockopt(self, level: Any, *arguments: Any) -> Any:
        """Set an option. Those of TCP and IP mean nothing to a pair of sockets."""
        if not self.is_of_channel or level == socket.SOL_SOCKET:
            super().setsockopt(level, *arguments)

    def getsockopt(self, level: Any, *arguments: Any) -> Any:
        """Return an option; 0 for those of TCP and IP."""
        if not self.is_of_channel or level == socket.SOL_SOCKET:
            return super().getsockopt(level, *arguments)
        return 0


def _placeholder() -> Any:
    """Return the descriptor of a stream that nothing is connected to."""
    near, far = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    far.close()
    return near.detach()


def getaddrinfo(
    host: Any, port: Any, family: Any = 0, type: Any = 0, proto: Any = 0, flags: Any = 0
) -> Any:
    """Return one address in which the host's name stands for itself: the proxy resolves
    it when the program connects. Raises PermissionError without network."""
    if _Network.channel is None:
        raise PermissionError(errno.EPERM, _Network.refusal)
    host = _text(host) or "127.0.0.1"
    is_v6 = _is_v6(host, must_be_address=bool(flags & socket.AI_NUMERICHOST))
    host_family = socket.AF_INET6 if is_v6 else socket.AF_INET
    if family not in (0, host_family):
        raise socket.gaierror(
            socket.EAI_ADDRFAMILY, "The host has no address of this family"
        )
    canonical = host if flags & socket.AI_CANONNAME else ""
    address = (host, _port_number(port), *((0, 0) if is_v6 else ()))
    return [(host_family, socket.SOCK_STREAM, socket.IPPROTO_TCP, canonical, address)]


def _text(host: Any) -> Any:
    """Return a host as text; the names of C are bytes."""
    return host.decode("ascii") if isinstance(host, (bytes, bytearray)) else host


def _is_v6(host: Any, *, must_be_address: Any) -> Any:
    """Return whether a host is an IPv6 address. Raises gaierror for a name where an
    address is required, which is how callers ask what it is."""
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        if not must_be_address:
            return False
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _port_number(port: Any) -> Any:
    """Return a port as a number. Raises gaierror for an unknown service."""
    if port is None:
        return 0
    text = port.decode() if isinstance(port, bytes) else str(port)
    if text in _PORTS:
        return _PORTS[text]
    if not text.isdigit():
        raise socket.gaierror(socket.EAI_SERVICE, f"Unknown service {text!r}")
    return int(text)


def gethostbyname(host: Any) -> Any:
    """Return an IPv4 address as it is. Names are resolved by the proxy alone."""
    if _Network.channel is None:
        raise PermissionError(errno.EPERM, _Network.refusal)
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise socket.gaierror(
            socket.EAI_FAIL,
            "Programs cannot look names up; they connect by name instead",
        ) from None


def _trust(authorities: Any) -> Any:
    """Let TLS clients trust further certificates, and the usual ones where OpenSSL does
    not find the system's."""
    real_load, real_defaults = (
        ssl.SSLContext.load_verify_locations,
        ssl.SSLContext.load_default_certs,
    )

    def load(
        self: Any, cafile: Any = None, capath: Any = None, cadata: Any = None
    ) -> Any:
        """Load the certificates that the program names, and the further ones."""
        real_load(self, cafile, capath, cadata)
        if authorities:
            real_load(self, cadata=authorities)

    def load_defaults(self: Any, purpose: Any = ssl.Purpose.SERVER_AUTH) -> Any:
        """Load the system's certificates, and the further ones."""
        real_defaults(self, purpose)
        if not self.cert_store_stats()["x509_ca"] and (usual := _usual_file()):
            real_load(self, usual)
        if authorities:
            real_load(self, cadata=authorities)

    ssl.SSLContext.load_verify_locations = load
    ssl.SSLContext.load_default_certs = load_defaults


def _usual_file() -> Any:
    """Return a readable file of certificates; that of `certifi` if the system has
    none."""
    for path in AUTHORITY_FILES:
        # Opened, because the sandbox refuses what the modes of a file permit.
        try:
            with open(path, "rb"):
                return path
        except OSError:
            continue
    try:
        import certifi
    except ImportError:
        return None
    return certifi.where()


def install(task: Any) -> Any:
    """Replace the sockets of this process: `task` has the descriptor `channel` or None,
    the text `refusal`, and `authorities` in PEM."""
    descriptor = task.get("channel")
    _Network.refusal = task.get("refusal") or _Network.refusal
    socket.socket = ProgramSocket
    socket.getaddrinfo = getaddrinfo
    socket.gethostbyname = gethostbyname
    if descriptor is not None:
        _Network.channel = Channel(descriptor)
        _trust(task.get("authorities"))


def refusal() -> Any:
    """Return why there is no network; empty if there is."""
    return "" if _Network.channel is not None else _Network.refusal
