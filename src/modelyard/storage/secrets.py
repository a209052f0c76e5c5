"""Secrets at rest: AES-256-GCM under keys that have ids, bound to the row they lie in; keyed hashes of API keys.

A value reads `v1:KEY-ID:NONCE:CIPHERTEXT`. What it belongs to (tenant, kind, row) is authenticated with it, so that a
row that is copied to another tenant cannot be read there. Keys live apart from the database: a copy of one is useless
without the other.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelyard.base.errors import ConfigError

_FORM = "v1"
_BYTES = 32


class SecretError(ConfigError):
    """A secret cannot be read: its key is not here, or it was changed, or it belongs to another row."""

    code = "secret_unreadable"


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unpacked(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Master keys by id; the first encrypts, all decrypt."""

    keys: Mapping[str, bytes]

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
        return KeyRing({f"k{os.urandom(4).hex()}": os.urandom(_BYTES), **self.keys})

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
        if name not in self.keys:
            raise SecretError(
                f"{what} was encrypted with master key {name!r}, which is not here; there is {self._names()}"
            )
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
        return name in self.keys and hmac.compare_digest(
            self._hash(name, text).encode(), said.encode("utf-8", "replace")
        )

    def _hash(self, name: str, text: bytes) -> str:
        return hmac.new(self._derived(name, b"api-keys"), text, hashlib.sha256).hexdigest()

    def _derived(self, name: str, purpose: bytes) -> bytes:
        """One master key, a key of its own for each purpose."""
        return hmac.new(self.keys[name], b"modelyard/" + purpose, hashlib.sha256).digest()

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self.keys)


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
        return KeyRing.parse(path.read_text("ascii"), source=str(path))
    except FileNotFoundError:
        return _created(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} holds the master key and cannot be read: {error}") from error


def _created(path: Path) -> KeyRing:
    ring = KeyRing({}).rotated()
    path.parent.mkdir(parents=True, exist_ok=True)
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
    return ring


def save_key_ring(path: Path, ring: KeyRing) -> None:
    unseen = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(ring.dump())
    unseen.replace(path)
