"""Try llm-comply."""
import json, sys
sys.path.insert(0, "/tmp/comply/v/lib/python3.11/site-packages")
import pytest
from llm_comply.config import ComplianceConfig
from llm_comply.runner import TestRunner as Runner
from llm_comply.schema import SpecLoader
from llm_comply.tests import get_tests
from modelyard.testing import Upstream, chat_answer, chat_events, stream_answer, json_answer
from tests.gateway.conftest import Running
import inspect
FORMATS=["open-responses","openai-chat","anthropic","google-genai","google-interactions"]
CASES=[(f,t.id) for f in FORMATS for t in get_tests(f)]

def answer(request):
    body=request.json
    if not request.path.endswith("/chat/completions"):
        return json_answer({"error":{"message":"not found","type":"invalid_request_error"}},status=404)
    calls=body.get("tools") and body["messages"][-1]["role"]=="user"
    tool=body["tools"][0]["function"]["name"] if calls else None
    usage={"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}
    base={"id":"chatcmpl-1","created":1,"model":"gpt-4o"}
    message={"role":"assistant","content":None if tool else "Hello there, friend."}
    if tool: message["tool_calls"]=[{"id":"call_1","type":"function","function":{"name":tool,"arguments":"{\"location\": \"Paris\"}"}}]
    finish="tool_calls" if tool else "stop"
    if not body.get("stream"):
        return json_answer({**base,"object":"chat.completion","choices":[{"index":0,"message":message,"finish_reason":finish}],"usage":usage})
    d=dict(message)
    if tool: d["tool_calls"]=[{"index":0,**d["tool_calls"][0]}]
    ch={**base,"object":"chat.completion.chunk"}
    return stream_answer([{**ch,"choices":[{"index":0,"delta":d,"finish_reason":None}]},{**ch,"choices":[{"index":0,"delta":{},"finish_reason":finish}]},{**ch,"choices":[],"usage":usage}])

@pytest.mark.parametrize("fmt,id",CASES)
def test_case(fmt,id,start_gateway):
    with Upstream(answer) as up:
        running=start_gateway(up)
        cfg=ComplianceConfig(base_url=running.origin if fmt.startswith("google") else running.url,api_key="k",model="openai/gpt-4o",verbose=True)
        tests=[t for t in get_tests(fmt) if t.id==id]
        r=Runner(cfg,tests,SpecLoader(format=fmt) if "format" in inspect.signature(SpecLoader).parameters else SpecLoader(None)).run_one(tests[0])
        print(json.dumps(r.request)[:1500]); print(str(r.response)[:1500])
        print(r.errors, r.warnings)
        assert r.status.name=="PASSED", (r.status, r.errors)
