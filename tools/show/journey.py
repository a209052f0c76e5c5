"""A new user's first five minutes: OpenAI's official client with only `base_url`
changed. The test suite runs it too."""

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jsonschema_rs
import openai

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
PERSON_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"type": "string"},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
SPOKEN = "The quick brown fox jumps over the lazy dog. Please schedule a meeting for Tuesday afternoon."
SPOKEN_ZH = "今天天气很好，我们去公园散步吧。"


class Step(NamedTuple):
    """The result of one step of the journey."""

    name: str
    seen: str
    ok: bool
    figures: dict[str, Any]


def steps(base_url: str) -> Iterator[Step]:
    """Run all steps against a server and yield their results."""
    client = openai.OpenAI(
        base_url=base_url, api_key="none", max_retries=0, timeout=120
    )
    for step in (
        chat,
        tool_call,
        structured,
        embeddings,
        rerank,
        speech,
        chinese_speech,
        moderation,
    ):
        yield step(client)
    client.close()


def chat(client: openai.OpenAI) -> Step:
    """Check a streaming chat completion with usage."""
    stream = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Count from one to five."}],
        stream=True,
        stream_options={"include_usage": True},
        # Temperature 0 keeps the answers of the small model reproducible.
        temperature=0,
        max_tokens=60,
    )
    chunks = list(stream)
    text = "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
    )
    usage = chunks[-1].usage
    ok = (
        len(chunks) > 3
        and bool(text.strip())
        and usage is not None
        and usage.completion_tokens > 0
    )
    figures = {
        "chat_chunks": len(chunks),
        "chat_tokens": usage.completion_tokens if usage else 0,
    }
    return Step(
        "streamed chat with usage",
        f"{len(chunks)} chunks: {text.strip()[:50]!r}",
        ok,
        figures,
    )


def tool_call(client: openai.OpenAI) -> Step:
    """Check a tool call and the answer that uses its result."""
    messages: Any = [
        {"role": "user", "content": "What's the weather in Tokyo right now?"}
    ]
    first = client.chat.completions.create(
        model="default", messages=messages, tools=[WEATHER], temperature=0
    )
    calls = first.choices[0].message.tool_calls or []
    # A small model may answer in text instead of calling the tool, which fails this
    # step.
    if not calls or calls[0].type != "function":
        return Step(
            "tool call round trip",
            f"no call: {first.choices[0].message.content!r}",
            ok=False,
            figures={},
        )
    arguments = json.loads(calls[0].function.arguments)
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {
            "role": "tool",
            "tool_call_id": calls[0].id,
            "content": '{"celsius": 21, "sky": "sunny"}',
        },
    ]
    second = client.chat.completions.create(
        model="default", messages=messages, tools=[WEATHER], temperature=0
    )
    text = second.choices[0].message.content or ""
    ok = "tokyo" in arguments.get("city", "").lower() and (
        "21" in text or "sunny" in text.lower()
    )
    return Step(
        "tool call round trip",
        f"get_weather({arguments}) → {text[:60]!r}",
        ok,
        {"tool_call": ok},
    )


def structured(client: openai.OpenAI) -> Step:
    """Check a response that must conform to a JSON schema."""
    answer = client.chat.completions.create(
        model="default",
        messages=[
            {
                "role": "user",
                "content": "Alice Smith is 31 years old and lives in Paris.",
            }
        ],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON_SCHEMA},
        },  # pyright: ignore
        temperature=0,
    )
    document = json.loads(answer.choices[0].message.content or "")
    # Raises a validation error if the constrained output does not conform.
    jsonschema_rs.validate(PERSON_SCHEMA, document)
    return Step(
        "JSON schema", str(document), document["age"] == 31, {"structured": document}
    )


def _cosine(left: list[float], right: list[float]) -> float:
    """Return the cosine similarity of two vectors."""
    product = sum(x * y for x, y in zip(left, right, strict=True))
    return product / (sum(x * x for x in left) * sum(y * y for y in right)) ** 0.5


def embeddings(client: openai.OpenAI) -> Step:
    """Check that similar sentences have more similar embeddings, in English, in Chinese
    and across both."""
    texts = [
        "The weather is lovely today.",
        "It is a beautiful sunny day.",
        "The central bank raised interest rates.",
        "今天天气真好。",
        "今天阳光明媚。",
        "央行提高了利率。",
    ]
    vectors = [
        embedding_object.embedding
        for embedding_object in client.embeddings.create(
            model="default-text-embedding", input=texts
        ).data
    ]
    english = (_cosine(vectors[0], vectors[1]), _cosine(vectors[0], vectors[2]))
    chinese = (_cosine(vectors[3], vectors[4]), _cosine(vectors[3], vectors[5]))
    cross_lingual = (_cosine(vectors[0], vectors[3]), _cosine(vectors[0], vectors[5]))
    # A margin of 0.1, so that a random difference does not pass.
    ok = all(like > unlike + 0.1 for like, unlike in (english, chinese, cross_lingual))
    summary = "  ".join(
        f"{name} {like:.2f} > {unlike:.2f}"
        for name, (like, unlike) in (
            ("en", english),
            ("zh", chinese),
            ("en-zh", cross_lingual),
        )
    )
    return Step(
        "embeddings", summary, ok, {"embedding_en": english, "embedding_zh": chinese}
    )


def rerank(client: openai.OpenAI) -> Step:
    """Check that the right document is ranked first, in English and Chinese."""
    rerank_cases = [
        (
            "What is the capital of Australia?",
            [
                "Sydney is Australia's largest city.",
                "Canberra is the capital city of Australia.",
                "Vienna is the capital of Austria.",
            ],
            1,
        ),
        (
            "如何重置密码？",
            [
                "巴黎的春天很温暖。",
                "我们周一休息。",
                "在设置里点击“忘记密码”即可重置登录密码。",
            ],
            2,
        ),
    ]
    top_indexes = [
        # OpenAI's client has no method for reranking, so the route is called directly.
        client.post(
            "/rerank",
            body={"model": "default-rerank", "query": query, "documents": documents},
            cast_to=dict[str, Any],
        )["results"][0]["index"]
        for query, documents, _ in rerank_cases
    ]
    ok = top_indexes == [expected_index for _, _, expected_index in rerank_cases]
    return Step(
        "rerank", f"first places {top_indexes}", ok, {"rerank_first": top_indexes}
    )


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def speech(client: openai.OpenAI) -> Step:
    """Synthesise English speech, transcribe it and compare the words."""
    audio = client.audio.speech.create(
        model="default-tts", voice="alloy", input=SPOKEN, response_format="mp3"
    ).content
    transcript = client.audio.transcriptions.create(
        model="default-speech2text", file=("said.mp3", audio)
    ).text
    # Speech recognition is never exact: 90 % agreement is required.
    match = difflib.SequenceMatcher(None, _words(SPOKEN), _words(transcript)).ratio()
    figures = {"speech_bytes": len(audio), "speech_match": round(match, 3)}
    return Step(
        "speech and back",
        f"{match:.0%} of the words: {transcript[:50]!r}",
        match >= 0.9,
        figures,
    )


def chinese_speech(client: openai.OpenAI) -> Step:
    """Synthesise Chinese speech, transcribe it and compare the characters."""
    audio = client.audio.speech.create(
        model="default-tts", voice="default", input=SPOKEN_ZH, response_format="wav"
    ).content
    transcript = client.audio.transcriptions.create(
        model="default-speech2text", file=("said.wav", audio)
    ).text
    # Compare Chinese characters only: punctuation is not spoken.
    spoken_chars, heard_chars = (
        re.findall(r"[\u4e00-\u9fff]", text) for text in (SPOKEN_ZH, transcript)
    )
    match = difflib.SequenceMatcher(None, spoken_chars, heard_chars).ratio()
    return Step(
        "Chinese speech and back",
        f"{match:.0%}: {transcript!r}",
        match >= 0.8,
        {"speech_match_zh": round(match, 3)},
    )


def moderation(client: openai.OpenAI) -> Step:
    """Check that violent texts are flagged and harmless ones are not, in English and
    Chinese."""
    texts = [
        "I will find you and kill you.",
        "How do I bake a chocolate cake?",
        "我要杀了你",
        "会议几点开始？",
    ]
    flags = [
        result.flagged for result in client.moderations.create(input=texts).results
    ]
    return Step(
        "moderation",
        f"{flags}",
        flags == [True, False, True, False],
        {"flagged": flags},
    )
