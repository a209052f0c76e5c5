"""Security checks of the console: script injection in every displayed field,
Content-Security-Policy, and access control of every route."""

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
from tools.show.console_access import open_page
from tools.show.console_world import World, world
from tools.show.proof import ROOT, Proof

# Each payload sets `window.hit` to its own number if it runs.
CORPUS = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=2>',
    "'><svg/onload=window.hit=3>",
    "<iframe srcdoc='<script>parent.hit=4</script>'></iframe>",
    "[a](javascript:window.hit=5)",
    '![a](x" onerror="window.hit=6)',
    '<a href="javascript:window.hit=7" autofocus onfocus=window.hit=8>a</a>',
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
)
_INJECTED_SELECTOR = (
    "script:not([src]), iframe, object, embed, form[action^=javascript], img[src=x], math, [onerror], [onload], "
    "[onfocus], [ontoggle], a[href^=javascript]"
)
_INJECTED = f"() => [...document.querySelectorAll('{_INJECTED_SELECTOR}')].map(one => one.outerHTML.slice(0, 120))"
# An event stream never ends, so the owner's request to it is skipped.
_STREAMS = ("/admin/v1/live",)
_ADMIN = ROOT / "docs" / "reference" / "openapi" / "admin.json"
"""The OpenAPI description of the admin API. A test checks that it matches the served
routes."""


def hostile_plugin(folder: Path, payload: str) -> Path:
    """Copy the example plugin to `folder`, with `payload` in its label and description
    and a script in its icon."""
    source, target_folder = (
        ROOT / "examples" / "plugins" / "toolbox",
        folder / "toolbox",
    )
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = target_folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    manifest = yaml.safe_load((target_folder / "manifest.yaml").read_text("utf-8"))
    manifest["label"] = {"en_US": f"Tools {payload}"[:200]}
    manifest["description"] = {"en_US": f"Tools {payload}"[:200]}
    (target_folder / "manifest.yaml").write_text(
        yaml.safe_dump(manifest, allow_unicode=True), "utf-8"
    )
    # SVG is a script carrier too: the icon tries to run code in the parent page.
    icon = target_folder / "_assets" / str(manifest.get("icon") or "icon.svg")
    icon.parent.mkdir(exist_ok=True)
    icon.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" onload="parent.hit=20"><script>parent.hit=21</script></svg>',
        "utf-8",
    )
    return target_folder


def find_executed_scripts(browser_instance: Any, payload: str) -> tuple[int, list[str]]:
    """Return the number of pages visited, and every script that ran or was injected
    into a page."""
    problems: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        world(payload, plugin=hostile_plugin(Path(folder), payload)) as console_world,
    ):
        with person(browser_instance, console_world.served.origin) as user:
            # A script may also show itself by opening a dialog, which would block the
            # page until dismissed.
            user.page.on(
                "dialog",
                lambda dialog: (user.problems.append("a dialog"), dialog.dismiss()),
            )
            for path in console_world.paths():
                open_page(user, path)
                # Open collapsed sections, so that their content is rendered too.
                for button in user.page.locator("main summary").all()[:6]:
                    button.click()
                hit = user.page.evaluate("window.hit")
                if hit is not None:
                    problems.append(f"{path}: script {hit} ran")
                problems += [
                    f"{path}: {html}" for html in user.page.evaluate(_INJECTED)
                ]
            # The browser may refuse the hostile icon, which is correct.
            problems += [
                f"browser: {text}" for text in user.problems if "icon" not in text
            ]
            problems += [f"asked for {url}" for url in user.foreign_urls]
        return len(console_world.paths()), problems


def check_security_headers(console_world: World) -> list[str]:
    """Return the problems in the security headers of the console's pages."""
    problems: list[str] = []
    for path in (
        "/console",
        *(f"/console{page_path}" for page_path in console_world.paths()[1:6]),
        "/docs/admin",
    ):
        headers = httpx.get(f"{console_world.served.origin}{path}").headers
        csp = headers.get("content-security-policy", "")
        if (
            "default-src 'none'" not in csp
            or "unsafe" in csp
            or "frame-ancestors 'none'" not in csp
        ):
            problems.append(f"{path}: {csp or 'no policy'}")
        if headers.get("x-content-type-options") != "nosniff":
            problems.append(f"{path}: no nosniff")
    return problems


def operations() -> Iterator[tuple[str, str]]:
    """Yield (method, path template) for every operation of the admin API and the
    console's own API."""
    for path, verbs in json.loads(_ADMIN.read_text("utf-8"))["paths"].items():
        for verb in verbs:
            yield verb.upper(), path
    for verb, path in (
        ("GET", "sessions"),
        ("DELETE", "sessions/{id}"),
        ("PATCH", "account"),
        ("GET", "accounts"),
        ("PATCH", "accounts/{id}"),
        ("POST", "invitations"),
        ("GET", "audit"),
    ):
        yield verb, f"/console/api/{path}"


class _Account:
    """HTTP client with the session of one account."""

    def __init__(self, origin: str, cookies: httpx.Cookies) -> None:
        self.client = httpx.Client(base_url=origin, cookies=cookies, timeout=30)

    def call(self, verb: str, path: str, **headers: str) -> int:
        """Send a request with an empty JSON object as body and return the status code.
        The response body is not read."""
        with self.client.stream(
            verb,
            path,
            headers={"content-type": "application/json", **headers},
            # An empty object is enough: access is checked before the body.
            content=b"{}" if verb != "GET" else None,
        ) as answer:
            return answer.status_code


def _signed_in(origin: str, email: str, password: str) -> _Account:
    answered = httpx.post(
        f"{origin}/console/api/session",
        json={"email": email, "password": password},
        headers={"origin": origin},
    )
    assert answered.status_code == 200, answered.text
    return _Account(origin, answered.cookies)


def check_access_matrix(home: Path) -> tuple[dict[str, int], list[str]]:
    """Call every route without a session, from a foreign origin, as a viewer, as
    another tenant and with an expired session.

    Returns the number of checks per case, and the checks that failed.
    """
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
    problems: list[str] = []
    with ExitStack() as stack:
        origin = stack.enter_context(server("", home=home)).origin
        owner_client = stack.enter_context(
            httpx.Client(base_url=origin, headers={"origin": origin}, timeout=30)
        )
        owner = {"email": "o@example.com", "name": "O", "password": _PASSWORD}
        setup_response = owner_client.post("/console/api/setup", json=owner)
        assert setup_response.status_code == 201, setup_response.text
        ids = _create_resources(owner_client)
        accounts = _accounts(owner_client, origin)
        for account in accounts.values():
            stack.callback(account.client.close)
        for verb, shape in operations():
            for name, expected, status in _try_route(
                verb, shape, _fill_path(shape, ids), accounts
            ):
                counts[name] += 1
                if not expected(status):
                    problems.append(f"{name}: {verb} {shape} answered {status}")
    return counts, problems


_PASSWORD = "correct horse battery"


def _accounts(owner_client: httpx.Client, origin: str) -> dict[str, _Account]:
    """Return a caller for each case that has its own session, and one without."""
    # An invited viewer has fewer rights than the owner, in the same tenant.
    viewer = {"email": "v@example.com", "role": "viewer"}
    invited = owner_client.post("/console/api/invitations", json=viewer)
    accepted = httpx.post(
        f"{origin}/console/api/invitations/accept",
        headers={"origin": origin},
        json={"token": invited.json()["token"], "name": "V", "password": _PASSWORD},
    )
    assert accepted.status_code == 201, accepted.text
    owner = _signed_in(origin, "o@example.com", _PASSWORD)
    return {
        "the owner, rightly": owner,
        "a viewer": _Account(origin, accepted.cookies),
        "another tenant": _create_other_tenant(owner_client, origin),
        "an ended session": _signed_out(origin, owner),
        "no session": _Account(origin, httpx.Cookies()),
    }


def _signed_out(origin: str, owner: _Account) -> _Account:
    """Return an account that has signed out, with a forged session token: the owner's
    with its last four characters replaced."""
    account = _signed_in(origin, "o@example.com", _PASSWORD)
    account.client.delete("/console/api/session", headers={"origin": origin})
    token = owner.client.cookies.get("modelyard-session", "")
    account.client.cookies = httpx.Cookies({"modelyard-session": f"{token[:-4]}AAAA"})
    return account


def _try_route(
    verb: str, shape: str, path: str, people: dict[str, _Account]
) -> Iterator[tuple[str, Callable[[int], bool], int]]:
    """Yield (case, predicate that accepts the correct status, received status) for
    every account that may try the route."""
    owner = people["the owner, rightly"]
    origin = str(owner.client.base_url).rstrip("/")
    changes = verb != "GET"
    if (
        not changes and shape not in _STREAMS
    ):  # rightly asked, each answers: refusals mean something
        yield (
            "the owner, rightly",
            lambda status: status not in (401, 403, 500),
            owner.call(verb, path),
        )
    # Without a valid session every route must answer 401.
    for name in ("no session", "an ended session"):
        yield (
            name,
            lambda status: status == 401,
            people[name].call(verb, path, origin=origin),
        )
    # Changes also need an Origin header that matches, as protection against CSRF.
    if changes:
        yield (
            "another site",
            lambda status: status == 403,
            owner.call(verb, path, origin="https://evil.example"),
        )
        yield "no origin", lambda status: status == 403, owner.call(verb, path)
    # Every account may read and change its own account and sessions.
    is_own_resource = shape in ("/console/api/account", "/console/api/sessions/{id}")
    if (
        changes
        or "/settings" in shape
        or "/plugins" in shape
        or shape.endswith("/accounts")
    ) and not is_own_resource:
        status = people["a viewer"].call(verb, path, origin=origin)
        yield "a viewer", lambda status: status in (401, 403, 404), status
    # Routes with an id must not give another tenant access to a foreign resource.
    if "{" in shape and not _is_shared_by_tenants(shape):
        yield (
            "another tenant",
            lambda status: status >= 400,
            people["another tenant"].call(verb, path),
        )


def _is_shared_by_tenants(shape: str) -> bool:
    """Return whether a route shows the provider catalogue, which is the same for all
    tenants."""
    return shape.startswith("/admin/v1/providers/")


def _fill_path(shape: str, ids: dict[str, str]) -> str:
    collection = shape.removeprefix("/admin/v1/").partition("/")[0]
    path = shape.replace("{id}", ids.get(collection, "nobody"))
    for name in ("key", "conversation", "annotation", "evaluation"):
        path = path.replace(f"{{{name}}}", "nobody")
    return path


def _create_resources(client: httpx.Client) -> dict[str, str]:
    """Create one resource of each type in the default tenant. Return resource type →
    id."""
    model = {"provider": "", "name": "default", "mode": "chat"}
    app_header = {
        "app": {"name": "a", "mode": "chat"},
        "kind": "app",
        "version": "0.3.0",
    }
    app = {"file": json.dumps({**app_header, "model_config": {"model": model}})}
    bodies: dict[str, Any] = {
        "keys": {"name": "k"},
        "users": {"name": "u"},
        "limits": {"name": "l", "unit": "requests", "amount": 1e6},
        "routes": {"name": "r", "targets": [{"model": "openai/gpt-4o"}]},
        "apps": app,
        "credentials": {
            "name": "c",
            "provider": "openai",
            "values": {"api_key": "sk-x"},
        },
    }
    ids: dict[str, str] = {
        "providers": "openai",
        "weights": "smollm2-135m",
        "tenants": "default",
    }
    for collection, body in bodies.items():
        answered = client.post(f"/admin/v1/{collection}", json=body)
        assert answered.status_code == 201, answered.text
        ids[collection] = answered.json()["id"]
    return ids


def _create_other_tenant(client: httpx.Client, origin: str) -> _Account:
    """Create a second tenant and return a client for it. It authenticates with an owner
    key instead of a session."""
    assert client.post("/admin/v1/tenants", json={"name": "other"}).status_code == 201
    body = {"name": "theirs", "role": "owner"}
    key_response = client.post("/admin/v1/keys?tenant=other", json=body)
    assert key_response.status_code == 201, key_response.text
    account = _Account(origin, httpx.Cookies())
    account.client.headers["authorization"] = f"Bearer {key_response.json()['key']}"
    return account


def race_first_sign_up(home: Path, racers: int = 50) -> tuple[int, int]:
    """Send `racers` first sign-ups concurrently. Return the number of created owners
    and of refusals."""
    with server("", home=home) as served:
        # All threads start at the same time; exactly one sign-up may succeed.
        def sign_up(number: int) -> int:
            """Try to create the first account and return the status code."""
            body = {
                "email": f"p{number}@example.com",
                "name": "p",
                "password": "correct horse battery",
            }
            return httpx.post(
                f"{served.origin}/console/api/setup",
                json=body,
                headers={"origin": served.origin},
                timeout=120,
            ).status_code

        with ThreadPoolExecutor(racers) as pool:
            statuses = list(pool.map(sign_up, range(racers)))
    return statuses.count(201), sum(status in (409, 401, 403) for status in statuses)


def prove() -> Proof:
    """Run the injection, header, access-control and sign-up race checks."""
    build()
    proof = Proof()
    pages, ran = 0, 0
    with browser() as browser_instance:
        # Three payloads per world keep the number of server starts low.
        for start in range(0, len(CORPUS), 3):
            payload = " ".join(CORPUS[start : start + 3])
            count, problems = find_executed_scripts(browser_instance, payload)
            pages, ran = pages + count, ran + len(problems)
            proof.line(
                f"scripts {start + 1} to {min(start + 3, len(CORPUS))} in every field, {count} pages",
                lines_of(problems[:4]) or "0 ran",
                not problems,
            )
    with world() as console_world:
        problems = check_security_headers(console_world)
        proof.line(
            "content security policy of every page",
            lines_of(problems[:4]) or "holds",
            not problems,
        )
    with tempfile.TemporaryDirectory() as folder:
        counts, problems = check_access_matrix(Path(folder) / "home")
        for name, count in counts.items():
            mine = [problem for problem in problems if problem.startswith(f"{name}:")]
            proof.line(
                f"every route, {name}",
                lines_of(mine[:4]) or f"{count} as it should be",
                not mine,
            )
    with tempfile.TemporaryDirectory() as folder:
        owners, refused = race_first_sign_up(Path(folder) / "home")
        proof.line(
            "50 concurrent set-ups",
            f"{owners} owner, {refused} refused",
            (owners, refused) == (1, 49),
        )
    proof.figures = {
        "scripts": len(CORPUS),
        "pages": pages,
        "ran": ran,
        "routes": sum(counts.values()),
        "owners": owners,
    }
    return proof
