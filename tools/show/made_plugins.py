"""Plugins that are made here with Dify's SDK, as their authors write them: for vendors
that speak OpenAI's format, with a class of the SDK for each type of model."""

from pathlib import Path

from tools.show.driven_models import ModelCase

COMPATIBLE = "models/compatible"
_CLASSES = {
    "llm": "OAICompatLargeLanguageModel",
    "text_embedding": "OAICompatEmbeddingModel",
    "rerank": "OAICompatRerankModel",
    "speech2text": "OAICompatSpeech2TextModel",
    "tts": "OAICompatText2SpeechModel",
}
_MANIFEST = """version: 0.0.1
type: plugin
author: made
name: compatible
label: {en_US: Compatible}
description: {en_US: Models of vendors with OpenAI's format.}
icon: icon.svg
created_at: 2026-11-21T00:00:00Z
resource: {memory: 1048576, permission: {}}
plugins: {models: [provider/compatible.yaml]}
meta:
  version: 0.0.1
  arch: [amd64, arm64]
  runner: {language: python, version: "3.12", entrypoint: main}
"""
_PROVIDER = """provider: compatible
label: {en_US: Compatible}
supported_model_types: [llm, text-embedding, rerank, speech2text, tts]
configurate_methods: [customizable-model]
model_credential_schema:
  model: {label: {en_US: Model}}
  credential_form_schemas:
    - {variable: api_key, label: {en_US: Key}, type: secret-input, required: true}
    - {variable: endpoint_url, label: {en_US: Address}, type: text-input, required: true}
    - {variable: mode, label: {en_US: Mode}, type: text-input, required: true, default: chat}
    - {variable: context_size, label: {en_US: Context}, type: text-input, required: true, default: "4096"}
    - {variable: max_chunks, label: {en_US: Texts}, type: text-input, required: true, default: "4"}
    - variable: function_calling_type
      label: {en_US: Tools}
      type: select
      required: false
      default: tool_call
      options: [{value: tool_call, label: {en_US: "Yes"}}, {value: no_call, label: {en_US: "No"}}]
    - variable: stream_function_calling
      label: {en_US: Tools in streams}
      type: select
      required: false
      default: supported
      options: [{value: supported, label: {en_US: "Yes"}}, {value: not_supported, label: {en_US: "No"}}]
    - {variable: voices, label: {en_US: Voices}, type: text-input, required: false, default: alloy}
extra:
  python:
    provider_source: provider/compatible.py
    model_sources: [%s]
"""
_PROVIDER_CODE = """from collections.abc import Mapping

from dify_plugin import ModelProvider


class CompatibleProvider(ModelProvider):
    def validate_provider_credentials(self, credentials: Mapping) -> None:
        pass
"""
_MAIN = """from dify_plugin import DifyPluginEnv, Plugin

plugin = Plugin(DifyPluginEnv())

if __name__ == "__main__":
    plugin.run()
"""


def compatible_plugin(folder: Path) -> Path:
    """Write the plugin below `folder` and return its folder."""
    sources = {f"models/{name}/{name}.py": _model_code(name) for name in _CLASSES}
    files = {
        "manifest.yaml": _MANIFEST,
        "provider/compatible.yaml": _PROVIDER % ", ".join(sources),
        "provider/compatible.py": _PROVIDER_CODE,
        "main.py": _MAIN,
        "requirements.txt": "dify_plugin>=0.7.4,<0.11\n",
        "_assets/icon.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "README.md": "# Compatible\n",
        **sources,
    }
    target = folder / COMPATIBLE
    for name, text in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return target


def _model_code(name: str) -> str:
    """Return the source of a type of models: the class of the SDK, which counts tokens
    without a vocabulary, as not every machine can download one."""
    class_name = _CLASSES[name]
    return (
        f"from dify_plugin import {class_name}\n\n\n"
        f"class Compatible({class_name}):\n"
        "    def _get_num_tokens_by_gpt2(self, text: str) -> int:\n"
        "        return len(text) // 4\n"
    )


MADE = (ModelCase(folder=COMPATIBLE),)
