"""JSON Web Tokens as clients bring them, and such as a proxy must refuse: made with Python and `openssl` alone."""

import base64
import hashlib
import hmac
import json
import secrets
import subprocess
import time

from . import tools
from .machine import Fatal

ISSUER, AUDIENCE = "https://auth.example.com", "api.example.com"
LIFETIME_SECONDS = 24 * 3600


class Hs256:
    """A secret shared with the proxy, another one with each run."""

    algorithm = "HS256"

    def __init__(self):
        self.secret = secrets.token_hex(32)

    def sign(self, text):
        return hmac.digest(self.secret.encode(), text, hashlib.sha256)

    def jwks(self):
        key = {"kty": "oct", "alg": self.algorithm, "use": "sig", "k": _base64url(self.secret.encode())}
        return json.dumps({"keys": [key]})


class Rs256:
    """A key pair of which the proxy reads the public half."""

    algorithm = "RS256"

    def __init__(self):
        self.private_key, self.public_key = tools.WORK / "jwt.key", tools.WORK / "jwt.pub"
        options = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
        _openssl("genpkey", *options, "-out", self.private_key)
        _openssl("pkey", "-in", self.private_key, "-pubout", "-out", self.public_key)

    def sign(self, text):
        return _openssl("dgst", "-sha256", "-sign", self.private_key, text=text)


def token(key, **changes):
    """A good token of `key`, valid for longer than any run, but for `changes` to its claims; None removes one."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user-4711",
        "scope": "read write",
        "iat": now,
        "exp": now + LIFETIME_SECONDS,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    header = {"alg": key.algorithm, "typ": "JWT"}
    signed = f"{_part(header)}.{_part(claims)}"
    return f"{signed}.{_base64url(key.sign(signed.encode()))}"


def forgeries(key):
    """What is wrong -> a token that must not get in."""
    good = token(key)
    head, claims, signature = good.split(".")
    # Its first character: the last one has bits that decoders may ignore.
    other = "A" if signature[0] != "A" else "B"
    unsigned = _part({"alg": "none", "typ": "JWT"})
    return {
        "a bad signature": f"{head}.{claims}.{other}{signature[1:]}",
        "no signature": f"{unsigned}.{claims}.",
        "another issuer": token(key, iss="https://elsewhere.example.com"),
        "another audience": token(key, aud="www.example.com"),
        "an expired token": token(key, exp=int(time.time()) - 3600),
        "a token without end": token(key, exp=None),
    }


def _part(fields):
    return _base64url(json.dumps(fields, separators=(",", ":")).encode())


def _base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _openssl(*argv, text=b""):
    done = subprocess.run([tools.find("openssl"), *map(str, argv)], input=text, capture_output=True)
    if done.returncode != 0:
        raise Fatal(f"`openssl {argv[0]}` failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
