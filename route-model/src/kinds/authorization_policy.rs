//! `security.istio.io` AuthorizationPolicy: who may do what.

use super::selector::{LabelSelector, TargetRef};
use super::value::{Written, choice, message};

message! {
    /// The spec of an AuthorizationPolicy. An empty one denies everything; a rule without fields matches everything.
    pub struct AuthorizationPolicy {
        pub selector: Option<LabelSelector>,
        pub target_ref: Option<TargetRef>,
        pub target_refs: Written<Vec<TargetRef>>,
        pub rules: Written<Vec<Rule>>,
        pub action: Written<Action>,
        /// For `CUSTOM` only.
        pub provider: Option<ExtensionProvider>,
    }

    /// The provider that decides, by the name it has in the mesh's configuration.
    pub struct ExtensionProvider {
        pub name: Written<String>,
    }

    /// One of `from` and one of `to` and all of `when`.
    pub struct Rule {
        pub from: Written<Vec<From>>,
        pub to: Written<Vec<To>>,
        pub when: Written<Vec<Condition>>,
    }

    /// Where a request may come from.
    pub struct From {
        pub source: Option<Source>,
    }

    /// All fields must hold; the values of one are alternatives, those of a `not…` field all excluded.
    pub struct Source {
        pub principals: Written<Vec<String>>,
        pub not_principals: Written<Vec<String>>,
        pub request_principals: Written<Vec<String>>,
        pub not_request_principals: Written<Vec<String>>,
        pub namespaces: Written<Vec<String>>,
        pub not_namespaces: Written<Vec<String>>,
        pub service_accounts: Written<Vec<String>>,
        pub not_service_accounts: Written<Vec<String>>,
        pub trust_domains: Written<Vec<String>>,
        pub not_trust_domains: Written<Vec<String>>,
        /// Of the TCP peer.
        pub ip_blocks: Written<Vec<String>>,
        pub not_ip_blocks: Written<Vec<String>>,
        /// Of the client that X-Forwarded-For or the PROXY protocol names.
        pub remote_ip_blocks: Written<Vec<String>>,
        pub not_remote_ip_blocks: Written<Vec<String>>,
    }

    /// What a request may do.
    pub struct To {
        pub operation: Option<Operation>,
    }

    /// All fields must hold, as in [`Source`].
    pub struct Operation {
        pub hosts: Written<Vec<String>>,
        pub not_hosts: Written<Vec<String>>,
        pub ports: Written<Vec<String>>,
        pub not_ports: Written<Vec<String>>,
        pub methods: Written<Vec<String>>,
        pub not_methods: Written<Vec<String>>,
        pub paths: Written<Vec<String>>,
        pub not_paths: Written<Vec<String>>,
    }

    /// A further condition: one of `values` and none of `notValues`.
    pub struct Condition {
        /// `request.headers[name]`, `source.ip`, `request.auth.claims[name]` …
        pub key: Written<String>,
        pub values: Written<Vec<String>>,
        pub not_values: Written<Vec<String>>,
    }
}

choice! {
    /// What a match leads to. `AUDIT` never changes the outcome.
    pub enum Action {
        Allow,
        Deny,
        Audit,
        Custom,
    }
}
