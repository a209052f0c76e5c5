"""The catalogue: its table in the docs is what the files say, and the how-to's provider works as it is written."""

from collections import Counter

from modelyard.providers.factory import catalog_definition, catalog_names
from tools.reference import REFERENCE, catalogue_page
from tools.show.proof import Proof, tests

_WANTED = """
openai azure_openai anthropic gemini vertex_ai bedrock tongyi deepseek mistral cohere groq openrouter xai moonshot
zhipuai minimax siliconflow volcengine fireworks together perplexity nvidia cerebras jina voyage deepgram elevenlabs
huggingface huggingface_tei huggingface_tgi ollama vllm sglang llama_cpp lm_studio xinference localai gpustack
openai_api_compatible anthropic_api_compatible gemini_api_compatible
"""


def prove() -> Proof:
    proof = Proof()
    names = catalog_names()
    missing = [name for name in _WANTED.split() if name not in names]
    proof.line("providers", f"{len(names)}; missing: {missing or 'none'}", not missing)
    kinds: Counter[str] = Counter()
    priced = 0
    for name in names:
        for model in catalog_definition(name).entity.models:
            kinds[model.model_type.value] += 1
            priced += model.pricing is not None
    proof.line("models", ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()), len(kinds) == 6)
    proof.line("with a price", f"{priced} of {sum(kinds.values())}")
    same = (REFERENCE / "catalogue.md").read_text("utf-8") == catalogue_page().rstrip() + "\n"
    proof.line("docs/reference/catalogue.md", "is what the files say" if same else "is stale", same)
    for line in catalogue_page().splitlines():
        if line.startswith("| ") and "`" in line:
            proof.line("", line)
    said, ok = tests("tests/unit/providers/test_howto.py", "tests/unit/providers/test_definition.py")
    proof.line("the how-to, executed", said, ok)
    proof.figures = {"providers": len(names), "models": dict(kinds), "priced": priced}
    return proof
