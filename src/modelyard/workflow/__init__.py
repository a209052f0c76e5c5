"""Workflows: graphs of nodes that are run, streamed, stopped, and resumed after a
crash.

    from modelyard import Modelyard, workflow

    app = workflow.load("translate.yml")
    async with Modelyard() as yard:
        outcome = await workflow.run(app, yard, inputs={"text": "Guten Tag"})
        print(outcome.outputs)

The submodules are imported when a name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.workflow.dsl import App, load, loads
    from modelyard.workflow.engine import Outcome
    from modelyard.workflow.single_run import run, stream

# Imported on first use: programs without workflows need not load the engine.
_SUBMODULE_BY_NAME = {
    "App": "dsl",
    "load": "dsl",
    "loads": "dsl",
    "Outcome": "engine",
    "run": "single_run",
    "stream": "single_run",
}

__all__ = ["App", "Outcome", "load", "loads", "run", "stream"]


def __getattr__(name: str) -> Any:
    """Import a submodule when one of its names is first used."""
    if name not in _SUBMODULE_BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(
        import_module(f"modelyard.workflow.{_SUBMODULE_BY_NAME[name]}"), name
    )
