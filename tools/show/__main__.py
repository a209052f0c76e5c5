"""`make show WHAT=name` runs a proof; without a name it lists all proofs."""

import json
import sys
from importlib import import_module

from tools.show.proof import Proof

PROOFS = {
    "first-five-minutes": "A clean checkout, `make serve`, the official client: all six model types without an API key.",
    "fresh": "`make test` in a clean checkout, twice; the second run takes less than five minutes.",
    "model-crash": "Kill -9 the model process during a stream: the caller gets an error, the next call works.",
    "three-credentials": "Load balancing, cooldown and failover on three credentials, with the ledger's rows.",
    "foreign-yaml": "An unchanged provider folder in Dify's format: its models are listed and called.",
    "bench-basics": "The basic benchmarks, and the README's tour run as a test.",
    "recordings": "All recorded answers in every format, all requests in their own; each corruption is noticed.",
    "format-laws": "Parsing and writing are inverse in every format; OpenAI's types accept all output.",
    "raw-equals-parsed": "Recorded answers passed through as bytes, cut anywhere: read as by the full parser, unchanged for the caller.",
    "lost-and-kept": "Every feature of a call between every pair of formats: carried, adapted, named or refused.",
    "clients": "The official clients, the Agents SDK, LangChain and pydantic-ai against the gateway, with local and recorded models.",
    "gateway-cases": "Every fault that was reported of gateways, or met by real agents: each has tests that play it.",
    "comply": "Public suites and schemas: llm-comply, required fields, known paths, schemathesis.",
    "catalogue": "Every provider by model type and feature, and the executed how-to guide for adding one.",
    "bench-formats": "Microseconds of CPU per format, compared with the bare JSON parse of the same bytes.",
    "ledger-kill": "1,000 times kill -9 under load: the ledger compared with the provider's own record.",
    "stream-cut": "1,000 streams cut by callers at any byte: one row each, the upstream request is cancelled.",
    "faults": "Every provider failure, streamed and not, in three wire formats.",
    "dead-credential": "One of three credentials fails: callers see no errors; it is used again once it recovers.",
    "strangers": "Slow, huge and very many unauthenticated callers: sign-in within a second, stable memory.",
    "loop-hostage": "Hostile texts in every field that others fill: the event loop is not blocked.",
    "loop-stall": "Every route with database statements of 1.5 s: none of them blocks the event loop.",
    "sigterm": "Streams of every format during shutdown, a second signal, workers: each caller gets an error.",
    "restart": "A large ledger, kill -9 under load, a restart: 256 callers at once, limits exact to the unit.",
    "clock": "A clock that jumps one day ahead for two seconds and back, on every store of counters.",
    "budget-race": "64 racing callers, two processes, one budget: on SQLite, PostgreSQL and Valkey.",
    "noisy-tenant": "A tenant with a hundred times the load of another one, whose latency stays stable.",
    "slow-streams": "1,000 slow streams and 10,000 idle connections at once: memory of each, every byte compared.",
    "overload": "Two and five times the load that a process can serve: early refusals, stable goodput.",
    "one-record": "2,000 calls of every outcome: each has one record, sums by every grouping agree, refused ones are found by id.",
    "api-tables": "Every row of every API is described, other methods are refused, changed rows fail a test.",
    "tenancy": "Every route with every id of another tenant; all outputs are searched for secrets.",
    "memory": "100,000 requests: memory, tasks, threads and descriptors do not grow.",
    "bench-gateway": "The cost of a call with all features, compared with the gateways that can be installed.",
    "plugin-kinds": "Unmodified plugins of every type, end to end; the executed how-to guide of MockGPT.",
    "plugins-all": "Every plugin of a repository: packed, installed, started and called, beside plain processes.",
    "plugins-driven": "Real plugins of every kind against played vendors: chat, tools, thoughts, errors, files, documents.",
    "plugin-storm": "50 plugins that crash and one that forks, leaks and loops, next to healthy ones.",
    "plugin-streams": "500 streams through one plugin; a plugin killed in the middle of one.",
    "plugin-orphans": "Kill -9 the host: no process of a plugin keeps running.",
    "plugin-escape": "Attacks from inside a plugin and from its installation, as root and as an ordinary user.",
    "plugin-signatures": "Signatures and checksums, compared with an independent implementation.",
    "bench-plugins": "Starts, calls, streams and installations of plugins, compared with plain Python processes.",
    "app-files": "All app files of the test data, up to version 0.7.0: outputs and questions against an independent reader.",
    "node-cases": "A case for each node type and each quirk, and the rules of the execution frontier.",
    "workflow-cases": "Reported faults of workflow products and others of their kinds: endless runs, templates in data, files, replaced text.",
    "never-hangs": "2,000 odd values through every kind of node: blocking, streamed, and resumed after kill -9; each run ends.",
    "security": "Every vulnerability found in reviews, and the rules that prevent others of its kind.",
    "fuzz": "Mutated requests to every route: no unhandled error, no 500, no hang.",
    "attacks": "Attacks on the sandbox, as root and as an ordinary user; hostile addresses.",
    "egress": "Every form of an internal address in every feature that takes one, in a separate network.",
    "http-client": "The HTTP client against h11, trustme's certificates and proxy.py: headers, TLS, proxies, names.",
    "run-owners": "owners of runs frozen, killed, stopped, cut off from PostgreSQL, beside wrong clocks and other process namespaces: no run is executed by two servers.",
    "carriers": "1,000 runs each on DBOS and Temporal, three workers killed, frozen and stopped, the database and the engine away: every record against the effects.",
    "three-nodes": "Three servers on one PostgreSQL behind a round robin: files, plugins, settings, keys, conversations, knowledge, webhooks, schedules; SIGTERM of each in turn under load.",
    "run-kill": "500 times kill -9 of a worker during runs: no run is lost, no step executed twice.",
    "app-clients": "Three clients of the service API from PyPI against the server.",
    "customer-service": "The README's customer-service workflow with the local model, and its diagram.",
    "bench-workflow": "The cost of a node, a step and a run, compared with graphon.",
    "retrieval": "nDCG@10 on six collections: full text, semantic, hybrid, reranked, with local models.",
    "documents": "Every document format compared with the written content; malicious files are contained.",
    "connectors": "Folders, S3, Confluence and Google Drive: first pass, changes, deletions, permissions, interruption and going on; schedules.",
    "permissions": "People × documents × ways in against a model of who may read what; revocation; latency.",
    "crawl": "Every case of pages, sitemaps, feeds, robots.txt and rate limits, on simulated sites.",
    "index-kill": "300 times kill -9 during indexing, updates and deletions: index and database agree.",
    "answers": "Questions about a folder of documents, with citations; false statements are recognised.",
    "dataset-clients": "Three clients of the knowledge API from PyPI against the server.",
    "stores": "One contract for every vector and full-text store.",
    "bench-knowledge": "Indexing and search, compared with LlamaIndex, Haystack and NumPy.",
    "agent-cases": "A case for each behaviour of agents, and the ReAct parser with every split of replies.",
    "tool-translation": "All BFCL cases through every chat format and back, and through an agent's loop.",
    "coding-agents": "Claude Code, Codex, Gemini CLI, opencode and Qwen Code through the gateway, with every provider format.",
    "agent-kill": "300 times kill -9 during agent runs: no finished tool is called twice, no run is lost.",
    "mcp": "The official MCP client with our server, our client with the official server.",
    "a2a": "The official A2A client with apps as agents.",
    "openapi": "Large public API descriptions as tools; every parameter location and authentication method.",
    "app-api": "Every documented endpoint and status of the service API; then six clients from PyPI.",
    "injection": "Fifty tool results that a model obeys; templates in all that comes from outside: none is rendered.",
    "customer-service-app": "The how-to guide's customer service: workflow, knowledge, agent and local model.",
    "bench-agents": "The cost of an agent's step, compared with pydantic-ai.",
    "console-journeys": "Twelve journeys through the console in Chromium, each as a new user.",
    "console-access": "axe-core on every page in both languages; every journey with the keyboard only.",
    "console-safety": "Scripts in every displayed field; content policy, sessions and tenants for every route.",
    "console-figures": "Sizes, load times and frame rates of the console.",
    "console-pictures": "A contact sheet of all pages, in both themes and languages, for visual review.",
    "corrupt": "Pages of the ledger overwritten under a running server: refused calls, a restored backup.",
    "rollback": "An older release's database with rows in every table: upgraded without loss, and restored.",
    "rotate": "Master keys rotated with two servers under load: no call fails, no key is revealed.",
    "readable": "Names, density, docstrings, comments and complexity, beside three known packages; no old word left.",
    "docs": "Every code block of the documentation is run, and every claim in the list of claims is checked.",
    "house": "Layers, import contracts, no import cycle, the size of the core.",
}


def main() -> int:
    """Run the proof named on the command line and print its table and figures.

    Exit code 0: the goal holds, or the list was printed; 1: it does not hold; 2:
    unknown name.
    """
    if len(sys.argv) != 2 or sys.argv[1] not in PROOFS:
        for name, line in PROOFS.items():
            print(f"  make show WHAT={name:<20} {line}")
        return 0 if len(sys.argv) == 1 else 2
    # Proofs are imported on demand: many need packages or tools that others do not.
    module = import_module(f"tools.show.{sys.argv[1].replace('-', '_')}")
    proof: Proof = module.prove()
    for line in proof.table():
        print(line)
    # The last line is machine-readable.
    print(
        json.dumps(
            {"show": sys.argv[1], "ok": proof.ok, **proof.figures}, ensure_ascii=False
        )
    )
    return 0 if proof.ok else 1


if __name__ == "__main__":
    sys.exit(main())
