//! `extensions.istio.io` WasmPlugin: a WebAssembly filter.

use serde_json::Value;

use super::selector::{LabelSelector, TargetRef};
use super::value::{Written, choice, message};

message! {
    /// The spec of a WasmPlugin.
    pub struct WasmPlugin {
        pub selector: Option<LabelSelector>,
        pub target_ref: Option<TargetRef>,
        pub target_refs: Written<Vec<TargetRef>>,
        /// `oci://`, `https://`, `file://` …; without a scheme: `oci://`.
        pub url: Written<String>,
        /// Hex, of the module or the image.
        pub sha256: Written<String>,
        pub image_pull_policy: Written<PullPolicy>,
        pub image_pull_secret: Written<String>,
        pub verification_key: Written<String>,
        /// Free-form: handed to the plugin.
        pub plugin_config: Option<Value>,
        pub plugin_name: Written<String>,
        pub phase: Written<PluginPhase>,
        /// Higher ones run first.
        pub priority: Written<i32>,
        pub fail_strategy: Written<FailStrategy>,
        pub vm_config: Option<VmConfig>,
        pub r#match: Written<Vec<TrafficSelector>>,
        #[serde(rename = "type")]
        pub plugin_type: Written<PluginType>,
    }

    /// The environment of the virtual machine.
    pub struct VmConfig {
        pub env: Written<Vec<EnvVar>>,
    }

    /// An environment variable of the plugin.
    pub struct EnvVar {
        pub name: Written<String>,
        pub value_from: Written<EnvValueSource>,
        /// With `INLINE` only.
        pub value: Written<String>,
    }

    /// The traffic that the plugin sees.
    pub struct TrafficSelector {
        pub mode: Written<TrafficMode>,
        pub ports: Written<Vec<MatchedPort>>,
    }

    /// A port, from 1 to 65535.
    pub struct MatchedPort {
        pub number: Written<u32>,
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum PullPolicy {
    #[default]
    #[serde(rename = "UNSPECIFIED_POLICY")]
    Unspecified,
    IfNotPresent,
    Always,
}

choice! {
    /// Where among Istio's own filters it stands; unspecified: at the end.
    pub enum PluginPhase {
        UnspecifiedPhase,
        Authn,
        Authz,
        Stats,
    }

    /// A filter for HTTP or for connections; unspecified: HTTP.
    pub enum PluginType {
        UnspecifiedPluginType,
        Http,
        Network,
    }

    /// What becomes of traffic when the plugin fails.
    pub enum FailStrategy {
        FailClose,
        FailOpen,
        FailReload,
    }

    /// Where the value comes from: `value`, or the proxy's own environment.
    pub enum EnvValueSource {
        Inline,
        Host,
    }

    /// The direction of traffic, seen from the workload.
    pub enum TrafficMode {
        Undefined,
        Client,
        Server,
        ClientAndServer,
    }
}
