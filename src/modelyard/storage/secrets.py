"""Secrets at rest: AES-256-GCM under keys that have ids, bound to the row they lie in; keyed hashes of API keys.

A value reads `v1:KEY-ID:NONCE:CIPHERTEXT`. What it belongs to (tenant, kind, row) is authenticated with it, so that a
row that is copied to another tenant cannot be read there. Keys live apart from the database: a copy of one is useless
without the other. A ring that came from a file follows the file: keys that another process put there are known as soon
as something is met that was made with them.
"""

import base64
import binascii
import fcntl
import hashlib
import hmac
import logging
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.base.modes import private_folder

logger = logging.getLogger("modelyard.secrets")

_FORM = "v1"
_BYTES = 32


class SecretError(ConfigError):
    """A secret cannot be read: its key is not here, or it was changed, or it belongs to another row.

    The message is for callers: which key it was is said in the log alone.
    """

    code = "secret_unreadable"


class UnknownKeyError(SecretError):
    """A secret's master key is not here. It may come: keys are changed while servers run."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry_after = 1.0


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unpacked(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


_Stamp = tuple[int, int, int]


@dataclass(slots=True, repr=False)
class KeyRing:
    """Master keys by id; the first encrypts, all decrypt."""

    keys: Mapping[str, bytes]
    file: Path | None = field(default=None, compare=False)
    """Where they come from, and where others may put further ones."""
    _stamp: _Stamp | None = field(default=None, compare=False)
    _reading: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def read_again(self) -> bool:
        """Take up what the file holds now; whether that was anything new. Cheap where the file is as it was."""
        if self.file is None or _stamp_of(self.file) in (None, self._stamp):
            return False
        with self._reading:
            stamp = _stamp_of(self.file)
            if stamp == self._stamp:
                return True  # another thread was quicker
            try:
                keys = load_key_ring(self.file).keys
            except ConfigError as error:
                logger.error("the master keys cannot be read again", extra={"fields": {"error": str(error)}})
                return False
            self.keys, self._stamp = keys, stamp
        logger.info("the master keys were read again", extra={"fields": {"keys": len(keys)}})
        return True

    def _has(self, name: str) -> bool:
        return name in self.keys or (self.read_again() and name in self.keys)

    @classmethod
    def parse(cls, text: str, *, source: str) -> "KeyRing":
        """Lines of `id:key`, the key as base64 of 32 bytes. Raises ConfigError that names the line."""
        keys: dict[str, bytes] = {}
        for number, line in enumerate(text.replace(",", "\n").splitlines(), 1):
            if not line.strip():
                continue
            name, _, value = line.strip().partition(":")
            try:
                key = _unpacked(value)
            except (binascii.Error, ValueError):
                key = b""
            if not name or len(key) != _BYTES or len(set(key)) < 8:
                raise ConfigError(f"{source}, line {number}: a master key reads id:KEY, with 32 random bytes as base64")
            keys[name] = key
        if not keys:
            raise ConfigError(f"{source} holds no master key")
        return cls(keys)

    def dump(self) -> str:
        return "".join(f"{name}:{_packed(key)}\n" for name, key in self.keys.items())

    @property
    def active(self) -> str:
        return next(iter(self.keys))

    def rotated(self) -> "KeyRing":
        """With a new key in front."""
        return KeyRing({f"k{os.urandom(4).hex()}": os.urandom(_BYTES), **self.keys}, self.file)

    def without(self, name: str) -> "KeyRing":
        return KeyRing({one: key for one, key in self.keys.items() if one != name})

    def encrypt(self, text: str, *, tenant: str, kind: str, row: str) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce, name = os.urandom(12), self.active
        sealed = AESGCM(self._derived(name, b"secrets")).encrypt(nonce, text.encode(), _bound(tenant, kind, row, name))
        return f"{_FORM}:{name}:{_packed(nonce)}:{_packed(sealed)}"

    def decrypt(self, value: str, *, tenant: str, kind: str, row: str) -> str:
        """Raises SecretError."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        what = f"the secret of {kind} {row!r}"
        try:
            form, name, nonce, sealed = value.split(":")
            parts = _unpacked(nonce), _unpacked(sealed)
        except (ValueError, binascii.Error) as error:
            raise SecretError(f"{what} is damaged") from error
        if form != _FORM:
            raise SecretError(f"{what} is in a form ({form[:8]!r}) that this version does not know")
        if not self._has(name):
            fields = {"what": f"{kind} {row}", "tenant": tenant, "key": name[:40], "keys": list(self.keys)}
            logger.error("a secret was encrypted with a master key that is not here", extra={"fields": fields})
            raise UnknownKeyError(f"{what} cannot be read at the moment: it was encrypted with another master key")
        try:
            plain = AESGCM(self._derived(name, b"secrets")).decrypt(*parts, _bound(tenant, kind, row, name))
        except (InvalidTag, ValueError) as error:
            raise SecretError(f"{what} was changed, or belongs to another row") from error
        return plain.decode()

    def is_current(self, value: str) -> bool:
        """Whether it was encrypted with the key that encrypts now."""
        return value.split(":")[1:2] == [self.active]

    def digest(self, text: bytes) -> str:
        """A keyed hash, `KEY-ID:HEX`: what is stored of an API key."""
        return f"{self.active}:{self._hash(self.active, text)}"

    def matches(self, text: bytes, digest: str) -> bool:
        name, _, said = digest.partition(":")
        return self._has(name) and hmac.compare_digest(self._hash(name, text).encode(), said.encode("utf-8", "replace"))

    def matches_any(self, text: bytes, said: str) -> bool:
        """Whether it is the hash of `text` under any of the keys, where the key's id was left out."""
        self.read_again()
        # All are compared: how long it takes says nothing about which one fits.
        return (
            sum(
                hmac.compare_digest(self._hash(name, text).encode(), said.encode("utf-8", "replace"))
                for name in self.keys
            )
            > 0
        )

    def _hash(self, name: str, text: bytes) -> str:
        return hmac.new(self._derived(name, b"api-keys"), text, hashlib.sha256).hexdigest()

    def _derived(self, name: str, purpose: bytes) -> bytes:
        """One master key, a key of its own for each purpose."""
        return hmac.new(self.keys[name], b"modelyard/" + purpose, hashlib.sha256).digest()


def _bound(tenant: str, kind: str, row: str, key: str) -> bytes:
    return "|".join(part.replace("|", "||") for part in (tenant, kind, row, key)).encode()


def load_key_ring(path: Path, given: str = "") -> KeyRing:
    """The keys that were `given`, else those in the file; a new one is made where there is none.

    Raises ConfigError where the file cannot be read, or where others than its owner may.
    """
    if given:
        return KeyRing.parse(given, source="the master key in the settings")
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} holds the master key and may be read by others: chmod 600 {path}")
        stamp = _stamp_of(path)
        return KeyRing(KeyRing.parse(path.read_text("ascii"), source=str(path)).keys, path, stamp)
    except FileNotFoundError:
        return _created(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} holds the master key and cannot be read: {error}") from error


def _created(path: Path) -> KeyRing:
    ring = KeyRing({}).rotated()
    private_folder(path.parent)
    unseen = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(ring.dump())
    try:
        os.link(unseen, path)  # fails where another process was quicker: its key is the key then
    except FileExistsError:
        return load_key_ring(path)
    finally:
        unseen.unlink()
    return load_key_ring(path)


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ino, seen.st_size


@contextmanager
def rotating(path: Path) -> Generator[None]:
    """While keys are changed. Raises ConfigError where somebody else is at it: one would drop the other's new key."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"the keys in {path} are being changed by another process; try again later") from error
        yield
    finally:
        os.close(descriptor)


def save_key_ring(path: Path, ring: KeyRing) -> None:
    unseen = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(ring.dump())
        out.flush()
        os.fsync(out.fileno())  # rows are about to be encrypted with keys that lie nowhere else
    unseen.replace(path)
