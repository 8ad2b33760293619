//! The resources that most tests begin with, in the making.

use serde_json::{Value, json};

/// Documents for [`Api::apply`](crate::Api::apply). Every Gateway is for Fairway's own labels and for every host.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub(crate) documents: Vec<Value>,
}

impl Resources {
    /// A Gateway `edge` with a plain HTTP server on each of the ports.
    pub fn edge(ports: &[u16]) -> Self {
        Self::default().gateway("edge", ports)
    }

    /// A Gateway with a plain HTTP server on each of the ports.
    pub fn gateway(self, name: &str, ports: &[u16]) -> Self {
        let server = |port: &u16| json!({"port": {"number": port, "name": format!("http-{port}"), "protocol": "HTTP"}, "hosts": ["*"]});
        self.servers(name, ports.iter().map(server).collect())
    }

    /// A Gateway with one HTTPS server whose certificate is in a secret.
    pub fn https_gateway(self, name: &str, port: u16, credential: &str) -> Self {
        let server = json!({
            "port": {"number": port, "name": format!("https-{port}"), "protocol": "HTTPS"},
            "hosts": ["*"],
            "tls": {"mode": "SIMPLE", "credentialName": credential},
        });
        self.servers(name, vec![server])
    }

    fn servers(self, name: &str, servers: Vec<Value>) -> Self {
        let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": servers});
        self.resource("Gateway", name, spec)
    }

    /// A ServiceEntry of the host `NAME.test`, whose port 80 is this one on loopback.
    pub fn service(self, name: &str, port: u16) -> Self {
        self.service_of(name, port, "HTTP")
    }

    /// The same, of another protocol.
    pub fn service_of(self, name: &str, port: u16, protocol: &str) -> Self {
        let spec = json!({
            "hosts": [format!("{name}.test")],
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "main", "protocol": protocol}],
            "endpoints": [{"address": "127.0.0.1", "ports": {"main": port}}],
        });
        self.resource("ServiceEntry", name, spec)
    }

    /// A VirtualService for every host at a Gateway, both of one name; `rules` is the list `spec.http` in YAML.
    pub fn routes(self, gateway: &str, rules: &str) -> Self {
        let rules: Value = serde_saphyr::from_str(rules).expect("the rules are YAML");
        self.resource("VirtualService", gateway, json!({"hosts": ["*"], "gateways": [gateway], "http": rules}))
    }

    /// A VirtualService that answers everything at a Gateway with this status.
    pub fn answers(self, gateway: &str, status: u16) -> Self {
        self.routes(gateway, &format!("[{{directResponse: {{status: {status}}}}}]"))
    }

    /// A TLS secret in the gateway's namespace.
    pub fn tls_secret(mut self, name: &str, certificate: &str, key: &str) -> Self {
        self.documents.push(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": "istio-system"},
            "stringData": {"tls.crt": certificate, "tls.key": key},
        }));
        self
    }

    /// Annotates the document that was added last.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        let document = self.documents.last_mut().expect("a document");
        document["metadata"]["annotations"][key] = value.into();
        self
    }

    /// Any resource of Istio's networking group.
    pub fn resource(self, kind: &str, name: &str, spec: Value) -> Self {
        let api_version = "networking.istio.io/v1";
        self.document(json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}))
    }

    pub fn document(mut self, document: Value) -> Self {
        self.documents.push(document);
        self
    }

    /// Documents in YAML, as a person has them in a file.
    pub fn yaml(self, documents: &str) -> Self {
        let documents: Vec<Value> = serde_saphyr::from_multiple(documents).expect("the documents are YAML");
        documents.into_iter().filter(|document| !document.is_null()).fold(self, Self::document)
    }
}

/// A rule's destination, the service that [`Resources::service`] declares: for `- …` or `{…}` in YAML.
pub fn to(service: &str) -> String {
    format!("route: [{{destination: {{host: {service}.test, port: {{number: 80}}}}}}]")
}
