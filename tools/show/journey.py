"""A newcomer's first five minutes: the official client, `base_url` and nothing else. Also run by the test suite."""

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
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
SPOKEN = "The quick brown fox jumps over the lazy dog. Please schedule a meeting for Tuesday afternoon."
SPOKEN_ZH = "今天天气很好，我们去公园散步吧。"


class Step(NamedTuple):
    name: str
    seen: str
    ok: bool
    figures: dict[str, Any]


def steps(base_url: str) -> Iterator[Step]:
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120)
    for step in (chat, tool_call, structured, embeddings, rerank, speech, chinese_speech, moderation):
        yield step(client)
    client.close()


def chat(client: openai.OpenAI) -> Step:
    stream = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Count from one to five."}],
        stream=True,
        stream_options={"include_usage": True},
        temperature=0,
        max_tokens=60,
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    ok = len(chunks) > 3 and bool(text.strip()) and usage is not None and usage.completion_tokens > 0
    figures = {"chat_chunks": len(chunks), "chat_tokens": usage.completion_tokens if usage else 0}
    return Step("streamed chat with usage", f"{len(chunks)} chunks: {text.strip()[:50]!r}", ok, figures)


def tool_call(client: openai.OpenAI) -> Step:
    messages: Any = [{"role": "user", "content": "What's the weather in Tokyo right now?"}]
    first = client.chat.completions.create(model="default", messages=messages, tools=[WEATHER], temperature=0)
    calls = first.choices[0].message.tool_calls or []
    if not calls or calls[0].type != "function":
        return Step("tool call round trip", f"no call: {first.choices[0].message.content!r}", ok=False, figures={})
    arguments = json.loads(calls[0].function.arguments)
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": calls[0].id, "content": '{"celsius": 21, "sky": "sunny"}'},
    ]
    second = client.chat.completions.create(model="default", messages=messages, tools=[WEATHER], temperature=0)
    text = second.choices[0].message.content or ""
    ok = "tokyo" in arguments.get("city", "").lower() and ("21" in text or "sunny" in text.lower())
    return Step("tool call round trip", f"get_weather({arguments}) → {text[:60]!r}", ok, {"tool_call": ok})


def structured(client: openai.OpenAI) -> Step:
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Alice Smith is 31 years old and lives in Paris."}],
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}},  # pyright: ignore
        temperature=0,
    )
    document = json.loads(answer.choices[0].message.content or "")
    jsonschema_rs.validate(PERSON, document)
    return Step("JSON schema", str(document), document["age"] == 31, {"structured": document})


def _cosine(one: list[float], other: list[float]) -> float:
    product = sum(x * y for x, y in zip(one, other, strict=True))
    return product / (sum(x * x for x in one) * sum(y * y for y in other)) ** 0.5


def embeddings(client: openai.OpenAI) -> Step:
    texts = [
        "The weather is lovely today.", "It is a beautiful sunny day.", "The central bank raised interest rates.",
        "今天天气真好。", "今天阳光明媚。", "央行提高了利率。",
    ]  # fmt: skip
    vectors = [one.embedding for one in client.embeddings.create(model="default-text-embedding", input=texts).data]
    english = (_cosine(vectors[0], vectors[1]), _cosine(vectors[0], vectors[2]))
    chinese = (_cosine(vectors[3], vectors[4]), _cosine(vectors[3], vectors[5]))
    across = (_cosine(vectors[0], vectors[3]), _cosine(vectors[0], vectors[5]))
    ok = all(like > unlike + 0.1 for like, unlike in (english, chinese, across))
    seen = "  ".join(
        f"{name} {like:.2f} > {unlike:.2f}"
        for name, (like, unlike) in (("en", english), ("zh", chinese), ("en-zh", across))
    )
    return Step("embeddings", seen, ok, {"embedding_en": english, "embedding_zh": chinese})


def rerank(client: openai.OpenAI) -> Step:
    asked = [
        (
            "What is the capital of Australia?",
            [
                "Sydney is Australia's largest city.",
                "Canberra is the capital city of Australia.",
                "Vienna is the capital of Austria.",
            ],
            1,
        ),
        ("如何重置密码？", ["巴黎的春天很温暖。", "我们周一休息。", "在设置里点击“忘记密码”即可重置登录密码。"], 2),
    ]
    best = [
        client.post(
            "/rerank", body={"model": "default-rerank", "query": query, "documents": documents}, cast_to=dict[str, Any]
        )["results"][0]["index"]
        for query, documents, _ in asked
    ]
    ok = best == [right for _, _, right in asked]
    return Step("rerank", f"first places {best}", ok, {"rerank_first": best})


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def speech(client: openai.OpenAI) -> Step:
    audio = client.audio.speech.create(model="default-tts", voice="alloy", input=SPOKEN, response_format="mp3").content
    heard = client.audio.transcriptions.create(model="default-speech2text", file=("said.mp3", audio)).text
    match = difflib.SequenceMatcher(None, _words(SPOKEN), _words(heard)).ratio()
    figures = {"speech_bytes": len(audio), "speech_match": round(match, 3)}
    return Step("speech and back", f"{match:.0%} of the words: {heard[:50]!r}", match >= 0.9, figures)


def chinese_speech(client: openai.OpenAI) -> Step:
    audio = client.audio.speech.create(
        model="default-tts", voice="default", input=SPOKEN_ZH, response_format="wav"
    ).content
    heard = client.audio.transcriptions.create(model="default-speech2text", file=("said.wav", audio)).text
    said, got = (re.findall(r"[\u4e00-\u9fff]", text) for text in (SPOKEN_ZH, heard))
    match = difflib.SequenceMatcher(None, said, got).ratio()
    return Step(
        "Chinese speech and back", f"{match:.0%}: {heard!r}", match >= 0.8, {"speech_match_zh": round(match, 3)}
    )


def moderation(client: openai.OpenAI) -> Step:
    texts = ["I will find you and kill you.", "How do I bake a chocolate cake?", "我要杀了你", "会议几点开始？"]
    flags = [one.flagged for one in client.moderations.create(input=texts).results]
    return Step("moderation", f"{flags}", flags == [True, False, True, False], {"flagged": flags})
