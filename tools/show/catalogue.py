"""The catalogue: its page in the documentation matches the files, and the provider of
the how-to works as described."""

from collections import Counter

from modelyard.providers.factory import catalog_definition, catalog_names
from tools.reference import REFERENCE, catalogue_page
from tools.show.proof import Proof, tests

_REQUIRED_PROVIDERS = """
openai azure_openai anthropic gemini vertex_ai bedrock tongyi deepseek mistral cohere groq openrouter xai moonshot
zhipuai minimax siliconflow volcengine fireworks together perplexity nvidia cerebras jina voyage deepgram elevenlabs
huggingface huggingface_tei huggingface_tgi ollama vllm sglang llama_cpp lm_studio xinference localai gpustack
openai_api_compatible anthropic_api_compatible gemini_api_compatible
"""


def prove() -> Proof:
    """Check the providers, the page and the how-to, and report them."""
    proof = Proof()
    names = catalog_names()
    missing = [name for name in _REQUIRED_PROVIDERS.split() if name not in names]
    proof.line("providers", f"{len(names)}; missing: {missing or 'none'}", not missing)
    kinds: Counter[str] = Counter()
    priced = 0
    for name in names:
        for model in catalog_definition(name).entity.models:
            kinds[model.model_type.value] += 1
            priced += model.pricing is not None
    proof.line(
        "models",
        ", ".join(f"{count} {model_type}" for model_type, count in kinds.most_common()),
        len(kinds) == 6,
    )
    proof.line("with a price", f"{priced} of {sum(kinds.values())}")
    # The generator must produce exactly the text in the repository.
    is_current = (REFERENCE / "catalogue.md").read_text(
        "utf-8"
    ) == catalogue_page().rstrip() + "\n"
    proof.line(
        "docs/reference/catalogue.md",
        "is what the files say" if is_current else "is stale",
        is_current,
    )
    for line in catalogue_page().splitlines():
        # Show the rows of the page's tables as part of the proof.
        if line.startswith("| ") and "`" in line:
            proof.line("", line)
    summary, ok = tests(
        "tests/unit/providers/test_howto.py", "tests/unit/providers/test_definition.py"
    )
    proof.line("the how-to guide, executed", summary, ok)
    proof.figures = {"providers": len(names), "models": dict(kinds), "priced": priced}
    return proof
