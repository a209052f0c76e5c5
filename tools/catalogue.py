"""Fill the catalogue's files with models, features and prices: `python -m
tools.catalogue --litellm PRICES.json --day DAY`.

`--provider NAME` limits it to some files. `--add` keeps the rows that a file has and
only adds the models and service tiers that it lacks.

The facts come from two lists: the package genai-prices (MIT), and the price file in
litellm's wheel (MIT), which also lists the features of each model. If both have a price
and disagree, genai-prices wins and the row says so. The part of a file above the marker
line is maintained by hand and stays; the part below is replaced.
"""

import argparse
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from genai_prices.data import providers as PRICED  # noqa: N812
from genai_prices.types import ConditionalPrice, ModelPrice, TieredPrices

CATALOG = Path(__file__).parents[1] / "src/modelyard/providers/catalog"
LINE = (
    "# Models, features and prices below this line are written by tools/catalogue.py.\n"
)
# provider: (names in genai-prices, names in litellm's list, maximum number of models)
SOURCES: dict[str, tuple[list[str], list[str], int]] = {
    "openai": (["openai"], ["openai", "text-completion-openai"], 200),
    "anthropic": (["anthropic"], ["anthropic"], 60),
    "gemini": (["google"], ["gemini"], 80),
    "vertex_ai": (
        ["google"],
        ["vertex_ai-language-models", "vertex_ai-embedding-models"],
        40,
    ),
    "bedrock": (["aws"], ["bedrock_converse"], 120),
    "azure_openai": (["azure"], [], 0),
    "tongyi": ([], ["dashscope"], 80),
    "deepseek": (["deepseek"], ["deepseek"], 20),
    "mistral": (["mistral"], ["mistral"], 120),
    "cohere": (["cohere"], ["cohere", "cohere_chat"], 40),
    "groq": (["groq"], ["groq"], 40),
    "openrouter": (["openrouter"], ["openrouter"], 80),
    "xai": (["x-ai"], ["xai"], 80),
    "moonshot": (["moonshotai"], ["moonshot"], 30),
    "zhipuai": (["zhipuai"], ["zai"], 40),
    "minimax": (["minimax"], ["minimax"], 30),
    "volcengine": ([], ["volcengine"], 20),
    "fireworks": (["fireworks"], ["fireworks_ai", "fireworks_ai-embedding-models"], 60),
    "together": (["together"], ["together_ai"], 160),
    "perplexity": (["perplexity"], ["perplexity"], 40),
    "nvidia": ([], ["nvidia_nim"], 10),
    "cerebras": (["cerebras"], ["cerebras"], 12),
    "jina": ([], ["jina_ai"], 10),
    "voyage": (["voyageai"], ["voyage"], 30),
    "deepgram": ([], ["deepgram"], 12),
    "elevenlabs": (["elevenlabs"], ["elevenlabs"], 10),
    "huggingface": (["huggingface_together"], [], 0),
}
OWN_NAMES = {
    "gemini": re.compile(r"(?!gemini-(pro|flash)-1|gemini-gemma)ge(mini|mma)"),
    "perplexity": re.compile(r"(?!.*-(chat|online)$)(sonar|pplx-embed)"),
}
"""What the models of a vendor's own API are called, where a price list also has models
that the vendor serves elsewhere: Google's list has Claude, which only Vertex serves."""
_ANY_NAME = re.compile("")
STILL_PRICED = {"gemini": ("gemini-2.0-flash", "gemini-2.0-flash-lite")}
"""Models that a price list calls deprecated and that are still listed, so that calls to
them have a price."""
MODEL_TYPES = {
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
NO_SAMPLING = re.compile(r"(o[134](-|$)|gpt-5(-mini|-nano|-pro)?(-20\d\d.*)?$)")
"""OpenAI models that reject sampling parameters such as the temperature."""
EXCLUDED = re.compile(
    r"realtime|image|dall-e|sora|veo|imagen|video-|live|computer-use|^ft:|search-preview|translate|robotics|tuning"
    r"|^together-ai-|^fireworks-ai-|^container$|-daybreak-|lyria|nano-banana|deep-research-pro|native-audio|preset/|^us\.|^eu\.|^apac\.|^au\.|^jp\.|^global\.|@|:free$|\*"
)
"""Models that are not listed: realtime, image and video models, previews, and regional
duplicates."""


def number(value: Any) -> Any:
    """Return a price as YAML shows it, rounded to eight decimals and without binary
    rounding errors."""
    text = format(Decimal(str(value)).quantize(Decimal("0.00000001")).normalize(), "f")
    return int(text) if "." not in text else float(text)


def million(value: Any) -> Any:
    """Return a price per unit as the price per million units."""
    return number(Decimal(str(value)) * 1_000_000)


# ------------------------------------------------------------------------- genai-prices


def first_tier(value: Any) -> tuple[Any, list[tuple[int, Any]]]:
    """Return (base price, [(start of the tier in tokens, price)]); the list is empty
    for a flat price."""
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
    """Return the price fields of a row; empty if the list has no price for the input."""
    row: dict[str, Any] = {}
    tiers: dict[int, dict[str, Any]] = {}
    for source_field, row_field in FIELDS.items():
        value = getattr(price, source_field, None)
        if value is None:
            continue
        base, steps = first_tier(value)
        # genai-prices states some prices per thousand requests; a row has the price of
        # one.
        is_per_thousand = source_field.endswith("kcount")
        row[row_field] = number(Decimal(str(base)) / 1000 if is_per_thousand else base)
        for start, amount in steps:
            tiers.setdefault(start, {})[row_field] = number(amount)
    if "input_price" not in row:
        return _genai_unit_price(price)
    # A tier repeats every price, so that the reader of the catalogue needs no fallback
    # to the base row.
    full = [
        {"above": start, "input_price": row["input_price"], **row, **tier_prices}
        for start, tier_prices in sorted(tiers.items())
    ]
    for tier in full:
        tier.pop("request_price", None)
    return row | ({"tiers": full} if full else {})


def _genai_unit_price(price: ModelPrice) -> dict[str, Any]:
    """Return the price of a model without a price for tokens: it may be priced by
    characters or by audio duration."""
    for source_field, per, scale in (
        ("input_mchars", "character", 1),
        ("audio_hours", "second", 3600),
    ):
        value = getattr(price, source_field, None)
        if value is not None:
            amount = Decimal(str(first_tier(value)[0])) / scale
            return {"input_price": number(amount), "price_per": per}
    return {}


def genai_models(names: list[str]) -> dict[str, Any]:
    """Return the models of the named providers in genai-prices, by model id."""
    return {
        model.id: model
        for provider in PRICED
        if provider.id in names
        for model in provider.models
    }


def periods(model: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (today's prices, earlier prices with the day on which they ended)."""
    prices = model.prices
    if isinstance(prices, ModelPrice):
        return genai_price(prices), []
    # A list of prices: later entries start on a day. Entries that apply only at some
    # hours of the day are left out.
    dated: list[tuple[Any, ModelPrice]] = [
        (getattr(price_period.constraint, "start_date", None), price_period.prices)
        for price_period in prices
        if isinstance(price_period, ConditionalPrice)
        and (
            price_period.constraint is None
            or hasattr(price_period.constraint, "start_date")
        )
    ]
    if not dated:
        return {}, []
    # The entry without a start date is the oldest; it comes first.
    dated.sort(key=lambda pair: (pair[0] is not None, pair[0]))
    history = [
        {"until": str(dated[index + 1][0]), **row}
        for index, (_, price) in enumerate(dated[:-1])
        if (row := genai_price(price))
    ]
    return genai_price(dated[-1][1]), history


# ------------------------------------------------------------------------------ litellm


def litellm_price(entry: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Return the price fields of a row from litellm's entry; empty if it has no usable
    price."""
    if unit_price := _litellm_unit_price(entry, model_type):
        return unit_price
    token_price = entry.get("input_cost_per_token", 0)
    # A rerank price of zero per token means that the model is priced in another unit.
    if "input_cost_per_token" not in entry or (
        model_type == "rerank" and not token_price
    ):
        return {}
    row = {"input_price": million(token_price)}
    for source_field, row_field in _LITELLM_FIELDS.items():
        has_field = row_field != "output_price" or model_type in _TYPES_WITH_OUTPUT
        if has_field and entry.get(source_field) is not None:
            row[row_field] = million(entry[source_field])
    if model_type != "llm":
        row["price_per"] = "token"
    # In that list, zeros mean that the price is unknown.
    is_known = any(row.get(name) for name in ("input_price", "output_price"))
    return row if is_known else {}


_TYPES_WITH_OUTPUT = ("llm", "tts", "speech2text")
_LITELLM_FIELDS = {
    "output_cost_per_token": "output_price",
    "cache_read_input_token_cost": "cached_price",
    "cache_creation_input_token_cost": "cache_write_price",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_price",
    "input_cost_per_audio_token": "audio_input_price",
    "output_cost_per_audio_token": "audio_output_price",
}
"""litellm's field to the field of a row, for prices per token."""


def _litellm_unit_price(entry: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Return the price per second, character or search; empty if there is none."""
    seconds = entry.get("input_cost_per_second")
    if seconds and model_type == "speech2text":
        return {"input_price": number(seconds), "price_per": "second"}
    if characters := entry.get("input_cost_per_character"):
        return {"input_price": million(characters), "price_per": "character"}
    if queries := entry.get("input_cost_per_query"):
        return {"input_price": number(queries), "price_per": "search"}
    return {}


def without_provider_prefix(key: str) -> str:
    """Return the model name without the provider prefix: `dashscope/qwen-max` →
    `qwen-max`.

    The name of a model's maker stays, as in `meta-llama/…`.
    """
    head, slash, model_name = key.partition("/")
    vendors = {
        "dashscope", "moonshot", "zai", "minimax", "cohere", "voyage", "deepgram", "elevenlabs", "perplexity",
        "nvidia_nim", "cerebras", "xai", "groq", "mistral", "gemini", "deepseek", "openrouter", "together_ai",
        "fireworks_ai", "volcengine", "openai", "vertex_ai",
    }  # fmt: skip
    return model_name if slash and head in vendors else key


# --------------------------------------------------------------------------------- rows


def rows(provider: str, litellm: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a provider: the newest models up to its maximum, ordered by
    type and name."""
    genai_names, litellm_names, max_models = SOURCES[provider]
    priced_models = genai_models(genai_names)
    listed = {
        without_provider_prefix(key): entry
        for key, entry in litellm.items()
        if entry.get("litellm_provider") in litellm_names
    }
    names = [name for name in listed if not EXCLUDED.search(name)]
    names += [
        name
        for name in priced_models
        if name not in listed and usable(name, priced_models[name], provider)
    ]
    names = list(filter(OWN_NAMES.get(provider, _ANY_NAME).match, names))
    # Models with a known price first, then newer families, so that the cut-off below
    # drops the least useful ones.
    names.sort(key=lambda name: (name not in priced_models, -rank(name), name))
    for name in sorted(
        names[:max_models],
        key=lambda listed_name: (
            MODEL_TYPES.get(listed.get(listed_name, {}).get("mode"), "llm"),
            listed_name,
        ),
    ):
        # genai-prices may know the model under a pattern instead of its exact name.
        priced = priced_models.get(name) or next(
            (
                candidate
                for candidate in priced_models.values()
                if candidate.match.is_match(name)
            ),
            None,
        )
        if (
            row := build_row(
                provider,
                name,
                listed.get(name) or sibling(name, listed),
                priced,
                is_listed=name in listed,
            )
        ) is not None:
            yield row


def sibling(name: str, listed: dict[str, Any]) -> dict[str, Any]:
    """Return the features of the most similar listed chat model, for a model that
    litellm does not list.

    Returns no prices. Empty if no name shares a prefix of at least five characters.
    """

    def shared(listed_name: str) -> int:
        """Return the length of the common prefix."""
        pairs = zip(name, listed_name, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    chat = [
        listed_name
        for listed_name, entry in listed.items()
        if entry.get("mode") == "chat" and not EXCLUDED.search(listed_name)
    ]
    nearest = max(chat, key=shared, default=None)
    if nearest is None or shared(nearest) < 5 or kind_of(name, {}) != "llm":
        return {}
    return {flag: listed[nearest].get(flag) for flag, _ in FEATURES}


def usable(name: str, model: Any, provider: str) -> bool:
    """Return whether a model of genai-prices belongs into the catalogue: served, not
    deprecated, not excluded."""
    is_served = provider != "vertex_ai" or name.startswith("gemini")
    if name in STILL_PRICED.get(provider, ()):
        return True
    return (
        is_served
        and not EXCLUDED.search(name)
        and not model.deprecated
        and "etired" not in (model.description or "")
    )


def rank(name: str) -> float:
    """Return the sort rank of a model: the version number in its name, so that newer
    families come first."""
    numbers = [
        float(digits)
        for digits in re.findall(r"(?<![\d.])\d{1,2}(?:\.\d)?(?![\d.])", name)
    ]
    # Larger numbers are sizes or dates, not versions.
    return max(
        (version_number for version_number in numbers if version_number < 30),
        default=0.0,
    )


def kind_of(name: str, entry: dict[str, Any]) -> str | None:
    """Return the model type, or None for a kind of model that the catalogue does not
    have."""
    if "mode" in entry:
        return MODEL_TYPES.get(entry["mode"])
    # Without an entry in litellm's list, guess the type from the name.
    for pattern, model_type in (
        (r"embed", "text-embedding"), (r"rerank", "rerank"), (r"whisper|transcribe|scribe|nova-[23]|voxtral.*transcri", "speech2text"),
        (r"tts|speech|eleven_", "tts"), (r"moderation", "moderation"), (r"ocr|guard|parse|safety", ""),
    ):  # fmt: skip
        if re.search(pattern, name):
            return model_type or None
    return "llm"


def build_row(
    provider: str, name: str, entry: dict[str, Any], priced: Any, *, is_listed: bool
) -> dict[str, Any] | None:
    """Return the catalogue row of a model, or None if its type is not supported."""
    model_type = kind_of(name, entry if is_listed else {})
    if model_type is None:
        return None
    row: dict[str, Any] = {"name": name, "model_type": model_type}
    if model_type == "llm" and (features := _features_of(entry)):
        row["features"] = features
    size = entry.get("max_input_tokens") or getattr(priced, "context_window", None)
    if size and model_type in ("llm", "text-embedding", "rerank"):
        row["context_size"] = int(size)
    if model_type == "llm" and entry.get("max_output_tokens"):
        row["max_output"] = int(entry["max_output_tokens"])
    if provider == "openai" and NO_SAMPLING.match(name):
        row["quirks"] = {"drop": [*_SAMPLING_PARAMETERS]}
    match entry.get("mode"):
        case "responses":
            row["wire"] = "openai_responses"
        case "completion":
            row["properties"] = {"mode": "completion"}
        case _:
            pass
    return row | prices(
        entry, priced, model_type, is_exact=getattr(priced, "id", name) == name
    )


_SAMPLING_PARAMETERS = (
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
)


def _features_of(entry: dict[str, Any]) -> list[str]:
    """Return the features whose flags litellm's entry has."""
    return [
        feature
        for flag, feature_names in FEATURES
        if entry.get(flag)
        for feature in feature_names
    ]


def prices(
    entry: dict[str, Any], priced: Any, model_type: str, *, is_exact: bool = True
) -> dict[str, Any]:
    """Return the prices of one list.

    If the other list differs by more than one percent, the row's `price_source` says
    which was used. `is_exact`: whether genai-prices knows the model by this very name.
    """
    litellm_row = litellm_price(entry, model_type)
    first, history = periods(priced) if priced is not None else ({}, [])
    if model_type == "moderation":
        return {"input_price": 0}
    if not first:
        return {**litellm_row, "price_source": "litellm"} if litellm_row else {}
    # Embedding and rerank models have no output to pay for.
    if model_type in ("text-embedding", "rerank"):
        first.pop("output_price", None)
    if model_type in ("speech2text", "tts") and "price_per" not in first:
        first["price_per"] = "token"
    # Only litellm lists the price of one-hour cache writes.
    if "cache_write_price" in first and "cache_write_1h_price" in litellm_row:
        first["cache_write_1h_price"] = litellm_row["cache_write_1h_price"]
    row = first | ({"price_history": history} if history else {})
    return _preferred_price(row, litellm_row, is_exact=is_exact)


def _preferred_price(
    row: dict[str, Any], litellm_row: dict[str, Any], *, is_exact: bool
) -> dict[str, Any]:
    """Return the prices of the list that is more certain, and say so if they differ."""
    if not _has_different_price(row, litellm_row):
        return row
    # A pattern may cover older models of the same name; the exact name is more certain.
    if not is_exact:
        return {**litellm_row, "price_source": "litellm, genai-prices differs"}
    return row | {"price_source": "genai-prices, litellm differs"}


def _has_different_price(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether a price for tokens that both rows have differs."""
    names = {"input_price", "output_price"} & row.keys() & other.keys()
    return any(differs(row[name], other[name]) for name in names)


def differs(left: Any, right: Any) -> bool:
    """Return whether two prices differ by more than one percent."""
    return abs(float(left) - float(right)) > 0.01 * max(
        abs(float(left)), abs(float(right)), 1e-12
    )


SERVICE_TIERS = {"priority": "priority", "flex": "flex", "batch": "batches"}
"""What a catalogue calls a service tier to what litellm's list calls it."""
_THRESHOLD = re.compile(r"_above_(\d+)k_tokens$")


def service_tiers(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the prices of the service tiers in litellm's entry, by tier: those of a
    row, with `tiers` for long prompts. Only litellm lists them."""
    tiers = {
        tier: _service_prices(entry, suffix) for tier, suffix in SERVICE_TIERS.items()
    }
    return {tier: amounts for tier, amounts in tiers.items() if amounts}


def _service_prices(entry: dict[str, Any], suffix: str) -> dict[str, Any]:
    """Return the prices of one service tier; empty if the input has none."""
    amounts: dict[str, Any] = {}
    long_prompts: dict[int, dict[str, Any]] = {}
    for key, value in entry.items():
        stem, found, _ = key.rpartition(f"_{suffix}")
        if not found or not key.endswith(f"_{suffix}") or value is None:
            continue
        threshold = _THRESHOLD.search(stem)
        field = _SERVICE_FIELDS.get(_THRESHOLD.sub("", stem))
        if field and threshold:
            above = int(threshold[1]) * 1000
            long_prompts.setdefault(above, {})[field] = million(value)
        elif field:
            amounts[field] = million(value)
    if "input_price" not in amounts:
        return {}
    steps = [
        {"above": above, **amounts, **prices_above}
        for above, prices_above in sorted(long_prompts.items())
    ]
    return amounts | ({"tiers": steps} if steps else {})


_SERVICE_FIELDS = {"input_cost_per_token": "input_price", **_LITELLM_FIELDS}


def listed_service_tiers(
    provider: str, names: set[str], litellm: dict[str, Any]
) -> dict[str, Any]:
    """Return the service tiers of a provider's models, by model and tier."""
    tiers = {
        without_provider_prefix(key): service_tiers(entry)
        for key, entry in litellm.items()
        if entry.get("litellm_provider") in SOURCES[provider][1]
    }
    return {name: tiers[name] for name in sorted(names) if tiers.get(name)}


def file_text(
    provider: str, litellm: dict[str, Any], day: str, *, adds_only: bool = False
) -> str:
    """Return the new text of a provider's catalogue file.

    `day` is the date on which the lists were fetched. With `adds_only` the rows that
    the file has are kept, as lines, and new ones are put in their order.
    """
    path = CATALOG / f"{provider}.yaml"
    text = path.read_text("utf-8")
    head, _, tail = text.partition(LINE)
    served = yaml.safe_load(head)["model_types"]
    # A provider's file limits the model types that it serves.
    model_rows = [row for row in rows(provider, litellm) if row["model_type"] in served]
    if not model_rows:
        return text if adds_only else head
    kept: dict[str, str] = {}
    if adds_only:
        present: list[dict[str, Any]] = yaml.safe_load(text).get("models") or []
        kept = kept_lines(present, tail)
        model_rows = with_new_rows(present, model_rows)
    lines = [LINE, f'price_source: genai-prices\nprice_date: "{day}"\n', "models:\n"]
    lines += [kept.get(row["name"], f"  - {flow(row)}") + "\n" for row in model_rows]
    tiers = listed_service_tiers(provider, {row["name"] for row in model_rows}, litellm)
    if tiers:
        lines += [SERVICE_LINE, "service_tiers:\n"]
        lines += [
            f"  {flow(name)}: {flow(amounts)}\n" for name, amounts in tiers.items()
        ]
    return head + "".join(lines)


def with_new_rows(
    present: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows that a file has, and the others that have a price, in order."""
    names = {row["name"] for row in present}
    new = [row for row in rows if row["name"] not in names and "input_price" in row]
    return sorted([*present, *new], key=lambda row: (row["model_type"], row["name"]))


def kept_lines(present: list[dict[str, Any]], tail: str) -> dict[str, str]:
    """Return the lines of the rows that a file has, by model."""
    lines = [line for line in tail.splitlines() if line.startswith("  - {")]
    return dict(zip((row["name"] for row in present), lines, strict=True))


SERVICE_LINE = "# Prices of the service tiers, as litellm's price list has them.\n"


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    match value:
        case dict():
            return (
                "{"
                + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items())
                + "}"
            )
        case list():
            return "[" + ", ".join(flow(inner) for inner in value) + "]"
        # Plain words need no quotes in YAML; everything else is quoted like JSON.
        case str() if re.fullmatch(r"[A-Za-z][\w./-]*", value):
            return value
        case str():
            return json.dumps(value, ensure_ascii=False)
        case float():
            return format(Decimal(str(value)), "f")
        case _:
            return str(value)


def main() -> None:
    """Rewrite all catalogue files and print the number of models of each."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--litellm",
        type=Path,
        required=True,
        help="model_prices_and_context_window_backup.json",
    )
    arguments.add_argument(
        "--day", required=True, help="when the lists were fetched, as 2026-11-21"
    )
    arguments.add_argument(
        "--provider", action="append", choices=[*SOURCES], help="all by default"
    )
    arguments.add_argument(
        "--add", action="store_true", help="keep the rows that a file has"
    )
    options = arguments.parse_args()
    litellm = json.loads(options.litellm.read_text("utf-8"))
    for provider in options.provider or SOURCES:
        path = CATALOG / f"{provider}.yaml"
        text = file_text(provider, litellm, options.day, adds_only=options.add)
        path.write_text(text, "utf-8")
        print(f"{provider}: {path.read_text('utf-8').count('- {name: ')}")
    print("genai-prices", version("genai-prices"))


if __name__ == "__main__":
    main()
