"""The proxies under test: nginx, HAProxy and Envoy; Fairway is in fairway.py."""
import os
import re
import shutil
import subprocess

import policies
from processes import PROXY_CPU, ROOT, stop, wait_port

ENVOY = shutil.which("envoy") or f"{ROOT}/target/python/bin/envoy"


class Peer:
    """A proxy under test: its process and its ports."""

    def __init__(self, name, plain, tls, h2c, argv, tcp=None, policies=None):
        self.name, self.plain, self.tls, self.h2c, self.argv = name, plain, tls, h2c, argv
        # Where it passes bytes on, and where it has all policies on, if it does.
        self.tcp, self.policies = tcp, policies
        self.process = None

    def start(self):
        self.process = subprocess.Popen(["taskset", "-c", PROXY_CPU, *self.argv],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait()

    def wait(self):
        for port in {self.plain, self.tls, self.h2c, self.tcp, self.policies} - {None}:
            wait_port(port)

    def stop(self):
        stop(self.process)


def fill(name, folder):
    with open(f"{ROOT}/bench/peers/{name}") as f:
        text = f.read().replace("@DIR@", folder)
    path = f"{folder}/{name}"
    with open(path, "w") as f:
        f.write(text)
    return path


def peers(folder, wanted):
    found = []
    if "nginx" in wanted and shutil.which("nginx"):
        found.append(Peer("nginx", 19101, 19111, 19121, ["nginx", "-g", "daemon off;", "-c", fill("nginx.conf", folder)]))
    if "haproxy" in wanted and shutil.which("haproxy"):
        found.append(Peer("haproxy", 19102, 19112, 19122, ["haproxy", "-db", "-f", fill("haproxy.cfg", folder)],
                          tcp=19132))
    if "envoy" in wanted and os.access(ENVOY, os.X_OK):
        found.append(Peer("envoy", 19103, 19113, 19103, envoy_argv(fill("envoy.yaml", folder)), policies=policies.ENVOY))
    return found


def envoy_argv(config, workers=1):
    return [ENVOY, "-c", config, "--concurrency", str(workers), "--log-level", "error", "--disable-hot-restart"]


def versions():
    out = []
    for argv, pattern in ((["nginx", "-v"], r"nginx/([\d.]+)"), (["haproxy", "-v"], r"version ([\d.]+)"),
                          ([ENVOY, "--version"], r"/([\d.]+)/")):
        try:
            done = subprocess.run(argv, capture_output=True, text=True)
            out.append(f"{os.path.basename(argv[0])} {re.search(pattern, done.stdout + done.stderr)[1]}")
        except (OSError, TypeError):
            pass
    return ", ".join(out)
