import base64
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.gateway.forms import parse_form
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AssistantPromptMessage,
    DocumentPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.models.rerank import RerankRequest
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptSegment,
)
from modelyard.wire import (
    anthropic,
    bedrock,
    gemini,
    openai_audio,
    openai_embeddings,
    openai_moderations,
    openai_rerank,
)

number = st.floats(-1, 1, width=32)


@given(
    st.lists(st.lists(number, min_size=2, max_size=2), min_size=1),
    st.sampled_from(["float", "base64"]),
)
def test_embeddings_survive_both_encodings(vectors: list[list[float]], encoding: str):
    result = TextEmbeddingResult(model="m", embeddings=vectors)
    parsed_result = openai_embeddings.parse_result(
        openai_embeddings.dump_result(result, encoding_format=encoding)
    )
    assert parsed_result.embeddings == vectors


def test_embeddings_come_in_the_order_of_their_index():
    data = [
        {"index": 1, "embedding": [2.0]},
        {
            "index": 0,
            "embedding": base64.b64encode(array("f", [1.0]).tobytes()).decode(),
        },
    ]
    assert openai_embeddings.parse_result({"data": data}).embeddings == [[1.0], [2.0]]


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=5),
    st.none() | st.integers(1, 99),
)
def test_an_embedding_request_survives(texts: list[str], dimensions: int | None):
    request = TextEmbeddingRequest(texts=texts, dimensions=dimensions)
    assert (
        openai_embeddings.parse_request(
            openai_embeddings.dump_request(request, "m", Capabilities())
        )
        == request
    )


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "'input' is required"),
        ({"input": ""}, "must not be empty"),
        ({"input": []}, "non-empty"),
        ({"input": [[1, "a"]]}, "token ids"),
        ({"input": ["a", 5]}, "a string"),
        ({"input": "x", "dimensions": 0}, "between 1"),
        ({"input": "x", "encoding_format": "hex"}, "float or base64"),
        ({"input": ["x"] * 3000}, "at most 2048"),
    ],
)
def test_invalid_embedding_requests_are_named(body: dict[str, object], part: str):
    with pytest.raises(InvokeBadRequestError, match=part):
        openai_embeddings.parse_request(body)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"documents": ["a"]}, "'query' is required"),
        ({"query": " ", "documents": ["a"]}, "'query' must not be empty"),
        ({"query": "q", "documents": []}, "'documents' must not be empty"),
        ({"query": "q", "documents": [5]}, r"documents\[0\]"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_invalid_rerank_requests_are_named(body: dict[str, object], part: str):
    with pytest.raises(InvokeBadRequestError, match=part):
        openai_rerank.parse_request(body)


def test_rerank_results_are_sorted_and_within_bounds():
    request = RerankRequest(
        query="q", docs=["a", "b", "c"], top_n=2, score_threshold=0.1
    )
    body = {
        "results": [
            {"index": 2, "relevance_score": 0.2},
            {"index": 0, "score": 0.9},
            {"index": 1, "score": 0.0},
        ]
    }
    result = openai_rerank.parse_result(body, request)
    assert [(doc.index, doc.text, doc.score) for doc in result.docs] == [
        (0, "a", 0.9),
        (2, "c", 0.2),
    ]
    with pytest.raises(InvokeServerUnavailableError):
        openai_rerank.parse_result({"results": [{"index": 9, "score": 1}]}, request)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"input": ""}, "must not be empty"),
        ({"input": "x", "response_format": "ogg"}, "one of wav, mp3"),
        ({"input": "x", "speed": 9}, "between 0.25 and 4"),
        ({"input": "x", "voice": 5}, "the name of a voice"),
        ({"input": "x" * 200_000}, "at most 100,000"),
    ],
)
def test_invalid_speech_requests_are_named(body: dict[str, object], part: str):
    with pytest.raises(InvokeBadRequestError, match=part):
        openai_audio.parse_speech_request(body)


def test_transcripts_in_every_format():
    result = Speech2TextResult(
        text="Hello there.",
        language="en",
        segments=[TranscriptSegment(start=0.0, end=3661.5, text="Hello there.")],
        usage=Speech2TextUsage(seconds=3661.5),
    )
    dump = openai_audio.dump_transcription_result
    assert dump(result, "text") == "Hello there.\n"
    assert dump(result, "srt") == "1\n00:00:00,000 --> 01:01:01,500\nHello there.\n\n"
    assert (
        dump(result, "vtt")
        == "WEBVTT\n\n00:00:00.000 --> 01:01:01.500\nHello there.\n\n"
    )
    verbose = dump(result, "verbose_json")
    assert isinstance(verbose, dict)
    assert openai_audio.parse_transcription(verbose).segments == result.segments
    assert dump(result, "json")["text"] == "Hello there."  # type: ignore[index]


def test_a_transcription_form_survives():
    request = Speech2TextRequest(
        audio=b"x", filename="a.wav", language="en", prompt="p", temperature=0.5
    )
    sending = openai_audio.dump_transcription(request, "m", Capabilities())
    parsed_form = parse_form(
        sending.content_type, b"".join(sending.body), error_message="a form"
    )
    assert parsed_form.fields["model"] == "m"
    assert parsed_form.file is not None
    assert (
        openai_audio.parse_transcription_request(
            parsed_form.fields, parsed_form.file, parsed_form.filename
        )
        == request
    )
    for invalid_fields in (
        {"temperature": "hot"},
        {"temperature": "2"},
        {"response_format": "doc"},
    ):
        with pytest.raises(InvokeBadRequestError):
            openai_audio.parse_transcription_request(invalid_fields, b"x", "a.wav")


def test_moderation_answers_have_every_category():
    request = openai_moderations.parse_request(
        {"input": ["a", {"type": "text", "text": "b"}]}
    )
    assert request.texts == ["a", "b"]
    body = {
        "results": [
            {
                "flagged": True,
                "categories": {"hate": True},
                "category_scores": {"hate": 0.9},
            }
        ]
    }
    dumped_result = openai_moderations.dump_result(
        openai_moderations.parse_result(body)
    )["results"][0]
    assert set(dumped_result["categories"]) == set(openai_moderations.CATEGORIES)
    assert dumped_result["categories"]["hate"] is True
    with pytest.raises(InvokeBadRequestError, match="images are not"):
        openai_moderations.parse_request({"input": [{"type": "image_url"}]})


# chat formats: token counts and alternating roles

tokens = st.integers(0, 10**6)


@given(tokens, tokens, tokens, tokens)
def test_tokens_read_from_and_written_to_the_cache_are_part_of_anthropics_prompt(
    uncached: int, read: int, write: int, completion: int
):
    """The provider counts the three separately; all of them are billed."""
    usage = anthropic.parse_usage(
        {
            "input_tokens": uncached,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": write,
            "output_tokens": completion,
        }
    )
    assert usage is not None
    assert usage.prompt_tokens == uncached + read + write
    assert (usage.cached_tokens, usage.cache_write_tokens) == (read, write)
    assert usage.total_tokens == uncached + read + write + completion


@given(tokens, tokens, tokens)
def test_thinking_is_part_of_geminis_completion_tokens(
    prompt: int, candidates: int, thoughts: int
):
    """The provider counts thinking separately; both are billed as output."""
    usage = gemini.parse_usage(
        {
            "promptTokenCount": prompt,
            "candidatesTokenCount": candidates,
            "thoughtsTokenCount": thoughts,
        }
    )
    assert usage is not None
    assert usage.completion_tokens == candidates + thoughts
    assert usage.reasoning_tokens == thoughts
    assert usage.total_tokens == prompt + candidates + thoughts


def test_adjacent_messages_of_one_role_are_merged_for_anthropic():
    """The provider refuses two user turns in a row; tool results are user turns too."""
    call = ToolCall(id="c", function=ToolCallFunction(name="f", arguments="{}"))
    request = LLMRequest(
        messages=[
            UserPromptMessage(content="a"),
            UserPromptMessage(content="b"),
            AssistantPromptMessage(content="c"),
            AssistantPromptMessage(tool_calls=[call]),
            ToolPromptMessage(content="d", tool_call_id="c"),
            UserPromptMessage(content="e"),
        ]
    )
    turns = anthropic.dump_request(request, "m", Capabilities())["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert [len(turn["content"]) for turn in turns] == [2, 2, 2]


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("report (v2) [final].pdf", "report (v2) [final]-pdf"),
        ("Übersicht 报告.pdf", "-bersicht ---pdf"),
        ("  two \t\n blanks\u3000 ", "two blanks"),
        ("x" * 199 + " tail", "x" * 199),
        ("", "document"),
        (" \t", "document"),
    ],
)
def test_bedrock_accepts_the_name_of_any_document(filename: str, name: str):
    assert _bedrock_document_names([filename]) == [name]


def test_documents_of_one_name_are_numbered_for_bedrock():
    filenames = ["a.pdf", "A.pdf", "a pdf", "a.pdf", "", "", "x" * 300, "x" * 300]
    assert _bedrock_document_names(filenames) == [
        "a-pdf",
        "A-pdf-2",
        "a pdf",
        "a-pdf-3",
        "document",
        "document-2",
        "x" * 200,
        "x" * 198 + "-2",
    ]


def _bedrock_document_names(filenames: list[str]) -> list[str]:
    """Return the names under which Bedrock gets documents, the last one of them in a
    tool result."""
    documents = [
        DocumentPromptMessageContent(
            base64_data="JVBERi0=", format="pdf", filename=filename
        )
        for filename in filenames
    ]
    messages = [
        UserPromptMessage(content=documents[:-1]),
        AssistantPromptMessage(
            tool_calls=[ToolCall(id="a", function=ToolCallFunction(name="f"))]
        ),
        ToolPromptMessage(content=documents[-1:], tool_call_id="a"),
    ]
    body = bedrock.dump_request(LLMRequest(messages=messages), "m", Capabilities())
    blocks = [block for turn in body["messages"] for block in turn["content"]]
    results = [block["toolResult"] for block in blocks if "toolResult" in block]
    blocks += [block for result in results for block in result["content"]]
    return [block["document"]["name"] for block in blocks if "document" in block]
