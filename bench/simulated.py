"""The process that plays the sidecars (bench/mesh)."""
import json
import os
import subprocess
import sys
import time

from controlplane import PUSH
from processes import ROOT, stop


class Sidecars:
    def __init__(self, plane, mesh, count, folder):
        self.count = count
        tokens = f"{folder}/join-tokens.json"
        with open(tokens, "w") as f:
            json.dump(plane.join_tokens(mesh.namespaces), f)
        binary = os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{ROOT}/target"), "release", "simulated-mesh")
        self.process = subprocess.Popen(
            [binary, "--control-plane", f"https://127.0.0.1:{PUSH}", "--control-plane-ca", f"{plane.folder}/ca.crt",
             "--join-tokens", tokens, "--sidecars", str(count // len(mesh.namespaces)), "--services", str(mesh.services)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do, **more):
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench: the simulated sidecars ended at `{do}`")
        return json.loads(line)

    def acked(self, revision, seconds):
        """When each of them acknowledged a revision, in nanoseconds of the monotonic clock; all of them must."""
        acked = self.ask("await", revision=revision, seconds=seconds)["acked"]
        if len(acked) < self.count:
            counts = self.ask("counts")
            sys.exit(f"bench: {self.count - len(acked)} sidecars did not acknowledge revision {revision} "
                     f"within {seconds} s: {counts}")
        return acked

    def until_connected(self, seconds):
        end = time.monotonic() + seconds
        while (counts := self.ask("counts"))["connected"] < self.count or counts["oldest"] == 0:
            if time.monotonic() > end:
                sys.exit(f"bench: the sidecars are not all connected within {seconds} s: {counts}")
            time.sleep(0.05)
        return counts

    def stop(self):
        stop(self.process)
