"""What each node type does, as the app format describes it: its outputs, the branch that
it takes, and what it asks outside. The walk in `walk.py` calls these rules."""

from collections.abc import Mapping

from tools.show.app_files import call_rules, code_rules, model_rules, value_rules
from tools.show.app_files.contract import Rule

RULES: Mapping[str, Rule] = {
    "start": value_rules.start,
    "trigger-webhook": value_rules.webhook,
    "trigger-schedule": value_rules.root,
    "trigger-plugin": value_rules.root,
    "datasource": value_rules.root,
    "end": value_rules.end,
    "answer": value_rules.answer,
    "llm": model_rules.llm,
    "question-classifier": model_rules.question_classifier,
    "parameter-extractor": model_rules.parameter_extractor,
    "agent": model_rules.agent,
    "tool": call_rules.tool,
    "http-request": call_rules.http_request,
    "knowledge-retrieval": call_rules.knowledge_retrieval,
    "knowledge-index": call_rules.knowledge_index,
    "human-input": call_rules.human_input,
    "if-else": value_rules.if_else,
    "code": code_rules.code,
    "template-transform": value_rules.template_transform,
    "variable-aggregator": value_rules.variable_aggregator,
    "variable-assigner": value_rules.variable_aggregator,
    "list-operator": value_rules.list_operator,
    "document-extractor": value_rules.document_extractor,
    "assigner": value_rules.assigner,
    "iteration": value_rules.container,
    "loop": value_rules.container,
    "iteration-start": value_rules.nothing,
    "loop-start": value_rules.nothing,
    "loop-end": value_rules.nothing,
}
