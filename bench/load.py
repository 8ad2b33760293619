"""The load on a proxy, and the figures it gives."""
import collections
import http.client
import os
import re
import socket
import statistics
import time

from processes import LOAD_CPU, cpu_seconds, rss_mib, sh

CONNECTIONS = 64

# One figure of one proxy in one round.
Figure = collections.namedtuple("Figure", "requests rps cpu_us p50_us p99_us errors")


def wrk(peer, seconds, path="/", port=None, tls=False, script=None, headers=None):
    port = port or (peer.tls if tls else peer.plain)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"
    argv = ["taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    if script:
        argv += ["-s", script]
    for name, value in (headers or {}).items():
        argv += ["-H", f"{name}: {value}"]
    pid = peer.process.pid
    before, start = cpu_seconds(pid), time.time()
    out = sh(*argv, url)
    cpu, took = cpu_seconds(pid) - before, time.time() - start
    requests = int(re.search(r"(\d+) requests in", out)[1])
    errors = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", out)))
    match = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors += int(match[1]) if match else 0
    unit = {"us": 1, "ms": 1e3, "s": 1e6}
    percentile = {p: float(v) * unit[u] for p, v, u in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", out)}
    return Figure(requests, requests / took, 1e6 * cpu / max(requests, 1), percentile.get("50"), percentile.get("99"), errors)


def h2load(peer, seconds, folder, h1=False, clients=8, streams=16, rate=None, path="/"):
    port = peer.plain if h1 else peer.h2c
    log = f"{folder}/h2load.log"
    if os.path.exists(log):
        os.remove(log)
    argv = ["taskset", "-c", LOAD_CPU, "h2load", f"-c{clients}", f"-m{1 if h1 else streams}", f"-D{seconds}", "--warm-up-time=1",
            f"--log-file={log}"] + (["--h1"] if h1 else []) + ([f"--rps={rate / clients:.1f}"] if rate else [])
    pid = peer.process.pid
    before = cpu_seconds(pid)
    out = sh(*argv, f"http://127.0.0.1:{port}{path}")
    cpu = cpu_seconds(pid) - before
    done = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded", out)
    requests = int(done[3])
    micros = []
    with open(log) as f:
        for line in f:
            parts = line.split("\t")
            if len(parts) >= 3 and parts[1] == "200":
                micros.append(int(parts[2]))
    micros.sort()
    at = lambda q: micros[min(len(micros) - 1, int(q * len(micros)))] if micros else None
    # The log holds the warm-up's requests too: the CPU time is of all of them.
    total = max(len(micros), 1)
    return Figure(requests, requests / seconds, 1e6 * cpu / total, at(0.5), at(0.99), int(done[1]) - int(done[2]))


def there_and_back(works, turn=lambda: None):
    """A figure of every work, each from two runs with the others' between them, and `turn` amid them all."""
    there = {name: work() for name, work in works.items()}
    turn()
    back = {name: work() for name, work in reversed(works.items())}
    return {name: merged(figure, back[name]) for name, figure in there.items()}


def ask(port, path, headers, method="GET"):
    """The answer's status and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


def merged(one, two):
    """The figure of two runs of one proxy."""
    requests = one.requests + two.requests
    mean = lambda field: (getattr(one, field) + getattr(two, field)) / 2 if getattr(one, field) is not None else None
    cpu = (one.cpu_us * one.requests + two.cpu_us * two.requests) / max(requests, 1)
    return Figure(requests, mean("rps"), cpu, mean("p50_us"), mean("p99_us"), one.errors + two.errors)


def idle_rss(peer, connections):
    """Resident memory with so many idle keep-alive connections, each of which made one request."""
    held = []
    try:
        for _ in range(connections):
            s = socket.create_connection(("127.0.0.1", peer.plain), 10)
            s.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            held.append(s)
            if len(held) % 500 == 0:
                for done in held[-500:]:
                    done.recv(4096)
        time.sleep(2)
        return rss_mib(peer.process.pid)
    finally:
        for s in held:
            s.close()


def median_ratio(figures, others, field="cpu_us"):
    """Of figures measured in the same rounds: the median of their ratios."""
    ratios = [getattr(f, field) / getattr(o, field) for f, o in zip(figures, others) if getattr(o, field)]
    return statistics.median(ratios) if ratios else None


def median(figures, field):
    values = [getattr(f, field) for f in figures if getattr(f, field) is not None]
    return statistics.median(values) if values else None
