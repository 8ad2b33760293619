"""Fairway under test: the control plane, the resources, the gateway."""
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import policies
from load import merged
from processes import LOAD_CPU, PROXY_CPU, ROOT, settle, stop, wait_port
from proxies import Peer

TOKEN = "token-of-the-benchmark"
ROUTES = 10_000
ROUTE = [{"destination": {"host": "upstream.bench", "port": {"number": 80}}}]


class Fairway(Peer):
    """`fairway admin` beside the load, and `fairway-gateway` on the proxy's CPU."""

    def __init__(self, folder):
        self.folder = f"{folder}/fairway"
        os.makedirs(self.folder, exist_ok=True)
        self.binaries = os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{ROOT}/target"), "release")
        super().__init__("fairway", 19104, 19114, 19104, [], tcp=19134, policies=policies.FAIRWAY)
        self.metrics = 19195
        self.admin = None

    def call(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:19190{path}", method=method,
                                         data=json.dumps(body).encode() if body is not None else None)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            sys.exit(f"bench: {method} {path}: {error.code} {error.read().decode()}")

    def start_control_plane(self):
        env = dict(os.environ, FAIRWAY_ADMIN_TOKEN=TOKEN)
        self.log = open(f"{self.folder}/admin.log", "w")
        self.admin = subprocess.Popen(
            ["taskset", "-c", LOAD_CPU, f"{self.binaries}/fairway", "admin", "--data-dir", f"{self.folder}/admin",
             "--admin-addr", "127.0.0.1:19190", "--admin-tls-addr", "127.0.0.1:19191", "--push-addr", "127.0.0.1:19192"],
            env=env, stdout=self.log, stderr=self.log)
        wait_port(19190)
        wait_port(19192)
        token = self.call("POST", "/api/fairway/v1/join-tokens", {"namespace": "istio-system", "ttl": "24h"})["token"]
        with open(f"{self.folder}/join.token", "w") as f:
            f.write(token)

    def change(self, changes):
        path = "/api/fairway/v1/changes?fieldManager=bench&force=true"
        revision = self.call("POST", path, {"allowDangling": True, "changes": changes})["revision"]
        if self.process and self.process.poll() is None:
            self.call("GET", f"/api/fairway/v1/revisions/{revision}/applied?timeout=60s")

    def base(self, issuer):
        with open(f"{self.folder}/../server.crt") as f:
            crt = f.read()
        with open(f"{self.folder}/../server.key") as f:
            key = f.read()
        net = "networking.istio.io/v1"
        return [
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
             "metadata": {"name": "bench", "namespace": "istio-system"}, "stringData": {"tls.crt": crt, "tls.key": key}},
            {"apiVersion": net, "kind": "Gateway", "metadata": {"name": "bench"}, "spec": {
                "selector": {"istio": "ingressgateway"}, "servers": [
                    {"port": {"number": 19104, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
                    {"port": {"number": 19114, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"],
                     "tls": {"mode": "SIMPLE", "credentialName": "bench"}},
                    {"port": {"number": 19134, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}]}},
            {"apiVersion": net, "kind": "VirtualService", "metadata": {"name": "bytes"}, "spec": {
                "hosts": ["*"], "gateways": ["bench"], "tcp": [{
                    "match": [{"port": 19134}], "route": ROUTE}]}},
            {"apiVersion": net, "kind": "ServiceEntry", "metadata": {"name": "upstream"}, "spec": {
                "hosts": ["upstream.bench"], "resolution": "STATIC", "location": "MESH_INTERNAL",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "endpoints": [{"address": "127.0.0.1", "ports": {"http": 19000}}]}},
            self.routes(1),
            *policies.resources(issuer, ROUTE)]

    def routes(self, count):
        """One rule that takes everything, or that one behind so many others."""
        rules = [{"match": [{"uri": {"prefix": f"/r/{i}/"}}], "route": ROUTE} for i in range(count - 1)]
        rules.append({"route": ROUTE})
        return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "bench"},
                "spec": {"hosts": ["*"], "gateways": ["bench"], "http": rules}}

    def apply(self, *objects):
        self.change([{"op": "apply", "object": o} for o in objects])

    def start(self):
        env = dict(os.environ)
        binary, *command = env.get("FAIRWAY_BENCH_GATEWAY", "fairway-gateway").split()
        self.process = subprocess.Popen(
            ["taskset", "-c", PROXY_CPU, f"{self.binaries}/{binary}", *command, "--control-plane", "https://127.0.0.1:19192",
             "--control-plane-ca", f"{self.folder}/admin/ca.crt", "--join-token-file", f"{self.folder}/join.token",
             "--data-dir", f"{self.folder}/gateway", "--gateway-workers", "1", "--gateway-bind", "127.0.0.1",
             "--access-log", "off", "--proxy-admin-addr", "127.0.0.1:19194", "--metrics-addr", f"127.0.0.1:{self.metrics}"],
            env=env, stdout=open(f"{self.folder}/gateway.log", "w"), stderr=subprocess.STDOUT)
        self.wait()

    def with_routes(self, work):
        """Two runs with many routes."""
        self.apply(self.routes(ROUTES))
        settle(self.process.pid)
        figure = merged(work(self), work(self))
        self.apply(self.routes(1))
        settle(self.process.pid)
        return figure

    def stop_control_plane(self):
        stop(self.admin)
