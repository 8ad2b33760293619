"""What a script does with the Python client for Kubernetes; it ends with an error when an answer is not as expected."""

import sys
import threading

from kubernetes import client, config, dynamic
from kubernetes.client import ApiClient, ApiException

config.load_kube_config(config_file=sys.argv[1])
dynamic_client = dynamic.DynamicClient(ApiClient())
virtual_services = dynamic_client.resources.get(api_version="networking.istio.io/v1", kind="VirtualService")


def document(name, status):
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"hosts": [f"{name}.example"], "gateways": ["edge"], "http": [{"directResponse": {"status": status}}]},
    }


# A namespace, sent without kind and without Content-Type by the typed client.
core = client.CoreV1Api()
core.create_namespace({"metadata": {"name": "python"}})
assert "python" in [namespace.metadata.name for namespace in core.list_namespace().items]
core.patch_namespace("python", {"metadata": {"labels": {"team": "x"}}})

created = virtual_services.create(body=document("a", 200), namespace="python")
assert created.metadata.generation == 1, created
listed = virtual_services.get(namespace="python", label_selector="app=a")
assert [item.metadata.name for item in listed.items] == ["a"], listed

# A watch from the list on sees what comes, in order.
events = []
first_is_here = threading.Event()


def watch():
    stream = virtual_services.watch(
        namespace="python", resource_version=listed.metadata.resourceVersion, timeout=30
    )
    for event in stream:
        events.append((event["type"], event["object"].metadata.name))
        first_is_here.set()
        if event["type"] == "DELETED":
            return


watcher = threading.Thread(target=watch)
watcher.start()
change = {"spec": {"http": [{"directResponse": {"status": 201}}]}}
patched = virtual_services.patch(
    name="a", namespace="python", body=change, content_type="application/merge-patch+json"
)
assert patched.spec.http[0].directResponse.status == 201, patched
try:
    virtual_services.patch(name="a", namespace="python", body=change)
    raise AssertionError("a strategic merge patch must be refused")
except ApiException as error:
    assert error.status == 415 and "merge-patch+json" in str(error.body), error

applied = virtual_services.server_side_apply(
    body=document("b", 200), name="b", namespace="python", field_manager="python", force_conflicts=True
)
assert applied.metadata.managedFields[0].manager == "python", applied
whole = virtual_services.get(name="a", namespace="python").to_dict()
whole["spec"]["hosts"] = ["c.example"]
assert virtual_services.replace(body=whole, namespace="python").spec.hosts == ["c.example"]
try:
    virtual_services.replace(body=whole, namespace="python")
    raise AssertionError("a stale replacement must be refused")
except ApiException as error:
    assert error.status == 409, error

virtual_services.delete(name="a", namespace="python")
watcher.join(timeout=30)
assert not watcher.is_alive(), "the watch has not seen the deletion"
# Status turns in between, so there may be more than one change of an object.
assert events[0] == ("MODIFIED", "a") and events[-1] == ("DELETED", "a") and ("ADDED", "b") in events, events

custom = client.CustomObjectsApi()
group = ("networking.istio.io", "v1beta1", "python", "virtualservices")
assert custom.get_namespaced_custom_object(*group, "b")["apiVersion"] == "networking.istio.io/v1beta1"
custom.patch_namespaced_custom_object(*group, "b", {"metadata": {"labels": {"seen": "yes"}}})
custom.delete_collection_namespaced_custom_object(*group)
assert custom.list_namespaced_custom_object(*group)["items"] == []
assert client.VersionApi().get_code().major == "1"
core.delete_namespace("python")
