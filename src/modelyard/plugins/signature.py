"""RSA signatures of packages, compatible with Dify's plugin daemon.

The signature is the ZIP's comment, `{"signature": base64, "time": seconds}`: RSA-4096,
PKCS#1 v1.5, SHA-256, over the digests of all entries' contents in archive order and the
time as decimal digits. Names are not covered: renaming a file changes the checksum, and
thus the plugin's identifier, but not the signature. The last entry,
`.verification.dify.json`, states the category of the signing author.
"""

import base64
import binascii
import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from modelyard.base.errors import PackageError
from modelyard.plugins.package import MAX_BYTES, read_package, write_package

VERIFICATION = ".verification.dify.json"
CATEGORIES = ("langgenius", "partner", "community")
_KEY_BITS = 4096


class Verification(NamedTuple):
    """A verified signature."""

    key: str
    """File name of the public key that matched."""
    category: str
    signed_at: int


class _Comment(msgspec.Struct, frozen=True):
    signature: str
    time: int


def generate_keys() -> tuple[bytes, bytes]:
    """Generate a key pair and return (private, public) as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    return (
        # PKCS#1 for both keys, the form of Dify's own tools.
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.PKCS1
        ),
    )


def sign(
    data: bytes, private_key: bytes, *, category: str = "community", signed_at: int
) -> bytes:
    """Return the package with a signature, replacing any earlier one. `signed_at` is
    the Unix time. Raises PackageError."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    if category not in CATEGORIES:
        raise PackageError(
            f"Unknown category {category!r}; expected one of {', '.join(CATEGORIES)}"
        )
    try:
        key = serialization.load_pem_private_key(private_key, None)
    except (ValueError, TypeError) as error:
        raise PackageError(f"The private key cannot be read: {error}") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise PackageError("The private key must be an RSA key")
    # The entry is written anew at the end, so that it is always the last one.
    files = {
        name: content
        for name, content in read_package(data).files.items()
        if name != VERIFICATION
    }
    files[VERIFICATION] = msgspec.json.encode({"authorized_category": category})
    message = _message(list(files.values()), signed_at)
    signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    comment = msgspec.json.encode(
        _Comment(base64.b64encode(signature).decode(), signed_at)
    )
    return write_package(files, comment=comment)


def is_signed(data: bytes) -> bool:
    """Return whether the package carries a signature, without verifying it."""
    return _comment(data) is not None


def verify(data: bytes, public_keys: Sequence[tuple[str, bytes]]) -> Verification:
    """Verify a package against public keys, given as (name, PEM).

    Raises PackageError if it is not signed, was signed with another key, or was
    changed.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    comment = _comment(data)
    if comment is None:
        raise PackageError("The package is not signed")
    if not public_keys:
        raise PackageError(
            "The package is signed, but no public key is configured to verify it"
        )
    files = read_package(data).files
    # The message is computed from the content, not from stored digests.
    message = _message(list(files.values()), comment.time)
    try:
        signature = base64.b64decode(comment.signature, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PackageError("The package's signature is invalid") from error
    # Any of the keys may have made the signature.
    for name, pem in public_keys:
        try:
            _public_key(name, pem).verify(
                signature, message, padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            continue
        return Verification(name, _category(files.get(VERIFICATION)), comment.time)
    names = ", ".join(name for name, _ in public_keys)
    raise PackageError(
        "Signature does not match any trusted key (or the package was modified);"
        f" tried {names}"
    )


def _public_key(name: str, pem: bytes) -> Any:
    """Parse a PEM public key. Raises PackageError unless it is an RSA key.

    `name` is the key's file name, for the error message.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise PackageError(f"Public key {name!r} cannot be read: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise PackageError(f"Public key {name!r} must be an RSA key")
    return key


def _message(contents: Sequence[bytes], time: int) -> bytes:
    """Return the bytes that are signed: digests of the contents, and the time.

    The SHA-256 digests follow in archive order, then the Unix time as decimal digits,
    as Dify's plugin daemon has it.
    """
    # The order of the archive counts; the format does not sort.
    return (
        b"".join([hashlib.sha256(content).digest() for content in contents])
        + str(time).encode()
    )


def _comment(data: bytes) -> _Comment | None:
    """Return the signature in the ZIP's comment; None if there is none.

    Raises PackageError if `data` is larger than MAX_BYTES or not a ZIP file.
    """
    if len(data) > MAX_BYTES:
        raise PackageError(
            f"The package has {len(data):,} bytes; the limit is {MAX_BYTES:,}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return msgspec.json.decode(archive.comment, type=_Comment)
    except zipfile.BadZipFile as error:
        raise PackageError(f"The package is an invalid ZIP file: {error}") from error
    # A package with another comment is unsigned.
    except msgspec.MsgspecError:
        return None


def _category(content: bytes | None) -> str:
    """Return the category of the signing author; packages without the entry are
    first-party."""
    if content is None:
        return "langgenius"
    try:
        return str(msgspec.json.decode(content).get("authorized_category", ""))
    except (msgspec.MsgspecError, AttributeError):
        return ""


def read_keys(paths: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Read public key files and return (file name, content) for `verify`.

    The contents are not parsed here. Raises PackageError if a file cannot be read.
    """
    try:
        return [(path.name, path.read_bytes()) for path in paths]
    except OSError as error:
        raise PackageError(
            f"Public key {error.filename!r} cannot be read: {error.strerror}"
        ) from error
