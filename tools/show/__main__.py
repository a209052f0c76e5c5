"""`make show WHAT=name` runs a proof; without a name it lists all proofs."""

import json
import sys
from importlib import import_module

from tools.show.proof import Proof

PROOFS = {
    "first-five-minutes": "A clean checkout, `make serve`, the official client: all six types, with no key.",
    "fresh": "`make test` from nothing, twice; the second time in under five minutes.",
    "model-crash": "Kill -9 the model process during a stream: an error comes, and the next call works.",
    "three-credentials": "Load balancing, cooldown and failover on three credentials, with the ledger's rows.",
    "foreign-yaml": "A provider in Dify's shape, unchanged from a folder: listed, and called.",
    "bench-basics": "The bench figures, and the README's tour run as a test.",
    "recordings": "All recorded exchanges, through provider and gateway, in their own format and in the others.",
    "format-laws": "What is written and read again is the same, in every format; OpenAI's types hold what we emit.",
    "clients": "The official clients, LangChain and pydantic-ai against the gateway, with local and recorded models.",
    "catalogue": "Every provider by model type and feature, and the how-to that adds one, executed.",
    "bench-formats": "Microseconds of CPU a format, beside the bare parse of the same bytes.",
    "ledger-kill": "1,000 times kill -9 under load: the ledger beside the provider's own account.",
    "stream-cut": "1,000 streams cut by the caller at any byte: a row each, and the provider let go.",
    "faults": "Every way in which a provider fails, streamed and not, in three wire formats.",
    "dead-credential": "One of three credentials dead: nobody notices, and it is back when it lives.",
    "strangers": "Slow, huge and very many callers at the door: the owner signs in within a second, memory stays.",
    "loop-hostage": "Hostile texts in every field that others fill: the loop is never held, others hardly notice.",
    "loop-stall": "Every route beside a database whose every statement takes 1.5 s: the loop stands still for nobody.",
    "sigterm": "Streams of every format cut by the server's end, a second signal, workers: each is told, nothing left.",
    "restart": "A ledger of any size, kill -9 under load, a restart: 256 callers at once, limits exact to the unit.",
    "clock": "A clock that jumps a day ahead for two seconds and back, on every store of counters.",
    "budget-race": "64 racing callers, two processes, one budget: on SQLite, PostgreSQL and Valkey.",
    "noisy-tenant": "A tenant at a hundred times the load of another, which does not notice.",
    "api-tables": "Every row of every API described, every other method refused, every changed row noticed by a test.",
    "tenancy": "Every route with every id of another tenant's; secrets looked for wherever words go.",
    "memory": "100,000 requests: memory, tasks, threads and descriptors.",
    "bench-gateway": "What a call costs with everything on, beside the peers that install.",
    "plugin-kinds": "Plugins of every kind, unmodified, end to end; the how-to of MockGPT, executed.",
    "plugin-storm": "50 plugins that crash and one that forks, leaks and spins, beside healthy ones.",
    "plugin-streams": "500 streams through one plugin; a plugin killed in the middle of one.",
    "plugin-orphans": "Kill -9 the host: no plugin, and nothing that one forked, is left.",
    "plugin-escape": "Attacks from inside a plugin and from its installation, as root and as an ordinary user.",
    "plugin-signatures": "Signatures and checksums, beside an account of their own.",
    "bench-plugins": "Starts, calls, streams and installs of plugins, beside the plain way.",
    "app-files": "All exported apps of the test data: imported, and run with scripted models and stubs.",
    "node-cases": "A case of each node type and each quirk, and the laws of the frontier.",
    "security": "Every hole that a hostile reader found, and the laws that keep its kind out.",
    "fuzz": "Mutated requests to every route: no unhandled error, no 500, no hang.",
    "attacks": "Attacks on the sandbox, as root and as an ordinary user; hostile addresses in a network of their own.",
    "egress": "Every form of an inner address through every feature that names one, in a network of its own.",
    "http-client": "The HTTP client against h11, trustme's certificates and proxy.py: headers, TLS, proxies, names.",
    "run-kill": "500 times kill -9 of a worker during runs: none lost, no step doubled.",
    "app-clients": "Three clients of the service API from PyPI against the server.",
    "customer-service": "The README's customer-service workflow, live on the local model, with its drawing.",
    "bench-workflow": "What a node, a step and a run cost, beside graphon.",
    "retrieval": "nDCG@10 on six collections: full text, semantic, hybrid, reranked, with local models.",
    "documents": "Every format in and out, compared with what was written; bombs and liars held.",
    "crawl": "Every case of pages, sitemaps, feeds, robots.txt and manners, on sites that the crawler visits.",
    "index-kill": "300 times kill -9 during indexing, update and delete: index and database agree.",
    "answers": "Questions on a folder of documents, with citations, on the local model; falsehoods found.",
    "dataset-clients": "Three clients of the knowledge API from PyPI against the server.",
    "stores": "One contract, every store of vectors and words.",
    "bench-knowledge": "Indexing and search, beside LlamaIndex, Haystack and NumPy.",
    "agent-cases": "A case a behaviour of agents, and ReAct's reader fed every split of good and broken replies.",
    "tool-translation": "All BFCL cases through every chat format and back, and through an agent's loop.",
    "agent-kill": "300 times kill -9 during agents' runs: no finished tool called twice, no run lost.",
    "mcp": "The official MCP client against our server, our client against the official server, every transport.",
    "a2a": "The official A2A client against apps as agents.",
    "openapi": "Public API descriptions of real size as tools; every place of a parameter and way to authenticate.",
    "app-api": "Every documented endpoint and status of the service API; then six clients from PyPI.",
    "injection": "Fifty tool results that tell a model to do harm, and a model that obeys each.",
    "customer-service-app": "The how-to's customer service: workflow, knowledge, agent and model, live.",
    "bench-agents": "What a step of an agent costs, beside pydantic-ai.",
    "console-journeys": "Twelve journeys through the console in Chromium, each as a new user.",
    "console-access": "axe-core on every page, in both languages; every journey by keyboard alone; no text missing.",
    "console-safety": "Scripts in every field that is shown; policy, sessions, origins and tenants for every route.",
    "console-figures": "Sizes, times and frames of the console.",
    "console-pictures": "A contact sheet of all pages, both themes and languages, for a person to look at.",
    "corrupt": "Pages of the ledger overwritten under a running server: refused, said, and restored from a backup.",
    "rollback": "A real older release's database with rows everywhere: upgraded, nothing lost, and back.",
    "rotate": "Master keys rotated beside two servers under load: no call fails, no key is told.",
    "readable": "Names, density, docstrings, comments and complexity, beside three known packages; no old word left.",
    "house": "The layer list, the contracts, no import circle, the size of the core.",
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
