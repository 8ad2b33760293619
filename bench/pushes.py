"""What is done to the control plane and its sidecars, and measured."""
import os
import sys
import threading
import time

from controlplane import Client
from goals import machine, percentile
from mesh import SHARED
from processes import cpu_seconds, rss_mib, settle

# A change is to be everywhere within this, in milliseconds.
ACKNOWLEDGED = 500
KIB_PER_PROXY = 60
PER_SECOND = 50
STORM = 20
# jemalloc gives back what was freed for ten seconds.
DECAY = 13


def shape(sidecars, mesh):
    """What it is measured on."""
    counts = sidecars.ask("counts")
    services = len(mesh.namespaces) * mesh.services
    return [f"Machine: {machine()}. Control plane and sidecars share {len(os.sched_getaffinity(0))} CPUs.",
            f"{sidecars.count} sidecars in {counts['scopes']} scopes of {len(mesh.namespaces)} namespaces, "
            f"{services} services, {services * mesh.endpoints} endpoints."]


def at_rest(plane, sidecars=None):
    settle(plane.process.pid, deadline=120)
    if sidecars:
        settle(sidecars.process.pid, deadline=120)
    time.sleep(DECAY)
    return rss_mib(plane.process.pid)


def idle_memory(plane, sidecars, goals):
    print("memory", file=sys.stderr)
    without = at_rest(plane)
    began, used = time.monotonic(), cpu_seconds(plane.process.pid)
    sidecars.ask("join")
    joined = time.monotonic()
    counts = sidecars.until_connected(300)
    took, used = time.monotonic() - joined, cpu_seconds(plane.process.pid) - used
    goals.note(f"Joining with a token took {joined - began:.1f} s, the first connection with a whole set each "
               f"({counts['bytes'] / sidecars.count / 1e6:.2f} MB) {took:.1f} s; {used:.1f} s of the control plane's CPU.")
    with_all = at_rest(plane, sidecars)
    before, began = cpu_seconds(plane.process.pid), time.monotonic()
    time.sleep(5)
    idle = (cpu_seconds(plane.process.pid) - before) / (time.monotonic() - began)
    goals.at_most("memory of an idle sidecar in the control plane", KIB_PER_PROXY,
                  (with_all - without) * 1024 / sidecars.count, "KiB")
    goals.note(f"The control plane takes {without:.1f} MiB with the mesh loaded and no sidecar, {with_all:.1f} MiB with "
               f"all; idle it uses {idle * 100:.1f} % of a CPU.")


def edits(plane, sidecars, mesh, count, goals):
    print("edits", file=sys.stderr)
    everybodys = lambda i: mesh.everybodys(i + 2)
    one, endpoint = ("an edit of one VirtualService", everybodys), \
        ("a change of one endpoint", lambda i: mesh.endpoint(0, 0, 0, weight=i + 2))
    for what, change in (one, endpoint):
        sidecars.ask("clear")
        took = []
        for i in range(count):
            revision, answered = plane.client.apply(change(i))
            acked = sidecars.acked(revision, 30)
            took += [max(0, at - answered) / 1e6 for at in acked]
            time.sleep(1)
        counts = sidecars.ask("counts")
        goals.at_most(f"{what}, acknowledged by all (p99)", ACKNOWLEDGED, percentile(took, 99), "ms")
        goals.note(f"{what[0].upper()}{what[1:]}: p50 {percentile(took, 50):.0f} ms, the slowest of {len(took)} "
                   f"{max(took):.0f} ms, {counts['bytes'] / counts['deltas']:.0f} bytes each.")
        if change is not everybodys:
            alone = counts["kinds"] == {"WorkloadEntry": count * sidecars.count}
            found = ", ".join(f"{number} x {kind}" for kind, number in counts["kinds"].items())
            goals.true("it travels as endpoints alone", "WorkloadEntry", found, alone)


class Writer(threading.Thread):
    """Makes every nth change at its time, or as soon after it as the one before is answered."""

    def __init__(self, changes, start, first, step):
        super().__init__(daemon=True)
        self.changes, self.start_at, self.first, self.step = changes, start, first, step
        self.client, self.answers, self.late = Client(), [], 0

    def run(self):
        for number in range(self.first, len(self.changes), self.step):
            due = self.start_at + number / PER_SECOND
            time.sleep(max(0, due - time.monotonic()))
            self.answers.append(self.client.apply(self.changes[number]))
            self.late = max(self.late, time.monotonic() - due)


def churn(plane, sidecars, mesh, seconds, goals):
    print("a stream of changes", file=sys.stderr)
    at_rest(plane)
    sidecars.ask("clear")
    # A writer makes every eighth: each has objects of its own.
    change = lambda i: (mesh.everybodys(1000 + i, i % SHARED) if i % 2
                        else mesh.endpoint(0, i % SHARED, i // SHARED % mesh.endpoints, weight=100 + i))
    changes = [change(i) for i in range(PER_SECOND * seconds)]
    start = time.monotonic() + 0.2
    before = cpu_seconds(plane.process.pid)
    writers = [Writer(changes, start, first, SHARED) for first in range(SHARED)]
    for writer in writers:
        writer.start()
    memory = []
    while any(writer.is_alive() for writer in writers):
        time.sleep(1)
        memory.append(rss_mib(plane.process.pid))
    used = cpu_seconds(plane.process.pid) - before
    answers = [answer for writer in writers for answer in writer.answers]
    if len(answers) < len(changes):
        sys.exit("bench: a change was refused")
    revision, _ = max(answers)
    last = max(at for _, at in answers)
    rate = len(answers) / (last / 1e9 - start)
    acked = sidecars.acked(revision, 60)
    behind = max(0, max(acked) - last) / 1e6
    counts = sidecars.ask("counts")
    third = max(1, len(memory) // 3)
    growth = max(memory[-third:]) - max(memory[:third])
    goals.true(f"{PER_SECOND} changes/s for {seconds} s are taken", f"≥ {PER_SECOND * 0.98:g}/s", f"{rate:.1f}/s",
               rate >= PER_SECOND * 0.98)
    goals.at_most("all sidecars run the newest after the last one", 1000, behind, "ms")
    goals.true("and hold the same", "0 scopes torn", f"{counts['torn']} scopes torn", counts["torn"] == 0)
    goals.at_most("memory grows meanwhile (last third against the first)", 16, growth, "MiB")
    goals.note(f"While {len(answers)} changes were made each sidecar took {counts['deltas'] / sidecars.count:.0f} deltas; "
               f"the control plane used {used / (last / 1e9 - start):.2f} CPUs, and the latest write was answered "
               f"{max(writer.late for writer in writers) * 1e3:.0f} ms after its time.")


def storm(plane, sidecars, mesh, goals):
    print("all connect again at once", file=sys.stderr)
    at_rest(plane)
    sidecars.ask("clear")
    before = cpu_seconds(plane.process.pid)
    cut = sidecars.ask("cut")["at"]
    # Made while they are away: who acknowledges it is back and up to date.
    revision, _ = plane.client.apply(mesh.everybodys(9999))
    acked = sidecars.acked(revision, 120)
    counts = sidecars.until_connected(30)
    told = plane.client.call("GET", f"/api/fairway/v1/revisions/{revision}/applied?timeout=60s")
    settled = (time.monotonic_ns() - cut) / 1e9
    connected = sum(proxy["applied"] for proxy in told["proxies"])
    goals.at_most("all connections cut at once: everybody is back and up to date", STORM,
                  max(settled, (max(acked) - cut) / 1e9), "s")
    goals.true("and the control plane says so", f"{sidecars.count}", f"{connected}", connected >= sidecars.count)
    goals.note(f"After the cut half were back after {(percentile(acked, 50) - cut) / 1e9:.2f} s, all after "
               f"{(max(acked) - cut) / 1e9:.2f} s; {counts['failures']} attempts failed; "
               f"{cpu_seconds(plane.process.pid) - before:.1f} s of the control plane's CPU.")
