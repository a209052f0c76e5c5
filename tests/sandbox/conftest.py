"""Both readers of documents, for tests of what they say."""

import asyncio
from collections.abc import Iterator

import pytest

from modelyard.sandbox.runner import Sandbox, SandboxLimits


class Readers:
    """The two readers of documents: of the document extractor, and of datasets."""

    def __init__(self, runner: asyncio.Runner, sandbox: Sandbox) -> None:
        self._runner, self._sandbox = runner, sandbox

    def extract(self, extension: str, data: bytes) -> str:
        return self._runner.run(self._sandbox.extract(extension, data)).text

    def index(self, extension: str, data: bytes) -> str:
        result = self._runner.run(self._sandbox.read(f"a{extension}", data))
        return "\n".join(part["text"] for part in result["parts"])

    def both(self, extension: str, data: bytes) -> list[str]:
        """Return what both readers say, without blank lines around it."""
        texts = (self.extract(extension, data), self.index(extension, data))
        return [text.strip() for text in texts]

    def notes(self, extension: str, data: bytes) -> list[str]:
        """Return what both readers say that they leave out."""
        extracted = self._runner.run(self._sandbox.extract(extension, data)).notes
        result = self._runner.run(self._sandbox.read(f"a{extension}", data))
        assert list(extracted) == result["notes"]
        return result["notes"]


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with asyncio.Runner() as runner:

        async def make() -> Sandbox:
            return Sandbox(SandboxLimits(document_seconds=10.0))

        sandbox = runner.run(make())
        yield Readers(runner, sandbox)
        runner.run(sandbox.aclose())
