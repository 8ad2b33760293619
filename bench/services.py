"""The memory of a proxy at rest that knows many services, each with routes of a host of its own."""
import json
import subprocess
import sys
import time

from load import ask
from policies import NET
from processes import PROXY_CPU, rss_mib, settle, stop, wait_port
from proxies import envoy_argv

SERVICES, ROUTES = 1_000, 10
ENVOY, FAIRWAY = 19153, 19154


def host(service):
    return f"service-{service}.bench"


def resources():
    """A Gateway with one port, as Envoy has one listener, and for each service a ServiceEntry, a DestinationRule and a
    VirtualService."""
    yield {"apiVersion": NET, "kind": "Gateway", "metadata": {"name": "services"}, "spec": {
        "selector": {"istio": "ingressgateway"},
        "servers": [{"port": {"number": FAIRWAY, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}}
    for i in range(SERVICES):
        metadata = {"name": f"service-{i}"}
        route = [{"destination": {"host": host(i), "port": {"number": 80}}}]
        yield {"apiVersion": NET, "kind": "ServiceEntry", "metadata": metadata, "spec": {
            "hosts": [host(i)], "resolution": "STATIC", "location": "MESH_INTERNAL",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "127.0.0.1", "ports": {"http": 19000}}]}}
        yield {"apiVersion": NET, "kind": "DestinationRule", "metadata": metadata, "spec": {
            "host": host(i), "trafficPolicy": {
                "loadBalancer": {"simple": "ROUND_ROBIN"},
                "connectionPool": {"tcp": {"connectTimeout": "1s"}, "http": {"http2MaxRequests": 1000}},
                "outlierDetection": {"consecutive5xxErrors": 5}}}}
        yield {"apiVersion": NET, "kind": "VirtualService", "metadata": metadata, "spec": {
            "hosts": [host(i)], "gateways": ["services"], "http": [
                {"name": f"route-{j}", "match": [{"uri": {"prefix": f"/r{j}/"}}], "timeout": "5s", "route": route}
                for j in range(ROUTES)]}}


def envoy_config():
    """The same for Envoy, behind one listener."""
    address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    kind = lambda name: f"type.googleapis.com/envoy.extensions.filters.{name}"
    clusters, hosts = [], []
    for i in range(SERVICES):
        clusters.append({
            "name": f"service-{i}", "type": "STATIC", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN",
            "circuit_breakers": {"thresholds": [{"max_requests": 1000}]}, "outlier_detection": {"consecutive_5xx": 5},
            "load_assignment": {"cluster_name": f"service-{i}", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(19000)}}]}]}})
        hosts.append({"name": host(i), "domains": [host(i)], "routes": [
            {"name": f"route-{j}", "match": {"prefix": f"/r{j}/"}, "route": {"cluster": f"service-{i}", "timeout": "5s"}}
            for j in range(ROUTES)]})
    manager = {
        "@type": kind("network.http_connection_manager.v3.HttpConnectionManager"), "stat_prefix": "http",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [{"name": "router", "typed_config": {"@type": kind("http.router.v3.Router")}}]}
    listener = {"name": "services", "address": address(ENVOY),
                "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}]}
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def expect_all(name, port):
    """Ends the benchmark unless the last route of the first and the last service leads somewhere."""
    for service, path, expected in ((0, ROUTES - 1, 200), (SERVICES - 1, ROUTES - 1, 200), (SERVICES - 1, ROUTES, 404)):
        status, _ = ask(port, f"/r{path}/x", {"Host": host(service)})
        if status != expected:
            sys.exit(f"bench: {name} answers {status} for {host(service)}/r{path}/x, not {expected}")


def rested_mib(process):
    """Memory at rest. An allocator takes some seconds to give back what was needed for loading only."""
    settle(process.pid)
    time.sleep(12)
    return rss_mib(process.pid)


def fairway_mib(fairway):
    """Of a gateway that the services were pushed to, and of one that started with them. They stay."""
    fairway.apply(*resources())
    pushed = rested_mib(fairway.process)
    expect_all(fairway.name, FAIRWAY)
    fairway.stop()
    fairway.start()
    wait_port(FAIRWAY)
    started = rested_mib(fairway.process)
    expect_all(fairway.name, FAIRWAY)
    return pushed, started


def envoy_mib(folder):
    """Of one more Envoy that starts with them."""
    path = f"{folder}/envoy-services.json"
    with open(path, "w") as f:
        json.dump(envoy_config(), f)
    process = subprocess.Popen(["taskset", "-c", PROXY_CPU, *envoy_argv(path)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_port(ENVOY)
        expect_all("envoy", ENVOY)
        return rested_mib(process)
    finally:
        stop(process)


def memory(fairway, envoy, folder):
    """What is said of it."""
    shape = f"{SERVICES:,} services x {ROUTES} routes"
    text = ["", f"| memory, MiB | {shape}, started with them | pushed to it while it ran |", "|---|---|---|"]
    most = None
    if fairway:
        pushed, started = fairway_mib(fairway)
        most = max(pushed, started)
        text.append(f"| fairway | {started:.1f} | {pushed:.1f} |")
    if envoy:
        text.append(f"| envoy | {envoy_mib(folder):.1f} | |")
    return text + (["", f"{shape} take {most:.1f} MiB (goal: at most 60)."] if most else [])
