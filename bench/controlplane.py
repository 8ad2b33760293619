"""The control plane under test, and calls to it."""
import http.client
import json
import os
import subprocess
import sys
import time

from processes import ROOT, stop, wait_port

ADMIN, PUSH = 19290, 19292
TOKEN = "token-of-the-benchmark"
CHANGES = "/api/fairway/v1/changes?fieldManager=bench&force=true"
# Objects in one change while the mesh is loaded.
AT_ONCE = 500


class ControlPlane:
    def __init__(self, folder):
        self.folder = f"{folder}/data"
        self.log = open(f"{folder}/control-plane.log", "w")
        self.binary = os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{ROOT}/target"), "release", "fairway")
        self.process = None

    def start(self):
        env = dict(os.environ, FAIRWAY_ADMIN_TOKEN=TOKEN)
        self.process = subprocess.Popen(
            [self.binary, "serve", "--data-dir", self.folder, "--admin-addr", f"127.0.0.1:{ADMIN}",
             "--admin-tls-addr", "127.0.0.1:0", "--push-addr", f"127.0.0.1:{PUSH}", "--proxy-admin-addr", "127.0.0.1:0",
             "--metrics-addr", "127.0.0.1:0", "--gateway-bind", "127.0.0.1", "--access-log", "off"],
            env=env, stdout=self.log, stderr=self.log)
        wait_port(ADMIN)
        wait_port(PUSH)
        self.client = Client()

    def load(self, resources):
        batch = []
        for resource in resources:
            batch.append(resource)
            if len(batch) == AT_ONCE:
                self.client.apply(*batch)
                batch = []
        if batch:
            self.client.apply(*batch)

    def join_tokens(self, namespaces):
        new = lambda ns: self.client.call("POST", "/api/fairway/v1/join-tokens", {"namespace": ns, "ttl": "24h"})["token"]
        return {namespace: new(namespace) for namespace in namespaces}

    def stop(self):
        stop(self.process)


class Client:
    """One connection that is kept while it is used. Not for several threads."""

    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=120)
        self.used = 0

    def call(self, method, path, body=None):
        # The control plane hangs up on who is silent for long; the next request opens another.
        if time.monotonic() - self.used > 5:
            self.connection.close()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        self.used = time.monotonic()
        if answer.status >= 300:
            sys.exit(f"bench: {method} {path}: {answer.status} {text.decode()}")
        return json.loads(text)

    def apply(self, *objects):
        """Answers the revision and the nanosecond of the monotonic clock at which the answer was there."""
        changes = [{"op": "apply", "object": it} for it in objects]
        revision = self.call("POST", CHANGES, {"allowDangling": True, "changes": changes})["revision"]
        return revision, time.monotonic_ns()
