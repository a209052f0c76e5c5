"""Tests for the synchronous `Agent`: tools are resolved by name when it is created."""

from pathlib import Path

import pytest

from modelyard.base.settings import Settings
from modelyard.sync import Agent, SyncModelyard
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.tools.entities import ToolNotFoundError


def test_tools_are_found_by_name_and_called(tmp_path: Path):
    definition, builder = scripted_models(ScriptedModel())
    settings = Settings(home=str(tmp_path), defaults={"llm": "scripted/model"})
    options = {
        "definitions": [definition],
        "builders": {"scripted": builder},
        "environ": {},
    }
    with SyncModelyard(settings, **options) as yard:
        result = Agent("default", tools=["time/current_time"], yard=yard).run(
            "What time is it?"
        )
        assert [call.call.name for call in result.calls] == ["current_time"]
        with pytest.raises(ToolNotFoundError, match="no_such_tool"):
            Agent("default", tools=["no_such_tool"], yard=yard)
