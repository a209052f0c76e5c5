"""Fills the catalogue's files with models, features and prices: `python -m tools.catalogue --litellm PRICES.json`.

Facts come from two lists: the package genai-prices (MIT), and the price file in litellm's wheel (MIT), which also says
what a model can do. Where both have a price and disagree, genai-prices is taken, and the row says so. What stands above
the line in a file is ours and stays; what stands below it is written anew.
"""

import argparse
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from genai_prices.data import providers as PRICED  # noqa: N812  a table
from genai_prices.types import ConditionalPrice, ModelPrice, TieredPrices

CATALOG = Path(__file__).parents[1] / "src/modelyard/providers/catalog"
LINE = "# Models, features and prices below this line are written by tools/catalogue.py.\n"
# provider: (names in genai-prices, names in litellm's list, most models)
SOURCES: dict[str, tuple[list[str], list[str], int]] = {
    "openai": (["openai"], ["openai", "text-completion-openai"], 90),
    "anthropic": (["anthropic"], ["anthropic"], 40),
    "gemini": (["google"], ["gemini"], 40),
    "vertex_ai": (["google"], ["vertex_ai-language-models", "vertex_ai-embedding-models"], 40),
    "bedrock": (["aws"], ["bedrock_converse"], 120),
    "azure_openai": (["azure"], [], 0),
    "tongyi": ([], ["dashscope"], 40),
    "deepseek": (["deepseek"], ["deepseek"], 12),
    "mistral": (["mistral"], ["mistral"], 50),
    "cohere": (["cohere"], ["cohere", "cohere_chat"], 30),
    "groq": (["groq"], ["groq"], 40),
    "openrouter": (["openrouter"], ["openrouter"], 80),
    "xai": (["x-ai"], ["xai"], 30),
    "moonshot": (["moonshotai"], ["moonshot"], 30),
    "zhipuai": (["zhipuai"], ["zai"], 30),
    "minimax": (["minimax"], ["minimax"], 12),
    "volcengine": ([], ["volcengine"], 20),
    "fireworks": (["fireworks"], ["fireworks_ai", "fireworks_ai-embedding-models"], 60),
    "together": (["together"], ["together_ai"], 60),
    "perplexity": (["perplexity"], ["perplexity"], 12),
    "nvidia": ([], ["nvidia_nim"], 10),
    "cerebras": (["cerebras"], ["cerebras"], 12),
    "jina": ([], ["jina_ai"], 10),
    "voyage": (["voyageai"], ["voyage"], 30),
    "deepgram": ([], ["deepgram"], 12),
    "elevenlabs": (["elevenlabs"], ["elevenlabs"], 10),
    "huggingface": (["huggingface_together"], [], 0),
}
KINDS = {
    "chat": "llm", "completion": "llm", "responses": "llm", "embedding": "text-embedding", "rerank": "rerank",
    "audio_transcription": "speech2text", "audio_speech": "tts", "moderation": "moderation",
}  # fmt: skip
FEATURES = (
    ("supports_function_calling", ["tool-call", "stream-tool-call"]),
    ("supports_parallel_function_calling", ["multi-tool-call"]),
    ("supports_vision", ["vision"]),
    ("supports_pdf_input", ["document"]),
    ("supports_audio_input", ["audio"]),
    ("supports_video_input", ["video"]),
    ("supports_response_schema", ["structured-output"]),
    ("supports_reasoning", ["agent-thought"]),
)
SAMPLES_NOT = re.compile(r"(o[134](-|$)|gpt-5(-mini|-nano|-pro)?(-20\d\d.*)?$)")
"""Models of OpenAI that refuse to be told how to sample."""
LEFT_OUT = re.compile(
    r"realtime|image|dall-e|sora|veo|imagen|video-|live|computer-use|^ft:|search-preview|translate|robotics|tuning"
    r"|lyria|nano-banana|deep-research-pro|native-audio|preset/|^us\.|^eu\.|^apac\.|^au\.|^jp\.|^global\.|@|:free$|\*"
)


def number(value: Any) -> Any:
    """A price as YAML has it: no float's dust."""
    text = format(Decimal(str(value)).quantize(Decimal("0.00000001")).normalize(), "f")
    return int(text) if "." not in text else float(text)


def million(value: Any) -> Any:
    return number(Decimal(str(value)) * 1_000_000)


# ------------------------------------------------------------------------------------------------ genai-prices


def first_tier(value: Any) -> tuple[Any, list[tuple[int, Any]]]:
    if isinstance(value, TieredPrices):
        return value.base, [(tier.start, tier.price) for tier in value.tiers]
    return value, []


FIELDS = {
    "input_mtok": "input_price", "output_mtok": "output_price", "cache_read_mtok": "cached_price",
    "cache_write_mtok": "cache_write_price", "input_audio_mtok": "audio_input_price",
    "output_audio_mtok": "audio_output_price", "requests_kcount": "request_price",
    "web_searches_kcount": "search_price",
}  # fmt: skip


def genai_price(price: ModelPrice) -> dict[str, Any]:
    """The row's fields; empty where the list has no price for what went in."""
    row: dict[str, Any] = {}
    tiers: dict[int, dict[str, Any]] = {}
    for theirs, ours in FIELDS.items():
        value = getattr(price, theirs, None)
        if value is None:
            continue
        base, steps = first_tier(value)
        row[ours] = number(Decimal(str(base)) / 1000) if theirs.endswith("kcount") else number(base)
        for start, amount in steps:
            tiers.setdefault(start, {})[ours] = number(amount)
    if "input_price" not in row:
        for theirs, per, scale in (("input_mchars", "character", 1), ("audio_hours", "second", 3600)):
            if (value := getattr(price, theirs, None)) is not None:
                return {"input_price": number(Decimal(str(first_tier(value)[0])) / scale), "price_per": per}
        return {}
    full = [{"above": start, "input_price": row["input_price"], **row, **more} for start, more in sorted(tiers.items())]
    for tier in full:
        tier.pop("request_price", None)
    return row | ({"tiers": full} if full else {})


def genai_models(names: list[str]) -> dict[str, Any]:
    return {model.id: model for one in PRICED if one.id in names for model in one.models}


def periods(model: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Today's prices, and those of before with the day that they ended."""
    prices = model.prices
    if isinstance(prices, ModelPrice):
        return genai_price(prices), []
    # A list of prices: the later ones begin on a day; some hold for hours of the day, and are left out.
    dated: list[tuple[Any, ModelPrice]] = [
        (getattr(one.constraint, "start_date", None), one.prices)
        for one in prices
        if isinstance(one, ConditionalPrice) and (one.constraint is None or hasattr(one.constraint, "start_date"))
    ]
    if not dated:
        return {}, []
    dated.sort(key=lambda pair: (pair[0] is not None, pair[0]))
    history = [
        {"until": str(dated[place + 1][0]), **row}
        for place, (_, price) in enumerate(dated[:-1])
        if (row := genai_price(price))
    ]
    return genai_price(dated[-1][1]), history


# ------------------------------------------------------------------------------------------------ litellm


def litellm_price(entry: dict[str, Any], kind: str) -> dict[str, Any]:
    if entry.get("input_cost_per_second") and kind == "speech2text":
        return {"input_price": number(entry["input_cost_per_second"]), "price_per": "second"}
    if entry.get("input_cost_per_character"):
        return {"input_price": million(entry["input_cost_per_character"]), "price_per": "character"}
    if entry.get("input_cost_per_query"):
        return {"input_price": number(entry["input_cost_per_query"]), "price_per": "search"}
    if "input_cost_per_token" not in entry or (kind == "rerank" and not entry["input_cost_per_token"]):
        return {}
    row = {"input_price": million(entry["input_cost_per_token"])}
    for theirs, ours in (
        ("output_cost_per_token", "output_price"),
        ("cache_read_input_token_cost", "cached_price"),
        ("cache_creation_input_token_cost", "cache_write_price"),
        ("cache_creation_input_token_cost_above_1hr", "cache_write_1h_price"),
        ("input_cost_per_audio_token", "audio_input_price"),
        ("output_cost_per_audio_token", "audio_output_price"),
    ):
        if entry.get(theirs) is not None and (ours != "output_price" or kind in ("llm", "tts", "speech2text")):
            row[ours] = million(entry[theirs])
    if kind != "llm":
        row["price_per"] = "token"
    if not any(row.get(name) for name in ("input_price", "output_price")):
        return {}  # zeros are how that list writes that it does not know
    return row


def bare(key: str) -> str:
    """`dashscope/qwen-max` → `qwen-max`; a maker's name in front stays."""
    head, slash, rest = key.partition("/")
    vendors = {
        "dashscope", "moonshot", "zai", "minimax", "cohere", "voyage", "deepgram", "elevenlabs", "perplexity",
        "nvidia_nim", "cerebras", "xai", "groq", "mistral", "gemini", "deepseek", "openrouter", "together_ai",
        "fireworks_ai", "volcengine", "openai", "vertex_ai",
    }  # fmt: skip
    return rest if slash and head in vendors else key


# ------------------------------------------------------------------------------------------------ rows


def rows(provider: str, litellm: dict[str, Any]) -> Iterator[dict[str, Any]]:
    theirs, others, most = SOURCES[provider]
    known = genai_models(theirs)
    listed = {bare(key): entry for key, entry in litellm.items() if entry.get("litellm_provider") in others}
    names = [name for name in listed if not LEFT_OUT.search(name)]
    names += [name for name in known if name not in listed and usable(name, known[name], provider)]
    names.sort(key=lambda name: (name not in known, -rank(name), name))
    for name in sorted(names[:most], key=lambda one: (KINDS.get(listed.get(one, {}).get("mode"), "llm"), one)):
        priced = known.get(name) or next((one for one in known.values() if one.match.is_match(name)), None)
        if (
            row := made(provider, name, listed.get(name) or sibling(name, listed), priced, is_listed=name in listed)
        ) is not None:
            yield row


def sibling(name: str, listed: dict[str, Any]) -> dict[str, Any]:
    """What the list says of the nearest relative of a model that it does not have: what it can do, not what it costs."""

    def shared(other: str) -> int:
        return next(
            (i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other))
        )

    chat = [one for one, entry in listed.items() if entry.get("mode") == "chat" and not LEFT_OUT.search(one)]
    nearest = max(chat, key=shared, default=None)
    if nearest is None or shared(nearest) < 5 or kind_of(name, {}) != "llm":
        return {}
    return {flag: listed[nearest].get(flag) for flag, _ in FEATURES}


def usable(name: str, model: Any, provider: str) -> bool:
    is_served = provider != "vertex_ai" or name.startswith("gemini")
    return (
        is_served and not LEFT_OUT.search(name) and not model.deprecated and "etired" not in (model.description or "")
    )


def rank(name: str) -> float:
    """Newer families first, by the numbers in their names."""
    numbers = [float(one) for one in re.findall(r"(?<![\d.])\d{1,2}(?:\.\d)?(?![\d.])", name)]
    return max((one for one in numbers if one < 30), default=0.0)


def kind_of(name: str, entry: dict[str, Any]) -> str | None:
    if "mode" in entry:
        return KINDS.get(entry["mode"])
    for pattern, kind in (
        (r"embed", "text-embedding"), (r"rerank", "rerank"), (r"whisper|transcribe|scribe|nova-[23]|voxtral.*transcri", "speech2text"),
        (r"tts|speech|eleven_", "tts"), (r"moderation", "moderation"), (r"ocr|guard|parse|safety", ""),
    ):  # fmt: skip
        if re.search(pattern, name):
            return kind or None
    return "llm"


def made(provider: str, name: str, entry: dict[str, Any], priced: Any, *, is_listed: bool) -> dict[str, Any] | None:
    kind = kind_of(name, entry if is_listed else {})
    if kind is None:
        return None
    row: dict[str, Any] = {"name": name, "model_type": kind}
    features = [one for flag, many in FEATURES if entry.get(flag) for one in many] if kind == "llm" else []
    if features:
        row["features"] = features
    size = entry.get("max_input_tokens") or getattr(priced, "context_window", None)
    if size and kind in ("llm", "text-embedding", "rerank"):
        row["context_size"] = int(size)
    if kind == "llm" and entry.get("max_output_tokens"):
        row["max_output"] = int(entry["max_output_tokens"])
    if provider == "openai" and SAMPLES_NOT.match(name):
        row["quirks"] = {"drop": ["temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "logprobs"]}
    if entry.get("mode") == "responses":
        row["wire"] = "openai_responses"
    elif entry.get("mode") == "completion":
        row["properties"] = {"mode": "completion"}
    return row | prices(entry, priced, kind)


def prices(entry: dict[str, Any], priced: Any, kind: str) -> dict[str, Any]:
    """The prices of one list; where the other disagrees by more than a hundredth, the row says which was taken."""
    other = litellm_price(entry, kind)
    first, history = periods(priced) if priced is not None else ({}, [])
    if kind == "moderation":
        return {"input_price": 0}
    if not first:
        return {**other, "price_source": "litellm"} if other else {}
    if kind in ("text-embedding", "rerank"):
        first.pop("output_price", None)
    if kind in ("speech2text", "tts") and "price_per" not in first:
        first["price_per"] = "token"
    if "cache_write_price" in first and "cache_write_1h_price" in other:
        first["cache_write_1h_price"] = other["cache_write_1h_price"]
    row = first | ({"price_history": history} if history else {})
    if any(
        name in other and name in first and differs(first[name], other[name])
        for name in ("input_price", "output_price")
    ):
        row["price_source"] = "genai-prices, litellm differs"
    return row


def differs(one: Any, other: Any) -> bool:
    return abs(float(one) - float(other)) > 0.01 * max(abs(float(one)), abs(float(other)), 1e-12)


def written(provider: str, litellm: dict[str, Any], day: str) -> str:
    path = CATALOG / f"{provider}.yaml"
    head = path.read_text("utf-8").partition(LINE)[0]
    served = yaml.safe_load(head)["model_types"]
    found = [row for row in rows(provider, litellm) if row["model_type"] in served]
    if not found:
        return head
    lines = [LINE, f'price_source: genai-prices\nprice_date: "{day}"\n', "models:\n"]
    lines += [f"  - {flow(row)}\n" for row in found]
    return head + "".join(lines)


def flow(value: Any) -> str:
    """A value on one line, as YAML."""
    match value:
        case dict():
            return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(flow(inner) for inner in value) + "]"
        case str() if re.fullmatch(r"[A-Za-z][\w./-]*", value):
            return value
        case str():
            return json.dumps(value, ensure_ascii=False)
        case float():
            return format(Decimal(str(value)), "f")
        case _:
            return str(value)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--litellm", type=Path, required=True, help="model_prices_and_context_window_backup.json")
    arguments.add_argument("--day", required=True, help="when the lists were fetched, as 2026-11-21")
    given = arguments.parse_args()
    litellm = json.loads(given.litellm.read_text("utf-8"))
    for provider in SOURCES:
        path = CATALOG / f"{provider}.yaml"
        path.write_text(written(provider, litellm, given.day), "utf-8")
        print(f"{provider}: {path.read_text('utf-8').count('- {name: ')}")
    print("genai-prices", version("genai-prices"))


if __name__ == "__main__":
    main()
