"""Proxies that let nobody in without a token: started with the key, and made to show, before anything is measured,
that they do all of what they are compared for."""

import json

from . import proxies, tokens
from .machine import Fatal

ALLOWED_ORIGIN = "https://app.example.com"
# Of the lines: the last ones may not have been written yet.
LEAST_LOGGED = 0.8
# Of the requests that go to the candidate: 0.10, and what chance may make of it in a second.
LEAST_SHARE, MOST_SHARE = 0.05, 0.15


def headers(key):
    """What every request of the load brings."""
    return {"Authorization": f"Bearer {tokens.token(key)}", "Origin": ALLOWED_ORIGIN}


def start(name, core, origin_port, binaries, *, key, headers):
    values = {"issuer": tokens.ISSUER, "audience": tokens.AUDIENCE, "allowed_origin": ALLOWED_ORIGIN}
    if isinstance(key, tokens.Hs256):
        values |= {"secret": key.secret, "jwks": key.jwks()}
    else:
        values |= {"public_key": key.public_key}
    return proxies.start(name, core, origin_port, binaries, headers=headers, values=values)


def check_refusals(proxy, key):
    """Whoever brings no token, or a wrong one, must not get through."""
    wrong = {what: f"Bearer {token}" for what, token in tokens.forgeries(key).items()}
    for what, credentials in {"no token": None, **wrong}.items():
        answer = proxies.fetch(proxy.port, headers={"Authorization": credentials} if credentials else {})
        # It does not show who somebody is: 401. Some hold that a token for others does, and is not enough: 403.
        right = (401, 403) if what in ("another issuer", "another audience") else (401,)
        if answer.status not in right or proxies.BODY in answer.body:
            raise Fatal(f"{proxy.name} answered {answer.status} to {what}")


def check_answer(proxy):
    """The good request's answer: the page may read it, and it can be found in the log."""
    first, second = (proxies.fetch(proxy.port, headers=proxy.headers) for _ in range(2))
    if (first.status, first.body) != (200, proxies.BODY):
        raise Fatal(f"{proxy.name} answered {first.status} to a good token")
    if first.headers["access-control-allow-origin"] != ALLOWED_ORIGIN:
        raise Fatal(f"{proxy.name} does not let {ALLOWED_ORIGIN} read its answer")
    if "origin" not in (first.headers["vary"] or "").lower():
        raise Fatal(f"{proxy.name} does not say that its answer is for one origin only")
    ids = [answer.headers["x-request-id"] for answer in (first, second)]
    if not all(ids) or ids[0] == ids[1]:
        raise Fatal(f"{proxy.name} does not give each request an identifier, but {ids}")


def check_preflight(proxy):
    """It brings no token, as browsers do not, and the proxy answers it."""
    asks = {"Origin": ALLOWED_ORIGIN, "Access-Control-Request-Method": "POST"}
    answer = proxies.fetch(proxy.port, method="OPTIONS", headers=asks)
    allowed = answer.headers["access-control-allow-origin"]
    if answer.status not in (200, 204) or allowed != ALLOWED_ORIGIN:
        raise Fatal(f"{proxy.name} answered a preflight with {answer.status}, allowing {allowed}")


def check_log(proxy, requests):
    """After a load of so many: a line of JSON for each, and one in ten of them went to the candidate."""
    *lines, _ = proxy.access_log().read_text().split("\n")
    try:
        # HAProxy's has what it says at its start as well.
        entries = [json.loads(line) for line in lines if line.startswith("{")]
    except ValueError as error:
        raise Fatal(f"{proxy.name} writes lines that are not JSON: {error}") from None
    served = [entry for entry in entries if str(entry["status"]) == "200"]
    if len(served) < LEAST_LOGGED * requests or not all(entry["request_id"] for entry in served):
        raise Fatal(f"{proxy.name} logged {len(served)} of {requests} requests (see {proxy.access_log()})")
    share = sum(entry["upstream"] == "candidate" for entry in served) / len(served)
    if not LEAST_SHARE <= share <= MOST_SHARE:
        raise Fatal(f"{proxy.name} sent {share:.1%} of the requests to the candidate")
