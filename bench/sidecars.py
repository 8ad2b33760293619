"""What sidecars cost: requests through two of them with mutual TLS between, their memory at rest, the binary."""
import collections
import os
import statistics
import sys
import time

from load import CONNECTIONS, h2load, median, median_ratio, merged, there_and_back, wrk
from pairs import SERVICES, UPSTREAM, EnvoyPair, FairwayPair, Way
from processes import cpu_seconds, rss_mib, settle, sh, stop

SIDES = ("the client's", "the server's")
# Of Envoy's CPU time.
SHARE = 0.5
MIB_AT_REST = 10
MIB_OF_BINARY = 15
# jemalloc gives back what was freed for ten seconds.
DECAY = 12


def measure(fairway, envoy, upstream, args, folder, goals):
    """The lines of the tables; what is to hold is added to the goals. `fairway` is None, `envoy` false if not wanted."""
    print("sidecars", file=sys.stderr)
    pairs = ([FairwayPair(fairway)] if fairway else []) + ([EnvoyPair(folder)] if envoy else [])
    try:
        ways = [way for pair in pairs for way in pair.start()]
        figures = collections.defaultdict(lambda: collections.defaultdict(list))
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            for (way, side), figure in busy(ways, args.seconds).items():
                figures[way][side].append(figure)
        most = min(median(sides[SIDES[0]], "rps") for sides in figures.values())
        rate = most / 2
        added = added_per_hop(ways, upstream, rate, args, folder)
        rest = {pair.name: at_rest(pair) for pair in pairs}
    finally:
        for pair in pairs:
            pair.stop()
    lines = ["", f"| two sidecars, mTLS, 1 KiB response | CPU µs/request, {SIDES[0]} | {SIDES[1]} | requests/s | p50 ms "
             f"| added a hop at {rate:.0f}/s, p50 µs | at rest, {SERVICES} services, MiB | errors |",
             "|---|---|---|---|---|---|---|---|"]
    for way, sides in figures.items():
        front = sides[SIDES[0]]
        cpu = " | ".join(f"{median(sides[side], 'cpu_us'):.1f}" for side in SIDES)
        lines.append(f"| {way} | {cpu} | {median(front, 'rps'):.0f} | {median(front, 'p50_us') / 1e3:.2f} "
                     f"| {statistics.median(added[way]):.0f} | {rest[way.split(',')[0]]:.1f} | {sum(f.errors for f in front)} |")
    if fairway:
        judge(figures, added, rest, fairway, folder, goals)
    return lines


def judge(figures, added, rest, fairway, folder, goals):
    """Holds Fairway against that form of Envoy which is better at what is looked at."""
    others = [way for way in figures if way != "fairway"]
    if others:
        for side in SIDES:
            ratio = max(median_ratio(figures["fairway"][side], figures[way][side]) for way in others)
            goals.at_most(f"CPU a request of {side} sidecar", SHARE, ratio, "x Envoy's")
        least = min(statistics.median(added[way]) for way in others)
        goals.at_most("a hop adds, p50, at the same rate", round(least), statistics.median(added["fairway"]), "µs")
    goals.at_most(f"a sidecar at rest that knows {SERVICES} services", MIB_AT_REST,
                  rest["fairway"], "MiB")
    stripped = f"{folder}/fairway-sidecar"
    sh("strip", "-o", stripped, f"{fairway.binaries}/fairway-sidecar")
    goals.at_most("fairway-sidecar, stripped", MIB_OF_BINARY, os.path.getsize(stripped) / 2**20, "MiB")


def busy(ways, seconds):
    """A round, there and back, of as many requests as they take: a figure of each sidecar, by way and side."""
    found = {}
    for way in (*ways, *reversed(ways)):
        server = way.processes[1].pid
        before = cpu_seconds(server)
        figure = wrk(way, seconds, path="/1k")
        behind = figure._replace(cpu_us=1e6 * (cpu_seconds(server) - before) / max(figure.requests, 1))
        for side, one in zip(SIDES, (figure, behind)):
            key = way.name, side
            found[key] = merged(found[key], one) if key in found else one
    return found


def added_per_hop(ways, upstream, rate, args, folder):
    """What the median request takes longer through two sidecars than without, halved, in µs; of each round, by way."""
    direct = Way("direct", UPSTREAM, upstream)
    work = lambda way: h2load(way, args.seconds, folder, h1=True, clients=CONNECTIONS, rate=rate, path="/1k")
    added = collections.defaultdict(list)
    for _ in range(args.rounds):
        found = there_and_back({way.name: lambda way=way: work(way) for way in (direct, *ways)})
        for way in ways:
            added[way.name].append((found[way.name].p50_us - found["direct"].p50_us) / 2)
    return added


def at_rest(pair):
    """Resident memory of a client's sidecar that was called once."""
    process = pair.idle()
    settle(process.pid)
    time.sleep(DECAY)
    mib = rss_mib(process.pid)
    stop(process)
    return mib
