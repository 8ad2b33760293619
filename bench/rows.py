"""The rows of the table: what is done to the proxies in a round."""
import functools
import sys

import policies
from fairway import ROUTES
from load import h2load, there_and_back, wrk

SMALL = "small GET, HTTP/1.1 keep-alive"
ONE, MANY = "random paths, one route", f"random paths, {ROUTES} routes"
POLICIES = "all policies on"
FREE, LIMITED = f"{policies.CLIENTS} clients, no limit", f"{policies.CLIENTS} clients, a limit for each"
TCP = "TCP, 1 MiB after the other"


class Rows:
    """What can be run, by row."""

    def __init__(self, peers, seconds, folder, issuer):
        self.peers, self.issuer = peers, issuer
        self.fairway = next((peer for peer in peers if peer.name == "fairway"), None)
        random_paths = f"{folder}/paths.lua"
        with open(random_paths, "w") as f:
            f.write(f'request = function() return wrk.format("GET", "/r/" .. math.random(0, {ROUTES - 2}) .. "/x") end\n')
        self.clients = policies.client_scripts(folder)
        sent = policies.headers(issuer)
        get = lambda peer, **more: wrk(peer, seconds, **more)
        self.work = {
            SMALL: get,
            ONE: functools.partial(get, script=random_paths),
            "64 KiB response": functools.partial(get, path="/64k"),
            "HTTP/2, 8 x 16 streams": lambda peer: h2load(peer, seconds, folder),
            "TLS keep-alive": functools.partial(get, tls=True),
            "TLS, a handshake a request": functools.partial(get, tls=True, headers={"Connection": "close"}),
            POLICIES: lambda peer: unrefused(POLICIES, peer, get(peer, path=policies.PATH, port=peer.policies, headers=sent)),
            FREE: functools.partial(get, script=self.clients["free"]),
            LIMITED: lambda peer: unrefused(LIMITED, peer, get(peer, script=self.clients["limited"])),
            TCP: lambda peer: get(peer, path="/1m", port=peer.tcp),
        }

    def able(self, row):
        """The proxies that a row is for."""
        if row in (FREE, LIMITED):
            return [self.fairway] if self.fairway else []
        port = {POLICIES: "policies", TCP: "tcp"}.get(row, "plain")
        return [peer for peer in self.peers if getattr(peer, port)]

    def chosen(self, only):
        """The rows with one of these in their name. What is measured in the rounds of another row has none of its own."""
        named = {row for row in (*self.work, MANY) if any(part in row for part in only)}
        named |= {row for row, other in ((ONE, MANY), (FREE, LIMITED)) if other in named}
        return [row for row in self.work if row in named and row != LIMITED and self.able(row)]

    def prepare(self, rows):
        """Makes sure that the rows with policies measure what they say."""
        if POLICIES in rows:
            for peer in self.able(POLICIES):
                policies.try_out(peer, self.issuer)
        if FREE in rows:
            every = lambda seconds: wrk(self.fairway, seconds, script=self.clients["every"]).requests
            policies.all_clients_live(self.fairway, every)

    def round(self, row):
        """The figures of one round, by row and proxy."""
        works = {(row, peer.name): functools.partial(self.work[row], peer) for peer in self.able(row)}
        if row == FREE:
            works[LIMITED, "fairway"] = functools.partial(self.work[LIMITED], self.fairway)
        amid = {}
        turn = lambda: None
        if row == ONE and self.fairway:
            turn = lambda: amid.update({(MANY, "fairway"): self.fairway.with_routes(self.work[ONE])})
        return {**there_and_back(works, turn), **amid}


def unrefused(row, peer, figure):
    """A refusal costs less than a request that passes, so with one the figure is worth nothing."""
    if figure.errors:
        sys.exit(f"bench: {peer.name} refused {figure.errors} of {figure.requests} requests of `{row}`")
    return figure
