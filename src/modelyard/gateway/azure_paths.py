"""Azure's paths of OpenAI's API.

Azure's clients call `/openai/v1/…`, `/openai/…?api-version=…`, and
`/openai/deployments/MODEL/…?api-version=…`, which names the model in the path. They
reach the routes of OpenAI's API; the version is ignored.
"""

import re

DEPLOYMENT = "deployment"
"""Name of the part of a path that names the model."""
_PREFIX = "/openai/"
# The shortest name counts: with the longest, `gpt/chat` would be the model of
# `gpt/chat/completions`.
_OF_DEPLOYMENT = re.compile(
    r"/openai/deployments/(?P<model>[^\n]+?)(?P<rest>/(?:chat/completions|completions"
    r"|embeddings|responses|audio/(?:speech|transcriptions|translations)))"
)


def served_path(path: str) -> tuple[str, str]:
    """Return the path that answers a request, and the model that the path names; empty
    if it names none."""
    if not path.startswith(_PREFIX):
        return path, ""
    match = _OF_DEPLOYMENT.fullmatch(path)
    if match is not None:
        return f"/v1{match['rest']}", match["model"]
    if path.startswith("/openai/v1/"):
        return path.removeprefix("/openai"), ""
    return f"/v1/{path.removeprefix(_PREFIX)}", ""
