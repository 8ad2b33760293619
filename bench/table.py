"""The table, and what is said about our goals beneath it."""
import statistics

from load import median, median_ratio
from rows import FREE, LIMITED, MANY, ONE, POLICIES, TCP

HEAD = ["| work | proxy | CPU µs/request | × nginx | × Envoy | requests/s | p50 ms | p99 ms | errors |",
        "|---|---|---|---|---|---|---|---|---|"]


def lines(results):
    """Of figures by row and proxy."""
    text = list(HEAD)
    for name, by_peer in results.items():
        base = {peer: median(figures, "cpu_us") for peer, figures in by_peer.items()}
        for peer, figures in by_peer.items():
            ratio = lambda other: f"{median_ratio(figures, by_peer[other]):.2f}" if base.get(other) else ""
            ms = lambda field: f"{(median(figures, field) or 0) / 1e3:.2f}"
            text.append(f"| {name} | {peer} | {base[peer]:.1f} | {ratio('nginx')} | {ratio('envoy')} "
                        f"| {median(figures, 'rps'):.0f} | {ms('p50_us')} | {ms('p99_us')} | {sum(f.errors for f in figures)} |")
    return text + goals(results)


def goals(results):
    has = lambda row, *peers: row in results and all(results[row].get(peer) for peer in peers)
    text = []
    if has(MANY, "fairway"):
        cost = median_ratio(results[MANY]["fairway"], results[ONE]["fairway"])
        text += ["", f"{MANY.split(', ')[1]} cost {cost:.2f} x one route."]
    if has(POLICIES, "fairway", "envoy"):
        cost = median_ratio(results[POLICIES]["fairway"], results[POLICIES]["envoy"])
        text += ["", f"With all policies on a request costs {cost:.2f} x Envoy's (goal: at most 0.60)."]
    if has(LIMITED, "fairway"):
        pairs = zip(results[LIMITED]["fairway"], results[FREE]["fairway"])
        more = statistics.median(limited.cpu_us - free.cpu_us for limited, free in pairs)
        text += ["", f"{LIMITED.replace(',', ':')} costs {more:.2f} µs more a request (goal: at most 1.5)."]
    if has(TCP, "fairway", "haproxy"):
        share = median_ratio(results[TCP]["fairway"], results[TCP]["haproxy"], "rps")
        text += ["", f"TCP carries {share:.2f} x what HAProxy does (goal: at least 0.9)."]
    return text
