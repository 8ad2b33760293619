"""The resources of a mesh: services, their endpoints, the policies of some, and what is changed while it is measured."""

NET, SECURITY = "networking.istio.io/v1", "security.istio.io/v1"
# Services with routes, each to be changed by a writer of its own.
SHARED = 8


def named(api, kind, namespace, name, spec):
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


class Mesh:
    """Services spread over namespaces, and endpoints over services. Everything is exported to everybody."""

    def __init__(self, namespaces, services, endpoints):
        self.namespaces = [f"team-{i}" for i in range(namespaces)]
        self.services = services // namespaces
        self.endpoints = endpoints // services

    def host(self, namespace, service):
        return f"s{service}.{namespace}.svc.cluster.local"

    def resources(self):
        yield named(SECURITY, "PeerAuthentication", "istio-system", "default", {"mtls": {"mode": "STRICT"}})
        for place, namespace in enumerate(self.namespaces):
            yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            for service in range(self.services):
                yield named(NET, "ServiceEntry", namespace, f"s{service}", {
                    "hosts": [self.host(namespace, service)], "location": "MESH_INTERNAL", "resolution": "STATIC",
                    "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                    "workloadSelector": {"labels": {"app": f"s{service}"}}})
                # Each workload has a policy of its own, so that no two services are sent the same.
                yield named(SECURITY, "AuthorizationPolicy", namespace, f"s{service}", {
                    "selector": {"matchLabels": {"app": f"s{service}"}},
                    "rules": [{"from": [{"source": {"namespaces": [namespace]}}]}]})
                for endpoint in range(self.endpoints):
                    yield self.endpoint(place, service, endpoint)
        for service in range(SHARED):
            yield self.everybodys(1, service)

    def endpoint(self, place, service, endpoint, weight=1):
        return named(NET, "WorkloadEntry", self.namespaces[place], f"s{service}-{endpoint}", {
            "address": f"10.{place}.{service}.{endpoint + 1}", "ports": {"http": 8080}, "weight": weight,
            "labels": {"app": f"s{service}", "version": "v1"}, "serviceAccount": "default"})

    def everybodys(self, number, service=0):
        """A VirtualService that every sidecar has, of one of a few services; different with every number."""
        host = self.host(self.namespaces[0], service)
        return named(NET, "VirtualService", self.namespaces[0], f"s{service}", {"hosts": [host], "http": [
            {"match": [{"uri": {"prefix": f"/v{number}/"}}], "timeout": "1s", "route": [{"destination": {"host": host}}]},
            {"route": [{"destination": {"host": host}}]}]})
