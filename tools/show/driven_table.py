"""The model plugins that are driven. Most need no more than their folder: the address of
the vendor, the models and the checks follow from the declaration."""

from tools.show.driven_models import ModelCase

_THINKS = {"agent_thought_support": "supported"}

MODELS = (
    # Its models think in the Responses format only.
    ModelCase(
        folder="models/openai",
        values={"api_protocol": "chat"},
        llm="gpt-4.1",
        lacks=("thoughts",),
    ),
    ModelCase(folder="models/anthropic", thinker="claude-sonnet-4-5"),
    ModelCase(folder="models/deepseek"),
    ModelCase(
        folder="models/openai_api_compatible",
        values=_THINKS,
        thinking={"enable_thinking": True},
    ),
    ModelCase(folder="models/gemini"),
    # Its tools need two of them at least, in the vendor's first format.
    ModelCase(folder="models/cohere", lacks=("tools", "thoughts")),
    ModelCase(folder="models/ollama"),
    ModelCase(folder="models/openrouter"),
    # These send tools only for models that a tenant has added.
    ModelCase(folder="models/mistralai", lacks=("tools",)),
    ModelCase(folder="models/groq", lacks=("tools",)),
    ModelCase(folder="models/togetherai", lacks=("tools",)),
    ModelCase(folder="models/fireworks", lacks=("tools", "thoughts")),
    ModelCase(folder="models/moonshot"),
    ModelCase(folder="models/siliconflow"),
    ModelCase(folder="models/jina"),
    ModelCase(folder="models/voyage"),
    ModelCase(folder="models/x"),
    ModelCase(folder="models/gpustack", lacks=("thoughts",)),
    # This vendor streams no pieces of calls, and its plugin reads none.
    ModelCase(folder="models/zhipuai", values={"base_url": "https://whole.example/v1"}),
    ModelCase(folder="models/mixedbread"),
    # It completes its credentials when it tries them.
    ModelCase(folder="models/novita", lacks=("faults", "tools", "thoughts")),
    ModelCase(folder="models/longcat"),
    ModelCase(folder="models/mimo", lacks=("tools",)),
    # It joins the pieces of two parallel calls.
    ModelCase(folder="models/stepfun", lacks=("tools",)),
    ModelCase(folder="models/sambanova", lacks=("tools",)),
)
