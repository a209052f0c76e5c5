"""Check plugin checksums and signatures against an independent implementation and
against openssl."""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tools.show.proof import ROOT, Proof


def _documented_checksum(data: bytes) -> str:
    """Return the checksum as the package format documents it: sha256 over name and
    content digests, sorted by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    buffer = b""
    for name in sorted(files):
        buffer += (
            hashlib.sha256(name.encode()).digest()
            + hashlib.sha256(files[name]).digest()
        )
    return hashlib.sha256(buffer).hexdigest()


def _built_by_hand() -> bytes:
    """Return a package of the example plugin, written without the packager."""
    buffer = io.BytesIO()
    source = ROOT / "examples" / "plugins" / "mockgpt"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        # Reverse order: the checksum must not depend on the order of the entries.
        for path in sorted(source.rglob("*"), reverse=True):
            if (
                path.is_file()
                and "__pycache__" not in path.parts
                and path.name != ".env"
            ):
                archive.writestr(path.relative_to(source).as_posix(), path.read_bytes())
    return buffer.getvalue()


def _openssl_verifies(data: bytes, public: Path, folder: Path) -> bool:
    """Verify the signature with openssl, from the format's description alone.

    The signed message is the digests of the entries in archive order, followed by the
    time.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        comment = json.loads(archive.comment)
        message = b"".join(
            hashlib.sha256(archive.read(info)).digest() for info in archive.infolist()
        )
    (folder / "message").write_bytes(message + str(comment["time"]).encode())
    (folder / "signature").write_bytes(base64.b64decode(comment["signature"]))
    # The key file is in PKCS#1; `openssl dgst` needs it as a SubjectPublicKeyInfo.
    key = subprocess.run(
        ["openssl", "rsa", "-RSAPublicKey_in", "-in", str(public), "-pubout"],
        capture_output=True,
        check=True,
    ).stdout
    (folder / "key").write_bytes(key)
    command = [
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        "key",
        "-signature",
        "signature",
        "message",
    ]
    return (
        subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode
        == 0
    )


def _modelyard(*arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a `modelyard plugin` command in `folder`."""
    command = [
        sys.executable,
        "-m",
        "modelyard",
        "plugin",
        *(str(argument) for argument in arguments),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, check=False
    )


def prove() -> Proof:
    """Check the checksum, sign and verify a package, and verify tampered ones."""
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        package, signed = folder / "by-hand.difypkg", folder / "by-hand.signed.difypkg"
        package.write_bytes(_built_by_hand())
        expected = _documented_checksum(package.read_bytes())
        printed = _modelyard("checksum", package, folder=folder).stdout.strip()
        proof.line(
            "checksum of a package built by hand",
            printed[:16] + "…",
            printed == expected,
        )
        # Two key pairs: the second one must not verify what the first one signed.
        for author in ("ours", "others"):
            _modelyard("keygen", author, folder=folder)
        _modelyard("sign", package, "--key", "ours.private.pem", folder=folder)
        verified = _modelyard(
            "verify", signed, "--key", "ours.public.pem", folder=folder
        )
        proof.line(
            "a signed package",
            verified.stdout.strip(),
            verified.returncode == 0,
        )
        by_openssl = _openssl_verifies(
            signed.read_bytes(), folder / "ours.public.pem", folder
        )
        proof.line("the same, by openssl", by_openssl, by_openssl)
        foreign_key_result = _modelyard(
            "verify", signed, "--key", "others.public.pem", folder=folder
        )
        proof.line(
            "signed with another key",
            foreign_key_result.stderr.strip(),
            foreign_key_result.returncode == 1,
        )
        plain = _modelyard("verify", package, "--key", "ours.public.pem", folder=folder)
        proof.line("an unsigned package", plain.stderr.strip(), plain.returncode == 1)
        # Tampering: flip one bit of every file, one file at a time.
        passed = _count_tampered_accepted(signed.read_bytes(), folder)
        proof.line(
            "one byte changed, of each file in turn",
            f"{passed} of them accepted",
            passed == 0,
        )
    proof.figures |= {"checksum": expected, "changed_that_pass": passed}
    return proof


def _count_tampered_accepted(data: bytes, folder: Path) -> int:
    """Return how many packages still verify after one byte of one file was changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
        comment = archive.comment
    passed = 0
    for victim in files:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(
                    name,
                    bytes([content[0] ^ 1]) + content[1:]
                    if name == victim
                    else content,
                )
            # The signature stays in the archive comment unchanged.
            archive.comment = comment
        (folder / "changed.difypkg").write_bytes(buffer.getvalue())
        passed += (
            _modelyard(
                "verify", "changed.difypkg", "--key", "ours.public.pem", folder=folder
            ).returncode
            == 0
        )
    return passed
