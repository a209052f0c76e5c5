"""Attacks on the sandbox, with the privileges of the user who runs the tests.

`make show WHAT=attacks` also runs them as an unprivileged user.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tools.show.attacks import (
    LIMITS,
    public_network,
    run_harmless,
    run_outside,
    surroundings,
    try_attack,
    try_template,
)
from tools.show.prisoners import (
    BENIGN,
    JAVASCRIPT,
    NEEDS_PRIVILEGE,
    PYTHON,
    SANDBOX_ONLY,
    TEMPLATES,
    WITH_NETWORK,
    WITH_PACKAGES,
)

from modelyard.sandbox.runner import (
    Sandbox,
    SandboxError,
    SandboxLimits,
    SandboxUnavailableError,
)

pytestmark = pytest.mark.proof("attacks")


class Cell:
    def __init__(self, runner: asyncio.Runner, environment: dict[str, Any]) -> None:
        self.runner = runner
        self.environment = environment
        self.sandbox = Sandbox(LIMITS)
        self.patient = Sandbox(SandboxLimits(seconds=60.0, memory_mb=512))


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    with asyncio.Runner() as runner, surroundings() as environment:

        async def make() -> Cell:
            return Cell(runner, environment)

        new_cell = runner.run(make())
        yield new_cell
        runner.run(new_cell.sandbox.aclose())
        runner.run(new_cell.patient.aclose())


@pytest.mark.parametrize("name", PYTHON)
def test_python_gets_nothing(cell: Cell, name: str):
    assert cell.runner.run(
        try_attack(cell.sandbox, name, PYTHON[name], "python3", cell.environment)
    )[0]


@pytest.mark.parametrize("name", WITH_NETWORK)
def test_python_with_network_gets_nothing_of_this_machine(cell: Cell, name: str):
    works = try_attack(
        cell.sandbox, name, PYTHON[name], "python3", cell.environment, public_network
    )
    blocked, detail = cell.runner.run(works)
    assert blocked, detail


@pytest.mark.parametrize("name", JAVASCRIPT)
def test_javascript_gets_nothing(cell: Cell, name: str):
    assert cell.runner.run(
        try_attack(cell.sandbox, name, JAVASCRIPT[name], "javascript", cell.environment)
    )[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_get_nothing(cell: Cell, name: str):
    assert cell.runner.run(try_template(cell.sandbox, name, TEMPLATES[name]))[0]


@pytest.mark.parametrize(
    "name", sorted(PYTHON.keys() - {*SANDBOX_ONLY, *NEEDS_PRIVILEGE})
)
def test_attacks_work_outside_the_sandbox(name: str):
    works, detail = run_outside(name, PYTHON[name])
    assert works, detail


def test_a_program_that_does_not_run_blocks_nothing(cell: Cell):
    for code in ("open(secret", "import nothing_of_this_name", "undefined"):
        assert not cell.runner.run(
            try_attack(
                cell.sandbox, "read the database", code, "python3", cell.environment
            )
        )[0]
    for code in ("return (", "throw new Error('mine')"):
        assert not cell.runner.run(
            try_attack(cell.sandbox, "require", code, "javascript", cell.environment)
        )[0]


@pytest.mark.parametrize(
    "code", [*BENIGN, *WITH_PACKAGES], ids=lambda code: code.splitlines()[0][:40]
)
def test_harmless_programs_run(cell: Cell, code: str):
    assert cell.runner.run(run_harmless(cell.patient, code)) == (True, "")


def test_text_that_looks_like_a_program_stays_text(cell: Cell):
    nasty = "'''\"\"\"\\n{{ 7 * 7 }}${7*7}<<RESULT>>"
    result = cell.runner.run(
        cell.sandbox.run_code(
            "python3", "def main(x):\n    return {'x': x}", {"x": nasty}
        )
    )
    assert result == {"x": nasty}
    result = cell.runner.run(
        cell.sandbox.run_code(
            "javascript", "function main({x}) { return {x} }", {"x": nasty}
        )
    )
    assert result == {"x": nasty}


@pytest.mark.parametrize(
    ("language", "code", "message"),
    [
        ("python3", "x = 1", "The code does not define a function named main"),
        ("python3", "def main(:", "SyntaxError"),
        (
            "python3",
            "def main():\n    return {(1, 2): 2}",
            "Keys of the result must be texts or numbers, not tuple",
        ),
        (
            "python3",
            "def main():\n    return {'x': object()}",
            "The result contains a value of type object",
        ),
        (
            "python3",
            "def main():\n    return {'x': float('nan')}",
            "Output x: The result contains nan, which JSON cannot express",
        ),
        (
            "python3",
            "def main():\n    x = []\n    x.append(x)\n    return x",
            "nested too deeply",
        ),
        ("javascript", "let x = 1", "main is not defined"),
        ("javascript", "function main() { throw new Error('no') }", "Error: no"),
        ("ruby", "", "Unknown code language 'ruby'"),
    ],
)
def test_a_faulty_program_reports_its_error(
    cell: Cell, language: str, code: str, message: str
):
    with pytest.raises(SandboxError, match=message):
        cell.runner.run(cell.sandbox.run_code(language, code, {}))


def test_a_cancelled_run_is_terminated(cell: Cell):
    async def give_up() -> None:
        async with asyncio.timeout(0.3):
            await cell.sandbox.run_code(
                "python3", "def main():\n    while True: pass", {}
            )

    with pytest.raises(TimeoutError):
        cell.runner.run(give_up())

    async def ended() -> bool:
        for _ in range(100):
            if not any(zygote.runs for zygote in cell.sandbox._zygotes.values()):  # type: ignore[attr-defined]
                return True
            await asyncio.sleep(0.05)
        return False

    assert cell.runner.run(ended())


def test_a_dead_zygote_is_restarted(cell: Cell):
    async def work() -> Any:
        (zygote,) = [
            candidate
            for name, candidate in cell.sandbox._zygotes.items()
            if name == "code"
        ]  # type: ignore[attr-defined]
        zygote.process.kill()
        await asyncio.sleep(0.2)
        return await cell.sandbox.run_code(
            "python3", "def main():\n    return {'x': 1}", {}
        )

    assert cell.runner.run(work()) == {"x": 1}


def test_without_a_sandbox_nothing_runs():
    async def work() -> str:
        sandbox = Sandbox(is_enabled=False)
        for _ in range(2):
            with pytest.raises(
                SandboxUnavailableError, match="The sandbox is disabled in the settings"
            ):
                await sandbox.run_code("python3", "def main():\n    return {}", {})
        return sandbox.level

    assert asyncio.run(work()) == "off"


_OUTSIDE = [
    "read a file of the machine", "read the database", "list a folder", "read the server's environment",
    "connect over TCP", "connect to an abstract socket", "run a shell", "kill the server", "trace the server",
    "write a file", "write to a temporary file", "change a file's mode", "unlink a file", "make a link",
    "enter another namespace", "take back its rights",
]  # fmt: skip


def test_namespaces_hold_where_there_is_no_landlock(cell: Cell):
    async def work() -> tuple[dict[str, tuple[bool, str]], str]:
        sandbox = Sandbox(LIMITS, level="namespaces")
        try:
            await sandbox.check()
            results = {
                attack: await try_attack(
                    sandbox, attack, PYTHON[attack], "python3", cell.environment
                )
                for attack in _OUTSIDE
            }
            code = "import json, urllib.parse\ndef main():\n    return {'r': __import__('os').listdir('/dev')}"
            devices = (await sandbox.run_code("python3", code, {}))["r"]
            assert sorted(devices) == ["null", "random", "urandom", "zero"]
            return results, sandbox.level
        except SandboxUnavailableError as error:
            if "unprivileged namespaces" in str(error):
                pytest.skip(str(error))
            raise
        finally:
            await sandbox.aclose()

    results, level = cell.runner.run(work())
    assert level == "namespaces"
    assert {
        name: detail for name, (blocked, detail) in results.items() if not blocked
    } == {}
