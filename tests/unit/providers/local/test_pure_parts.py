"""Tests for the local provider's logic that needs no model.

Voices, tool calls, hybrid ranking, moderation verdicts and transcripts.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.entities import ModelPropertyKey
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageTool,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.providers.factory import catalog_definition
from modelyard.providers.local import hybrid, tool_calls
from modelyard.providers.local.provider import (
    join_segments,
    truncate_vector,
    verdict_of,
)
from modelyard.providers.local.voices import (
    JAPANESE_VOICES,
    OPENAI_VOICES,
    PACKED_VOICES,
    choose_voice,
)
from modelyard.providers.local.weights import WeightStore, manifest

EVERY = (*PACKED_VOICES, *JAPANESE_VOICES)


@pytest.mark.parametrize(
    ("name", "is_chinese", "present", "expected_voice"),
    [
        ("zm_yunxi", False, EVERY, "zm_yunxi"),
        ("default", False, EVERY, "af_heart"),
        ("default", True, EVERY, "zf_xiaoxiao"),
        ("onyx", True, EVERY, "zm_yunxi"),
        ("alloy", False, EVERY, "af_alloy"),
        ("alloy", False, JAPANESE_VOICES, "jf_alpha"),
        ("onyx", True, JAPANESE_VOICES, "jm_kumo"),
    ],
)
def test_a_name_finds_the_nearest_voice(
    name: str, is_chinese: bool, present: tuple[str, ...], expected_voice: str
):
    assert choose_voice(name, present, is_chinese=is_chinese) == expected_voice


def test_every_common_name_maps_to_an_existing_voice():
    assert set(OPENAI_VOICES.values()) <= set(PACKED_VOICES)


def test_the_catalogue_lists_every_voice():
    models = catalog_definition("local").entity.models
    (speaker,) = (model for model in models if model.model == "kokoro-82m")
    voices = speaker.model_properties[ModelPropertyKey.VOICES]
    assert [voice["mode"] for voice in voices] == list(PACKED_VOICES)


def test_an_unknown_voice_gets_suggestions():
    with pytest.raises(
        InvokeBadRequestError, match="Unknown voice 'af_hart'; did you mean 'af_heart'"
    ):
        choose_voice("af_hart", EVERY, is_chinese=False)


# tool calls


@given(st.text(), st.lists(st.integers(1, 9)))
def test_text_without_a_call_is_unchanged(text: str, cuts: list[int]):
    reader = tool_calls.ToolCallParser({"f"})
    shown_text, remaining = "", text
    for cut in cuts:
        shown_text, remaining = (
            shown_text + reader.feed(remaining[:cut]),
            remaining[cut:],
        )
    shown_text += reader.feed(remaining)
    buffered, calls = reader.finish()
    assert (shown_text + buffered, calls) == (text, [])


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.integers(1, 7),
)
def test_a_call_is_found_in_any_fence_and_chunking(
    arguments: dict[str, str], size: int
):
    call_json = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    for text in (
        call_json,
        f"```json\n{call_json}\n```",
        f"<tool_call>\n{call_json}\n</tool_call>",
    ):
        reader = tool_calls.ToolCallParser({"f"})
        shown_text = "".join(
            reader.feed(text[offset : offset + size])
            for offset in range(0, len(text), size)
        )
        buffered, calls = reader.finish()
        assert (shown_text, buffered) == ("", "")
        assert [json.loads(call.function.arguments) for call in calls] == [arguments]


def test_text_before_a_call_is_shown_at_once():
    reader = tool_calls.ToolCallParser({"f"})
    assert reader.feed("Let me see. `") == "Let me see. "
    assert reader.feed('``json\n{"name": "f", "arguments": {}}') == ""
    assert [call.index for call in reader.finish()[1]] == [0]


def test_json_without_a_tool_name_is_text():
    reader = tool_calls.ToolCallParser({"f"})
    reader.feed('{"name": "g", "arguments": {}} and {"x": ')
    assert reader.finish() == ('{"name": "g", "arguments": {}} and {"x": ', [])


TOOL = PromptMessageTool(
    name="f",
    description="d",
    parameters={"type": "object", "properties": {"x": {"type": "string"}}},
)
ASK = UserPromptMessage(content="do it")


def test_after_a_tool_result_the_model_cannot_call_again():
    call = ToolCall(id="1", function=ToolCallFunction(name="f", arguments='{"x":"y"}'))
    request = LLMRequest(
        messages=[
            ASK,
            AssistantPromptMessage(tool_calls=[call]),
            ToolPromptMessage(tool_call_id="1", content="42"),
        ],
        tools=[TOOL],
    )
    ready = tool_calls.prepare_request(request)
    assert ready.tools == []
    assert [type(message) for message in ready.messages] == [
        UserPromptMessage,
        UserPromptMessage,
    ]
    assert '[Result of f({"x":"y"}): 42]' in ready.messages[-1].text


@pytest.mark.parametrize("choice", ["required", {"name": "f"}])
def test_a_required_call_is_validated_against_its_schema(choice: object):
    ready = tool_calls.prepare_request(
        LLMRequest(messages=[ASK], tools=[TOOL], tool_choice=choice)
    )  # type: ignore[arg-type]
    schema = ready.model_parameters["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["name"] == {"const": "f"}
    assert schema["properties"]["arguments"] == TOOL.parameters


# ranking


@given(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_keyword_scores_are_between_0_and_1(query: str, docs: list[str]):
    scores = hybrid.bm25(query, docs)
    assert len(scores) == len(docs)
    assert all(0 <= score <= 1 for score in scores)


def test_hybrid_scores_combine_keywords_and_vectors():
    docs = ["巴黎的春天很温暖", "忘记密码时可以重置密码"]
    assert hybrid.bm25("如何重置密码", docs)[1] == 1.0
    assert hybrid.bm25("如何重置密码", docs)[0] == 0.0
    first, second = hybrid.combine_scores([0.9, 0.1], [0.0, 1.0])
    assert first > second
    assert hybrid.needs_hybrid("重置")
    assert not hybrid.needs_hybrid("reset")


# verdicts, voices, transcripts


def test_a_verdict_is_the_most_likely_class():
    verdict = verdict_of({"threat": 0.6, "hate": 0.1, "safe": 0.3})
    assert verdict.flagged
    assert verdict.categories["violence"]
    assert not verdict.categories["hate"]
    assert not verdict_of({"threat": 0.3, "safe": 0.7}).flagged


def test_segments_are_joined_with_spaces_if_the_language_uses_them():
    assert join_segments(["Hello.", "How are you?"]) == "Hello. How are you?"
    assert join_segments(["你好，", "世界"]) == "你好，世界"


@given(
    st.lists(st.floats(-1, 1), min_size=4, max_size=8).filter(
        lambda v: sum(x * x for x in v[:3]) > 1e-6
    )
)
def test_a_shortened_vector_has_length_one(vector: list[float]):
    assert sum(x * x for x in truncate_vector(vector, 3)) == pytest.approx(1)
    assert truncate_vector(vector, None) == vector


def test_the_manifest_is_valid():
    weight_manifest = manifest()
    names = {file.name for file in weight_manifest.files}
    for model in weight_manifest.models.values():
        assert set(model.files.values()) <= names
    for model_names in weight_manifest.sets.values():
        assert set(model_names) <= set(weight_manifest.models)
    for file in weight_manifest.files:
        assert len(file.sha256) == 64
        assert file.licence
        assert file.notice
        assert file.installed or sum(part.size for part in file.parts) == file.size


def test_the_english_pronunciation_dictionaries_match_the_manifest(tmp_path: Path):
    files = [file for file in manifest().files_of("kokoro-82m") if file.installed]
    assert len(files) == 3
    assert [
        file.name for file in files if not WeightStore(tmp_path).is_whole(file)
    ] == []
