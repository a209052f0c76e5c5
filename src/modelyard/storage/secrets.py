"""Encryption of stored secrets (AES-256-GCM with identified keys, bound to their row),
and keyed hashes of API keys.

A value has the form `v1:KEY-ID:NONCE:CIPHERTEXT`. Tenant, kind and row are
authenticated with it, so that a row copied to another tenant cannot be decrypted. Keys
are stored apart from the database: a copy of one is useless without the other. A key
ring loaded from a file follows the file: keys added by another process are picked up
when a secret that needs them is encountered.
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
from modelyard.base.private_files import private_folder

logger = logging.getLogger("modelyard.secrets")

_FORMAT_VERSION = "v1"
_KEY_BYTES = 32


class SecretError(ConfigError):
    """A secret cannot be decrypted: its key is missing, it was modified, or it belongs
    to another row.

    The message is for callers; the key's id appears only in the log.
    """

    code = "secret_unreadable"


class UnknownKeyError(SecretError):
    """The master key of a secret is not available. It may appear later, since keys are
    rotated while servers run."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry_after = 1.0


def _to_base64(data: bytes) -> str:
    """Return bytes in the URL-safe alphabet, without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    """Return the bytes of such a text."""
    # Padding is removed when encoding, so it is added again here.
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# Modification time in ns, inode and size of the key file.
_Stamp = tuple[int, int, int]


@dataclass(slots=True, repr=False)
class KeyRing:
    """Master keys by id. The first one encrypts, all of them decrypt."""

    keys: Mapping[str, bytes]
    file: Path | None = field(default=None, compare=False)
    """File that the keys come from and to which other processes may add keys."""
    _stamp: _Stamp | None = field(default=None, compare=False)
    _reading: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def reload(self) -> bool:
        """Reload the key file if it changed; return whether there may be new keys.
        Cheap for an unchanged file."""
        if self.file is None or _stamp_of(self.file) in (None, self._stamp):
            return False
        with self._reading:
            stamp = _stamp_of(self.file)
            if stamp == self._stamp:
                # Another thread has already reloaded the file.
                return True
            try:
                keys = load_key_ring(self.file).keys
            except ConfigError as error:
                logger.error(
                    "the master keys cannot be reloaded",
                    extra={"fields": {"error": str(error)}},
                )
                return False
            self.keys, self._stamp = keys, stamp
        logger.info("master keys reloaded", extra={"fields": {"keys": len(keys)}})
        return True

    def _has(self, name: str) -> bool:
        """Return whether a key exists; another process may just have added it."""
        return name in self.keys or (self.reload() and name in self.keys)

    @classmethod
    def parse(cls, text: str, *, source: str) -> "KeyRing":
        """Parse lines of `id:key`, the key as base64 of 32 bytes. Raises ConfigError
        naming the line."""
        keys: dict[str, bytes] = {}
        for number, line in enumerate(text.replace(",", "\n").splitlines(), 1):
            if not line.strip():
                continue
            name, _, value = line.strip().partition(":")
            try:
                key = _from_base64(value)
            except (binascii.Error, ValueError):
                key = b""
            # Fewer than 8 distinct bytes means that the key is not random, for example
            # all zeros.
            if not name or len(key) != _KEY_BYTES or len(set(key)) < 8:
                raise ConfigError(
                    f"{source}, line {number}: expected a master key as id:KEY, with 32"
                    " random bytes as base64"
                )
            keys[name] = key
        if not keys:
            raise ConfigError(f"{source} contains no master key")
        return cls(keys)

    def dump(self) -> str:
        """Return the keys in the format that `parse` reads."""
        return "".join(f"{name}:{_to_base64(key)}\n" for name, key in self.keys.items())

    @property
    def active(self) -> str:
        """Return the id of the key that encrypts."""
        return next(iter(self.keys))

    def rotated(self) -> "KeyRing":
        """Return a ring with a new key in first position."""
        return KeyRing(
            {f"k{os.urandom(4).hex()}": os.urandom(_KEY_BYTES), **self.keys}, self.file
        )

    def without(self, name: str) -> "KeyRing":
        """Return a ring without one key."""
        return KeyRing(
            {key_id: key for key_id, key in self.keys.items() if key_id != name}
        )

    def encrypt(self, text: str, *, tenant: str, kind: str, row: str) -> str:
        """Encrypt a secret, bound to its tenant, kind and row."""
        # Loaded with the first secret: it is large, and many programs have none.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        # A random 96-bit nonce per value, as AES-GCM requires.
        nonce, name = os.urandom(12), self.active
        sealed = AESGCM(self._derived(name, b"secrets")).encrypt(
            nonce, text.encode(), _associated_data(tenant, kind, row, name)
        )
        return f"{_FORMAT_VERSION}:{name}:{_to_base64(nonce)}:{_to_base64(sealed)}"

    def decrypt(self, value: str, *, tenant: str, kind: str, row: str) -> str:
        """Decrypt a secret that `encrypt` returned for the same tenant, kind and row.

        Raises UnknownKeyError if its key is not in the ring, even after the key file
        was reloaded; SecretError if the secret was modified, is malformed, or belongs
        to another row.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        description = f"The secret of {kind} {row!r}"
        try:
            format_version, name, nonce, sealed = value.split(":")
            parts = _from_base64(nonce), _from_base64(sealed)
        except (ValueError, binascii.Error) as error:
            raise SecretError(f"{description} is damaged") from error
        if format_version != _FORMAT_VERSION:
            raise SecretError(
                f"{description} has a format ({format_version[:8]!r}) that this version"
                " does not support"
            )
        # Another process may have changed the master key, so the file is
        # read once more.
        if not self._has(name):
            # Names of keys go to the log alone: callers see the error.
            fields = {
                "what": f"{kind} {row}",
                "tenant": tenant,
                "key": name[:40],
                "keys": list(self.keys),
            }
            logger.error(
                "a secret was encrypted with an unknown master key",
                extra={"fields": fields},
            )
            raise UnknownKeyError(
                f"{description} cannot be read at the moment: it was encrypted with"
                " another master key"
            )
        try:
            # The associated data binds a secret to its row: copied to another one, for
            # example by whoever can write to the database, it cannot be decrypted.
            plain = AESGCM(self._derived(name, b"secrets")).decrypt(
                *parts, _associated_data(tenant, kind, row, name)
            )
        except (InvalidTag, ValueError) as error:
            raise SecretError(
                f"{description} was modified, or belongs to another row"
            ) from error
        return plain.decode()

    def is_current(self, value: str) -> bool:
        """Return whether a secret was encrypted with the active key."""
        return value.split(":")[1:2] == [self.active]

    def digest(self, text: bytes) -> str:
        """Return the keyed hash of an API key as `KEY-ID:HEX`, for storage."""
        return f"{self.active}:{self._hash(self.active, text)}"

    def matches(self, text: bytes, digest: str) -> bool:
        """Return whether a stored digest belongs to `text`. Compares in constant time."""
        name, _, expected_hash = digest.partition(":")
        # As bytes: `compare_digest` takes no text beyond ASCII, and callers write
        # signatures.
        return self._has(name) and hmac.compare_digest(
            self._hash(name, text).encode(), expected_hash.encode("utf-8", "replace")
        )

    def matches_any(self, text: bytes, expected_hash: str) -> bool:
        """Return whether a hash without key id belongs to `text` under any of the keys."""
        self.reload()
        # All keys are compared, so that the duration does not reveal which one matches.
        return (
            sum(
                hmac.compare_digest(
                    self._hash(name, text).encode(),
                    expected_hash.encode("utf-8", "replace"),
                )
                for name in self.keys
            )
            > 0
        )

    def _hash(self, name: str, text: bytes) -> str:
        """Return the keyed hash of an API key, from which the key cannot be found."""
        return hmac.new(
            self._derived(name, b"api-keys"), text, hashlib.sha256
        ).hexdigest()

    def _derived(self, name: str, purpose: bytes) -> bytes:
        """Derive a separate key for a purpose from a master key."""
        return hmac.new(
            self.keys[name], b"modelyard/" + purpose, hashlib.sha256
        ).digest()


def _associated_data(tenant: str, kind: str, row: str, key: str) -> bytes:
    """Return the data that AES-GCM authenticates with a secret: where it belongs.

    It joins tenant, kind, row and key id unambiguously.
    """
    # Doubling the separator keeps ("a|b", "c") distinct from ("a", "b|c").
    return "|".join(
        part.replace("|", "||") for part in (tenant, kind, row, key)
    ).encode()


def load_key_ring(path: Path, configured_keys: str = "") -> KeyRing:
    """Return the key ring of the configured keys, or of the file, which is created with
    a new key if missing.

    Raises ConfigError if the file is unreadable, or accessible to other users.
    """
    if configured_keys:
        return KeyRing.parse(configured_keys, source="The master key in the settings")
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(
                f"{path} contains the master key and other users can read it: run chmod 600"
                f" {path}"
            )
        # The stamp is taken before reading: a change in between causes one more reload,
        # never a missed one.
        stamp = _stamp_of(path)
        return KeyRing(
            KeyRing.parse(path.read_text("ascii"), source=str(path)).keys, path, stamp
        )
    except FileNotFoundError:
        return _created(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} contains the master key but cannot be read: {error}"
        ) from error


def _created(path: Path) -> KeyRing:
    """Create the key file with one new key, and return its key ring.

    The file appears complete, readable by its owner only. If another process creates it
    first, that one's keys are returned.
    """
    ring = KeyRing({}).rotated()
    private_folder(path.parent)
    unseen = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(ring.dump())
    try:
        # This fails if another process has created the file; its key is used then.
        os.link(unseen, path)
    except FileExistsError:
        return load_key_ring(path)
    finally:
        unseen.unlink()
    return load_key_ring(path)


def _stamp_of(path: Path) -> _Stamp | None:
    """Return what tells versions of a file apart: change time, inode and size.

    None if the file does not exist or is not accessible.
    """
    try:
        file_status = path.stat()
    except OSError:
        return None
    return file_status.st_mtime_ns, file_status.st_ino, file_status.st_size


@contextmanager
def rotating(path: Path) -> Generator[None]:
    """Hold the lock for key rotation. Raises ConfigError if another process holds it:
    one of them would lose its new key."""
    # A file of its own: the key file is replaced, and a lock on the old one keeps
    # nobody out.
    descriptor = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"The keys in {path} are being changed by another process; try again"
                " later"
            ) from error
        yield
    finally:
        os.close(descriptor)


def save_key_ring(path: Path, ring: KeyRing) -> None:
    """Write the keys to the file atomically and durably."""
    unseen = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(ring.dump())
        file.flush()
        # Rows will be encrypted with keys that are stored only in this file.
        os.fsync(file.fileno())
    unseen.replace(path)
