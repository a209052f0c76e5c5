"""Scripts in every field that is shown: none runs. And the policy, sessions, origins, tenants, for every route."""

import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml

from tools.show.browser import browser, build, lines_of, person, server
from tools.show.console_access import settled
from tools.show.console_world import World, world
from tools.show.proof import ROOT, Proof

CORPUS = (
    "<script>window.hit=1</script>",
    "\"><img src=x onerror=window.hit=2>",
    "'><svg/onload=window.hit=3>",
    "<iframe srcdoc='<script>parent.hit=4</script>'></iframe>",
    "[a](javascript:window.hit=5)",
    "![a](x\" onerror=\"window.hit=6)",
    "<a href=\"javascript:window.hit=7\" autofocus onfocus=window.hit=8>a</a>",
    "<style>@import 'http://127.0.0.1:1/x';</style>",
    "{{constructor.constructor('window.hit=9')()}}",
    "</textarea><script>window.hit=10</script>",
    "</script><script>window.hit=11</script>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=12>",
    "<details open ontoggle=window.hit=13>",
    "\u202e<b>gnirts\u202c",
    "data:text/html,<script>window.hit=14</script>",
    "<form action=javascript:window.hit=15><button>x</button></form>",
    "<object data=javascript:window.hit=16></object><embed src=javascript:window.hit=17>",
    "`${window.hit=18}`",
)  # fmt: skip
_WHAT = (
    "script:not([src]), iframe, object, embed, form[action^=javascript], img[src=x], math, [onerror], [onload], "
    "[onfocus], [ontoggle], a[href^=javascript]"
)
_INJECTED = f"() => [...document.querySelectorAll('{_WHAT}')].map(one => one.outerHTML.slice(0, 120))"
_STREAMS = ("/admin/v1/live",)
_ADMIN = ROOT / "docs" / "reference" / "openapi" / "admin.json"
"""What the admin API offers; a test holds it to what is served."""


def hostile_plugin(folder: Path, said: str) -> Path:
    """The example's plugin, with scripts in what it says of itself, and an icon that is one."""
    source, made = ROOT / "examples" / "plugins" / "toolbox", folder / "toolbox"
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = made / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    manifest = yaml.safe_load((made / "manifest.yaml").read_text("utf-8"))
    manifest["label"] = {"en_US": f"Tools {said}"[:200]}
    manifest["description"] = {"en_US": f"Tools {said}"[:200]}
    (made / "manifest.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True), "utf-8")
    icon = made / "_assets" / str(manifest.get("icon") or "icon.svg")
    icon.parent.mkdir(exist_ok=True)
    icon.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" onload="parent.hit=20"><script>parent.hit=21</script></svg>', "utf-8"
    )
    return made


def scripts(made: Any, said: str) -> tuple[int, list[str]]:
    """(pages looked at, what ran or was put into a page)."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, world(said, plugin=hostile_plugin(Path(folder), said)) as there:
        with person(made, there.served.origin) as one:
            one.page.on("dialog", lambda dialog: (one.wrongs.append("a dialog"), dialog.dismiss()))
            for path in there.paths():
                settled(one, path)
                for button in one.page.locator("main summary").all()[:6]:
                    button.click()
                hit = one.page.evaluate("window.hit")
                if hit is not None:
                    wrong.append(f"{path}: script {hit} ran")
                wrong += [f"{path}: {found}" for found in one.page.evaluate(_INJECTED)]
            wrong += [f"browser: {text}" for text in one.wrongs if "icon" not in text]
            wrong += [f"asked for {url}" for url in one.elsewhere]
        return len(there.paths()), wrong


def policy(there: World) -> list[str]:
    """What is wrong with the headers of any of the console's addresses."""
    wrong: list[str] = []
    for path in ("/console", *(f"/console{one}" for one in there.paths()[1:6]), "/docs/admin"):
        headers = httpx.get(f"{there.served.origin}{path}").headers
        said = headers.get("content-security-policy", "")
        if "default-src 'none'" not in said or "unsafe" in said or "frame-ancestors 'none'" not in said:
            wrong.append(f"{path}: {said or 'no policy'}")
        if headers.get("x-content-type-options") != "nosniff":
            wrong.append(f"{path}: no nosniff")
    return wrong


def operations() -> Iterator[tuple[str, str]]:
    """(method, path) of all that the admin API and the console's own offer."""
    for path, verbs in json.loads(_ADMIN.read_text("utf-8"))["paths"].items():
        for verb in verbs:
            yield verb.upper(), path
    for verb, path in (
        ("GET", "sessions"), ("DELETE", "sessions/{id}"), ("PATCH", "account"), ("GET", "accounts"),
        ("PATCH", "accounts/{id}"), ("POST", "invitations"), ("GET", "audit"),
    ):  # fmt: skip
        yield verb, f"/console/api/{path}"


class _Account:
    """Somebody signed in, in a browser."""

    def __init__(self, origin: str, cookies: httpx.Cookies) -> None:
        self.client = httpx.Client(base_url=origin, cookies=cookies, timeout=30)

    def call(self, verb: str, path: str, **headers: str) -> int:
        with self.client.stream(
            verb,
            path,
            headers={"content-type": "application/json", **headers},
            content=b"{}" if verb != "GET" else None,
        ) as answer:
            return answer.status_code


def _signed_in(origin: str, email: str, password: str) -> _Account:
    answered = httpx.post(
        f"{origin}/console/api/session", json={"email": email, "password": password}, headers={"origin": origin}
    )
    assert answered.status_code == 200, answered.text
    return _Account(origin, answered.cookies)


def matrix(home: Path) -> tuple[dict[str, int], list[str]]:
    """Every route with no session, one from elsewhere, one of a viewer, one of another tenant's, one that has ended."""
    counts = dict.fromkeys(
        (
            "the owner, rightly",
            "no session",
            "another site",
            "no origin",
            "a viewer",
            "another tenant",
            "an ended session",
        ),
        0,
    )
    wrong: list[str] = []
    with ExitStack() as stack:
        origin = stack.enter_context(server("", home=home)).origin
        password = "correct horse battery"
        owner_client = stack.enter_context(httpx.Client(base_url=origin, headers={"origin": origin}, timeout=30))
        made = owner_client.post(
            "/console/api/setup", json={"email": "o@example.com", "name": "O", "password": password}
        )
        assert made.status_code == 201, made.text
        ids = _things(owner_client)
        token = owner_client.post("/console/api/invitations", json={"email": "v@example.com", "role": "viewer"}).json()[
            "token"
        ]
        accepted = httpx.post(f"{origin}/console/api/invitations/accept", headers={"origin": origin},
                              json={"token": token, "name": "V", "password": password})  # fmt: skip
        assert accepted.status_code == 201, accepted.text
        owner, viewer = _signed_in(origin, "o@example.com", password), _Account(origin, accepted.cookies)
        other = _other_tenant(owner_client, origin)
        gone = _signed_in(origin, "o@example.com", password)
        gone.client.delete("/console/api/session", headers={"origin": origin})
        gone.client.cookies = httpx.Cookies(
            {"modelyard-session": owner.client.cookies.get("modelyard-session", "")[:-4] + "AAAA"}
        )
        nobody = _Account(origin, httpx.Cookies())
        for account in (owner, viewer, other, gone, nobody):
            stack.callback(account.client.close)
        people = {"the owner, rightly": owner, "a viewer": viewer, "another tenant": other, "an ended session": gone}
        for verb, shape in operations():
            for name, expected, status in _tried(verb, shape, _filled(shape, ids), {**people, "no session": nobody}):
                counts[name] += 1
                if not expected(status):
                    wrong.append(f"{name}: {verb} {shape} answered {status}")
    return counts, wrong


def _tried(
    verb: str, shape: str, path: str, people: dict[str, _Account]
) -> Iterator[tuple[str, Callable[[int], bool], int]]:
    """(case, whether a status is as it should be, the status) of everybody who may try a route."""
    owner = people["the owner, rightly"]
    origin = str(owner.client.base_url).rstrip("/")
    changes = verb != "GET"
    if not changes and shape not in _STREAMS:  # rightly asked, each answers: refusals mean something
        yield "the owner, rightly", lambda status: status not in (401, 403, 500), owner.call(verb, path)
    for name in ("no session", "an ended session"):
        yield name, lambda status: status == 401, people[name].call(verb, path, origin=origin)
    if changes:
        yield "another site", lambda status: status == 403, owner.call(verb, path, origin="https://evil.example")
        yield "no origin", lambda status: status == 403, owner.call(verb, path)
    own = shape in ("/console/api/account", "/console/api/sessions/{id}")
    if (changes or "/settings" in shape or "/plugins" in shape or shape.endswith("/accounts")) and not own:
        status = people["a viewer"].call(verb, path, origin=origin)
        yield "a viewer", lambda status: status in (401, 403, 404), status
    if "{" in shape and not _is_nobodys(shape):
        yield "another tenant", lambda status: status >= 400, people["another tenant"].call(verb, path)


def _is_nobodys(shape: str) -> bool:
    """What is the same for every tenant: the catalogue's providers."""
    return shape.startswith("/admin/v1/providers/")


def _filled(shape: str, ids: dict[str, str]) -> str:
    kind = shape.removeprefix("/admin/v1/").partition("/")[0]
    return (
        shape.replace("{id}", ids.get(kind, "nobody"))
        .replace("{key}", "nobody")
        .replace("{conversation}", "nobody")
        .replace("{annotation}", "nobody")
        .replace("{evaluation}", "nobody")
    )


def _things(client: httpx.Client) -> dict[str, str]:
    """Something of each kind, of the default tenant: kind → id."""
    model = {"provider": "", "name": "default", "mode": "chat"}
    about = {"app": {"name": "a", "mode": "chat"}, "kind": "app", "version": "0.3.0"}
    app = {"file": json.dumps({**about, "model_config": {"model": model}})}
    bodies: dict[str, Any] = {
        "keys": {"name": "k"}, "users": {"name": "u"}, "limits": {"name": "l", "unit": "requests", "amount": 1e6},
        "routes": {"name": "r", "targets": [{"model": "openai/gpt-4o"}]}, "apps": app,
        "credentials": {"name": "c", "provider": "openai", "values": {"api_key": "sk-x"}},
    }  # fmt: skip
    found: dict[str, str] = {"providers": "openai", "weights": "smollm2-135m", "tenants": "default"}
    for kind, body in bodies.items():
        answered = client.post(f"/admin/v1/{kind}", json=body)
        assert answered.status_code == 201, answered.text
        found[kind] = answered.json()["id"]
    return found


def _other_tenant(client: httpx.Client, origin: str) -> _Account:
    """Its admin, by a key: accounts of the console belong to one tenant as keys do."""
    assert client.post("/admin/v1/tenants", json={"name": "other"}).status_code == 201
    made = client.post("/admin/v1/keys?tenant=other", json={"name": "theirs", "role": "owner"})
    assert made.status_code == 201, made.text
    found = _Account(origin, httpx.Cookies())
    found.client.headers["authorization"] = f"Bearer {made.json()['key']}"
    return found


def race(home: Path, racers: int = 50) -> tuple[int, int]:
    """(owners made, refusals) of so many first sign-ups at once."""
    with server("", home=home) as served:

        def sign_up(number: int) -> int:
            body = {"email": f"p{number}@example.com", "name": "p", "password": "correct horse battery"}
            return httpx.post(
                f"{served.origin}/console/api/setup", json=body, headers={"origin": served.origin}, timeout=120
            ).status_code

        with ThreadPoolExecutor(racers) as pool:
            statuses = list(pool.map(sign_up, range(racers)))
    return statuses.count(201), sum(one in (409, 401, 403) for one in statuses)


def prove() -> Proof:
    build()
    proof = Proof()
    pages, ran = 0, 0
    with browser() as made:
        for at in range(0, len(CORPUS), 3):
            said = " ".join(CORPUS[at : at + 3])
            count, wrong = scripts(made, said)
            pages, ran = pages + count, ran + len(wrong)
            proof.line(
                f"scripts {at + 1} to {min(at + 3, len(CORPUS))} in every field, {count} pages",
                lines_of(wrong[:4]) or "0 ran",
                not wrong,
            )
    with world() as there:
        wrong = policy(there)
        proof.line("the policy of every page", lines_of(wrong[:4]) or "holds", not wrong)
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = matrix(Path(folder) / "home")
        for name, count in counts.items():
            mine = [one for one in wrong if one.startswith(f"{name}:")]
            proof.line(f"every route, {name}", lines_of(mine[:4]) or f"{count} as it should be", not mine)
    with tempfile.TemporaryDirectory() as folder:
        owners, refused = race(Path(folder) / "home")
        proof.line("50 first sign-ups at once", f"{owners} owner, {refused} refused", (owners, refused) == (1, 49))
    proof.figures = {
        "scripts": len(CORPUS),
        "pages": pages,
        "ran": ran,
        "routes": sum(counts.values()),
        "owners": owners,
    }
    return proof
