"""Two sidecars with mutual TLS between them: the client's, the server's, and nginx as the application behind it.

Fairway's follow the control plane of fairway.py, with explicit capture and a PeerAuthentication that is STRICT. Envoy's
read from files what Istio would tell them of the same, with certificates made here. The client's know 100 services, of
which one is called.
"""
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

from policies import NET, SECURITY
from processes import PROXY_CPU, sh, stop, wait_port
from proxies import envoy_argv

NAMESPACE, DOMAIN = "mesh", "svc.cluster.local"
SERVICES, ENDPOINTS = 100, 5
CLIENT, SERVER = (f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}" for account in ("client", "server"))
UPSTREAM = 19000
# Of each proxy: where it is called. A sidecar that is only looked at has ports of its own.
FAIRWAY_CLIENT, FAIRWAY_SERVER, FAIRWAY_IDLE = 19211, 19212, 19213
ENVOY_CLIENT, ENVOY_SERVER, ENVOY_IDLE = {"HTTP/1.1": 19221, "HTTP/2": 19222}, 19223, 19224


def service(number):
    return f"s{number}.{NAMESPACE}.{DOMAIN}"


def endpoints(number):
    """Of the services that nobody calls."""
    return [f"10.99.{number}.{i + 1}" for i in range(ENDPOINTS)]


class Way:
    """A way to the application: where it begins, and the sidecars on it, the client's first."""

    def __init__(self, name, plain, *processes):
        self.name, self.plain, self.processes = name, plain, processes
        # What tools of the load look at.
        self.process = processes[0]

    def try_out(self, inbound):
        """Ends the benchmark unless requests arrive by mutual TLS, and by nothing else."""
        deadline = time.monotonic() + 20
        while "URI=" + CLIENT not in (answer := get(self.plain, "/peer")):
            if time.monotonic() > deadline:
                sys.exit(f"bench: {self.name}: the application is not told that the client is {CLIENT}, but {answer!r}")
            time.sleep(0.05)
        if len(body := get(self.plain, "/1k")) != 1024:
            sys.exit(f"bench: {self.name}: the response has {len(body)} bytes")
        if not (answer := get(inbound, "/peer")).startswith("refused"):
            sys.exit(f"bench: {self.name}: the server's sidecar takes plain text: {answer!r}")


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return str(error)
    except (OSError, http.client.HTTPException) as error:
        return f"refused: {error}"


class FairwayPair:
    """Two `fairway-sidecar`."""

    name = "fairway"

    def __init__(self, fairway):
        self.fairway, self.started = fairway, []

    def resources(self):
        named = lambda api, kind, name, spec: {
            "apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        yield named(SECURITY, "PeerAuthentication", "default", {"mtls": {"mode": "STRICT"}})
        # The first is declared by the server's sidecar.
        for i in range(1, SERVICES):
            yield named(NET, "ServiceEntry", f"s{i}", {
                "hosts": [service(i)], "location": "MESH_INTERNAL", "resolution": "STATIC", "exportTo": ["."],
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "endpoints": [{"address": address, "ports": {"http": 8080},
                               "labels": {"security.istio.io/tlsMode": "istio"}, "serviceAccount": f"s{i}"}
                              for address in endpoints(i)]})

    def start(self):
        self.fairway.apply(*self.resources())
        server = self.sidecar("server", "--service", "s0", "--port", f"http={UPSTREAM}@127.0.0.1:{FAIRWAY_SERVER}",
                              "--workers", "1", cpus=PROXY_CPU)
        client = self.sidecar("client", "--bind-service", f"s0:{UPSTREAM}=127.0.0.1:{FAIRWAY_CLIENT}", "--workers", "1",
                              cpus=PROXY_CPU)
        wait_port(FAIRWAY_SERVER)
        wait_port(FAIRWAY_CLIENT)
        way = Way("fairway", FAIRWAY_CLIENT, client, server)
        way.try_out(FAIRWAY_SERVER)
        return [way]

    def idle(self):
        """A client's sidecar as it starts by itself, without limits to its CPUs and workers."""
        process = self.sidecar("idle", "--bind-service", f"s0:{UPSTREAM}=127.0.0.1:{FAIRWAY_IDLE}")
        wait_port(FAIRWAY_IDLE)
        return process

    def sidecar(self, account, *flags, cpus=None):
        folder = self.fairway.folder
        binary, *command = os.environ.get("FAIRWAY_BENCH_SIDECAR", "fairway-sidecar").split()
        wanted = {"namespace": NAMESPACE, "serviceAccount": account, "ttl": "24h"}
        token = f"{folder}/{account}.token"
        with open(token, "w") as f:
            f.write(self.fairway.call("POST", "/api/fairway/v1/join-tokens", wanted)["token"])
        pinned = ["taskset", "-c", cpus] if cpus else []
        with open(f"{folder}/{account}.log", "w") as log:
            process = subprocess.Popen(
                [*pinned, f"{self.fairway.binaries}/{binary}", *command, "--control-plane", "https://127.0.0.1:19192",
                 "--control-plane-ca", f"{folder}/admin/ca.crt", "--join-token-file", token,
                 "--data-dir", f"{folder}/{account}", "--namespace", NAMESPACE, "--service-account", account,
                 "--address", "127.0.0.1", "--capture", "explicit", "--outbound-addr", "127.0.0.1:0",
                 "--proxy-admin-addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0", "--access-log", "off", *flags],
                stdout=log, stderr=log)
        self.started.append(process)
        return process

    def stop(self):
        for process in self.started:
            stop(process)


class EnvoyPair:
    """Two Envoys. HTTP/1.1 between them and HTTP/2, which Istio both can, begin at ports of their own."""

    name = "envoy"

    def __init__(self, folder):
        self.folder, self.started = f"{folder}/envoy", []

    def start(self):
        os.makedirs(self.folder)
        self.certificates()
        server = self.envoy("server", self.server(), PROXY_CPU)
        client = self.envoy("client", self.client(ENVOY_CLIENT), PROXY_CPU)
        wait_port(ENVOY_SERVER)
        ways = [Way(f"envoy, {version}", port, client, server) for version, port in ENVOY_CLIENT.items()]
        for way in ways:
            wait_port(way.plain)
            way.try_out(ENVOY_SERVER)
        return ways

    def idle(self):
        """A client's, with the two workers that Istio gives it."""
        process = self.envoy("idle", self.client({"HTTP/2": ENVOY_IDLE}), workers=2)
        wait_port(ENVOY_IDLE)
        return process

    def envoy(self, name, config, cpus=None, workers=1):
        path = f"{self.folder}/{name}.json"
        with open(path, "w") as f:
            json.dump(config, f)
        argv = (["taskset", "-c", cpus] if cpus else []) + envoy_argv(path, workers)
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def certificates(self):
        """A CA, and by it a certificate each, of the kind that Fairway's CA makes: P-256, the identity the only name."""
        at = lambda name: f"{self.folder}/{name}"
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        sh(*new, "-x509", "-days", "30", "-subj", "/CN=bench mesh", "-keyout", at("ca.key"), "-out", at("ca.crt"))
        for name, identity in (("client", CLIENT), ("server", SERVER)):
            with open(at(f"{name}.ext"), "w") as f:
                f.write(f"subjectAltName=critical,URI:{identity}\nkeyUsage=critical,digitalSignature\n"
                        "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n")
            sh(*new, "-subj", "/", "-keyout", at(f"{name}.key"), "-out", at(f"{name}.csr"))
            sh("openssl", "x509", "-req", "-days", "30", "-in", at(f"{name}.csr"), "-CA", at("ca.crt"),
               "-CAkey", at("ca.key"), "-CAcreateserial", "-extfile", at(f"{name}.ext"), "-out", at(f"{name}.crt"))

    def tls(self, side, name, alpn, peer, **more):
        """Mutual TLS 1.3, as one whose certificate is called `name`, with a peer whose identity is like `peer`."""
        file = lambda name: {"filename": f"{self.folder}/{name}"}
        return {"name": "tls", "typed_config": {
            "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}", **more,
            "common_tls_context": {
                "alpn_protocols": alpn, "tls_params": {"tls_minimum_protocol_version": "TLSv1_3",
                                                       "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{"certificate_chain": file(f"{name}.crt"), "private_key": file(f"{name}.key")}],
                "validation_context": {"trusted_ca": file("ca.crt"), "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": peer}]}}}}

    def server(self):
        inbound = listener("inbound", ENVOY_SERVER, [virtual_host("s0", ["*"], "application")],
                           forward_client_cert_details="SANITIZE_SET",
                           set_current_client_cert_details={"subject": True, "uri": True})
        inbound["filter_chains"][0]["transport_socket"] = self.tls(
            "DownstreamTlsContext", "server", ["h2", "http/1.1"], {"prefix": "spiffe://cluster.local/"},
            require_client_certificate=True)
        return {"static_resources": {"listeners": [inbound],
                                     "clusters": [cluster("application", [address(UPSTREAM)])]}}

    def client(self, entrances):
        """A listener for each version of HTTP; they have all services but the first in common."""
        clusters = [self.outbound(f"s{i}", "HTTP/2", [address(8080, ip) for ip in endpoints(i)], f"s{i}")
                    for i in range(1, SERVICES)]
        listeners = []
        for version, port in entrances.items():
            clusters.append(self.outbound(f"s0 {version}", version, [address(ENVOY_SERVER)], "server"))
            hosts = [virtual_host(f"s{i}", [service(i)], f"s{i}") for i in range(1, SERVICES)]
            # As with a listener that stands for a service, whatever host is asked for.
            hosts.append(virtual_host("s0", [service(0), "*"], f"s0 {version}"))
            listeners.append(listener(version, port, hosts))
        return {"static_resources": {"listeners": listeners, "clusters": clusters}}

    def outbound(self, name, version, addresses, account):
        identity = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}"
        options, alpn = (("http2_protocol_options", "h2") if version == "HTTP/2" else
                         ("http_protocol_options", "http/1.1"))
        made = cluster(name, addresses)
        made["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {options: {}}}}
        made["transport_socket"] = self.tls("UpstreamTlsContext", "client", [alpn], {"exact": identity})
        return made

    def stop(self):
        for process in self.started:
            stop(process)


def address(port, ip="127.0.0.1"):
    return {"socket_address": {"address": ip, "port_value": port}}


def cluster(name, addresses):
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": it}} for it in addresses]}]}}


def virtual_host(name, domains, to):
    return {"name": name, "domains": domains,
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": to, "timeout": "0s"}}]}


def listener(name, port, hosts, **more):
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": name,
        "codec_type": "AUTO", "route_config": {"virtual_hosts": hosts}, **more,
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}]}
    return {"name": name, "address": address(port), "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}]}
