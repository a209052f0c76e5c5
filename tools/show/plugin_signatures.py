"""Signatures and checksums, beside an account that shares no code with what makes them."""

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
    """As the format's description says: sha256 over name and content digests, in the order of the names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    buffer = b""
    for name in sorted(files):
        buffer += hashlib.sha256(name.encode()).digest() + hashlib.sha256(files[name]).digest()
    return hashlib.sha256(buffer).hexdigest()


def _built_by_hand() -> bytes:
    out = io.BytesIO()
    source = ROOT / "examples" / "plugins" / "mockgpt"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(source.rglob("*"), reverse=True):
            if path.is_file() and "__pycache__" not in path.parts and path.name != ".env":
                archive.writestr(path.relative_to(source).as_posix(), path.read_bytes())
    return out.getvalue()


def _is_signed_so(data: bytes, public: Path, folder: Path) -> bool:
    """By openssl, from the description: digests of the entries in their order, then the time."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        comment = json.loads(archive.comment)
        message = b"".join(hashlib.sha256(archive.read(info)).digest() for info in archive.infolist())
    (folder / "message").write_bytes(message + str(comment["time"]).encode())
    (folder / "signature").write_bytes(base64.b64decode(comment["signature"]))
    key = subprocess.run(
        ["openssl", "rsa", "-RSAPublicKey_in", "-in", str(public), "-pubout"], capture_output=True, check=True
    ).stdout
    (folder / "key").write_bytes(key)
    command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "message"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def _modelyard(*arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "modelyard", "plugin", *(str(one) for one in arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        package, signed = folder / "by-hand.difypkg", folder / "by-hand.signed.difypkg"
        package.write_bytes(_built_by_hand())
        expected = _documented_checksum(package.read_bytes())
        printed = _modelyard("checksum", package, folder=folder).stdout.strip()
        proof.line("checksum of a package built by hand", printed[:16] + "…", printed == expected)
        for author in ("ours", "others"):
            _modelyard("keygen", author, folder=folder)
        _modelyard("sign", package, "--key", "ours.private.pem", folder=folder)
        verified = _modelyard("verify", signed, "--key", "ours.public.pem", folder=folder)
        proof.line("a package that we signed", verified.stdout.strip(), verified.returncode == 0)
        by_openssl = _is_signed_so(signed.read_bytes(), folder / "ours.public.pem", folder)
        proof.line("the same, by openssl", by_openssl, by_openssl)
        other = _modelyard("verify", signed, "--key", "others.public.pem", folder=folder)
        proof.line("by somebody else's key", other.stderr.strip(), other.returncode == 1)
        plain = _modelyard("verify", package, "--key", "ours.public.pem", folder=folder)
        proof.line("one that nobody signed", plain.stderr.strip(), plain.returncode == 1)
        passed = _changed(signed.read_bytes(), folder)
        proof.line("one byte changed, of each file in turn", f"{passed} of them pass", passed == 0)
    proof.figures |= {"checksum": expected, "changed_that_pass": passed}
    return proof


def _changed(data: bytes, folder: Path) -> int:
    """How many packages pass that differ from a signed one in a byte of one file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
        comment = archive.comment
    passed = 0
    for victim in files:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, bytes([content[0] ^ 1]) + content[1:] if name == victim else content)
            archive.comment = comment
        (folder / "changed.difypkg").write_bytes(out.getvalue())
        passed += _modelyard("verify", "changed.difypkg", "--key", "ours.public.pem", folder=folder).returncode == 0
    return passed
