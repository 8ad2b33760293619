"""Processes under test: starting and stopping them, their CPU time and their memory."""
import collections
import os
import re
import signal
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOAD_CPU, PROXY_CPU = "0", "1"


def sh(*words, **kw):
    return subprocess.run(words, check=True, capture_output=True, text=True, **kw).stdout


def wait_port(port, deadline=20):
    end = time.time() + deadline
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"bench: nothing listens on port {port}")


def tree(pid):
    """A process and its descendants."""
    children = collections.defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as f:
                    children[int(f.read().rsplit(")", 1)[1].split()[1])].append(int(entry))
            except OSError:
                pass
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children[pid]
    return found


def cpu_seconds(pid):
    """Of all threads that live, by the scheduler's clock: the ticks of /proc/*/stat are too coarse for a second."""
    total = 0
    for p in tree(pid):
        for thread in os.listdir(f"/proc/{p}/task"):
            with open(f"/proc/{p}/task/{thread}/schedstat") as f:
                total += int(f.read().split()[0])
    return total / 1e9


def settle(pid, deadline=30):
    """Waits until a process rests: after a change it still writes its table down and frees the one before."""
    end = time.time() + deadline
    while time.time() < end:
        before = cpu_seconds(pid)
        time.sleep(0.5)
        if cpu_seconds(pid) - before < 0.02:
            return
    sys.exit("bench: the proxy does not come to rest")


def rss_mib(pid):
    total = 0
    for p in tree(pid):
        with open(f"/proc/{p}/status") as f:
            total += int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])
    return total / 1024


def stop(process):
    if process and process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
