"""The rows with policies: what Fairway is told, what the load sends, and the trial that nobody passes who should not.

Envoy's equal is the listener `policies` of peers/envoy.yaml.
"""
import base64
import json
import subprocess
import sys
import time
import urllib.request

from load import ask
from processes import sh

# Where Envoy and Fairway ask all of it; nothing but these ports knows the policies.
ENVOY, FAIRWAY = 19143, 19144
PATH = "/api/items/1"
ISSUER = "https://issuer.bench"

CLIENTS = 100_000
CLIENTS_HOST = "clients.bench"
# A bucket that was asked once is full again after 864 s, so all of them live for as long as the benchmark runs.
PER_CLIENT = {"requests": 100, "per": "24h", "burst": 2_000}

NET, SECURITY, OWN = "networking.istio.io/v1", "security.istio.io/v1", "fairway.dev/v1"


class Issuer:
    """A key pair in a folder, with the public key in `jwks.json`."""

    def __init__(self, folder):
        self.key, self.jwks = f"{folder}/issuer.pem", f"{folder}/jwks.json"
        sh("openssl", "genrsa", "-out", self.key, "2048")
        modulus = sh("openssl", "rsa", "-in", self.key, "-noout", "-modulus").strip().split("=")[1]
        with open(self.jwks, "w") as f:
            json.dump({"keys": [{"kty": "RSA", "kid": "bench", "alg": "RS256", "use": "sig", "e": "AQAB",
                                 "n": base64url(bytes.fromhex(modulus))}]}, f)

    def token(self, *groups):
        """A token of somebody in these groups, good for a day."""
        claims = {"iss": ISSUER, "aud": "shop", "sub": "ann", "exp": int(time.time()) + 86_400, "groups": groups}
        head = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "bench"}, claims))
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key, "-binary"], input=head.encode(),
                                check=True, capture_output=True).stdout
        return f"{head}.{base64url(signed)}"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def resources(issuer, route):
    """All policies on a Gateway of their own, and the limit for each client on one of two routes that are equal
    otherwise; `route` is where requests go."""
    with open(issuer.jwks) as f:
        jwks = f.read()
    gateway = [{"group": "networking.istio.io", "kind": "Gateway", "name": "policies"}]
    virtual_service = lambda **more: [{"group": "networking.istio.io", "kind": "VirtualService", **more}]
    principal = [{"source": {"requestPrincipals": [f"{ISSUER}/*"]}}]
    groups = lambda *names: [{"key": "request.auth.claims[groups]", "values": list(names)}]
    make = lambda version, kind, name, spec: {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    return [
        make(NET, "Gateway", "policies", {
            "selector": {"istio": "ingressgateway"},
            "servers": [{"port": {"number": FAIRWAY, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}),
        make(NET, "VirtualService", "policies", {"hosts": ["*"], "gateways": ["policies"], "http": [{
            "route": route, "retries": {"attempts": 2, "retryOn": "5xx,connect-failure,refused-stream"}}]}),
        make(SECURITY, "RequestAuthentication", "policies", {"targetRefs": gateway, "jwtRules": [
            {"issuer": ISSUER, "audiences": ["shop"], "jwks": jwks}]}),
        make(SECURITY, "AuthorizationPolicy", "policies-deny", {"targetRefs": gateway, "action": "DENY", "rules": [
            {"to": [{"operation": {"paths": ["/admin", "/admin/*"]}}]},
            {"when": groups("suspended")}]}),
        make(SECURITY, "AuthorizationPolicy", "policies-allow", {"targetRefs": gateway, "action": "ALLOW", "rules": [
            {"from": principal, "to": [{"operation": {"methods": ["GET", "HEAD"], "paths": ["/api/*"]}}],
             "when": groups("staff")},
            {"to": [{"operation": {"methods": ["GET"], "paths": ["/health"]}}]},
            {"to": [{"operation": {"methods": ["POST", "PUT"], "paths": ["/orders/*"]}}], "when": groups("sales")}]}),
        make(OWN, "RateLimitPolicy", "policies", {"targetRefs": virtual_service(name="policies"), "rules": [
            {"name": "per-client", "key": [{"header": "x-api-key"}], "limit": {"requests": 1_000_000, "per": "1s"}},
            {"name": "no-key", "match": [{"withoutHeaders": {"x-api-key": {}}}], "limit": {"requests": 1, "per": "1h"}}]}),
        make(NET, "VirtualService", "clients", {"hosts": [CLIENTS_HOST], "gateways": ["bench"], "http": [
            {"name": "limited", "match": [{"uri": {"prefix": "/limited/"}}], "route": route},
            {"name": "free", "match": [{"uri": {"prefix": "/free/"}}], "route": route}]}),
        make(OWN, "RateLimitPolicy", "clients", {"targetRefs": virtual_service(name="clients", sectionName="limited"),
             "rules": [{"name": "per-client", "key": [{"header": "x-api-key"}], "limit": PER_CLIENT}]}),
    ]


def headers(issuer):
    """What the load sends with each request."""
    return {"Authorization": f"Bearer {issuer.token('staff', 'ops')}", "x-api-key": "key-of-ann"}


def try_out(peer, issuer):
    """Ends the benchmark unless each of the policies turns away whom it should, and nobody else."""
    good = headers(issuer)
    without = lambda name: {key: value for key, value in good.items() if key != name}
    token = lambda text: {**good, "Authorization": f"Bearer {text}"}
    trials = [
        ("a good request", "GET", PATH, good, 200),
        ("one more", "GET", PATH, good, 200),
        ("one without a token where none is needed", "GET", "/health", without("Authorization"), 200),
        ("no token", "GET", PATH, without("Authorization"), 403),
        ("a forged token", "GET", PATH, token(issuer.token("staff")[:-8] + "AAAAAAAA"), 401),
        ("somebody of other groups", "GET", PATH, token(issuer.token("guests")), 403),
        ("somebody who is denied", "GET", PATH, token(issuer.token("staff", "suspended")), 403),
        ("a path that no rule allows", "GET", "/other", good, 403),
        ("a path that is denied", "GET", "/api/../admin", good, 403),
        ("a method that no rule allows", "DELETE", PATH, good, 403),
        ("the first without a key", "GET", PATH, without("x-api-key"), 200),
        ("the second without a key", "GET", PATH, without("x-api-key"), 429),
    ]
    for what, method, path, sent, expected in trials:
        status, _ = ask(peer.policies, path, sent, method)
        if status != expected:
            sys.exit(f"bench: {peer.name} answers {status} to {what} ({method} {path}), not {expected}")


def client_scripts(folder):
    """Scripts for wrk: every client once, one after the other; random clients with the limit; the same without it."""
    number = {"every": "next_client()", "limited": f"math.random(1, {CLIENTS})", "free": f"math.random(1, {CLIENTS})"}
    scripts = {}
    for name, client in number.items():
        path = "/free/x" if name == "free" else "/limited/x"
        scripts[name] = f"{folder}/clients-{name}.lua"
        with open(scripts[name], "w") as f:
            # Seeded, or else each run would ask the same clients again.
            f.write(f"math.randomseed(os.time())\nlocal last = 0\n"
                    f"local function next_client() last = last % {CLIENTS} + 1 return last end\n"
                    f'local head = "GET {path} HTTP/1.1\\r\\nHost: {CLIENTS_HOST}\\r\\nx-api-key: client-"\n'
                    f'request = function() return head .. {client} .. "\\r\\n\\r\\n" end\n')
    return scripts


def all_clients_live(fairway, send):
    """Sends until every client has a bucket, and ends the benchmark unless all then have one that is not full."""
    # Each run begins with the first client: a slow machine gets a longer one.
    if not any(send(seconds) >= CLIENTS for seconds in (3, 10, 60)):
        sys.exit(f"bench: {CLIENTS} requests take longer than a minute")
    for client in (1, CLIENTS // 2, CLIENTS):
        status, said = ask(fairway.plain, "/limited/x", {"Host": CLIENTS_HOST, "x-api-key": f"client-{client}"})
        standing = said.get("ratelimit", "")
        if status != 200 or f";r={PER_CLIENT['burst'] - 1};" in standing or ";r=" not in standing:
            sys.exit(f"bench: client {client} has no bucket yet: {status} {standing}")
    with urllib.request.urlopen(f"http://127.0.0.1:{fairway.metrics}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    if 'fairway_rate_limit_overflow_total{policy="default/clients",rule="per-client"} 0\n' not in metrics:
        sys.exit("bench: not every client has a bucket of its own")
