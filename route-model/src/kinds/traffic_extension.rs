//! `extensions.istio.io` TrafficExtension: a WebAssembly or Lua filter.

use serde_json::Value;

use super::selector::{LabelSelector, TargetRef};
use super::value::{Written, choice, message};
use super::wasm_plugin::{FailStrategy, PluginType, PullPolicy, TrafficSelector, VmConfig};

message! {
    /// The spec of a TrafficExtension. Exactly one of `wasm` and `lua`.
    pub struct TrafficExtension {
        pub selector: Option<LabelSelector>,
        pub target_refs: Written<Vec<TargetRef>>,
        pub phase: Written<ExtensionPhase>,
        /// Higher ones run first.
        pub priority: Written<i32>,
        pub r#match: Written<Vec<TrafficSelector>>,
        pub wasm: Option<WasmExtension>,
        pub lua: Option<LuaExtension>,
    }

    /// A WebAssembly filter.
    pub struct WasmExtension {
        pub url: Written<String>,
        pub sha256: Written<String>,
        pub image_pull_policy: Written<PullPolicy>,
        pub image_pull_secret: Written<String>,
        pub verification_key: Written<String>,
        /// Free-form: handed to the plugin.
        pub plugin_config: Option<Value>,
        pub plugin_name: Written<String>,
        pub fail_strategy: Written<FailStrategy>,
        pub vm_config: Option<VmConfig>,
        #[serde(rename = "type")]
        pub plugin_type: Written<PluginType>,
    }

    /// A Lua filter, its code written out.
    pub struct LuaExtension {
        pub inline_code: Written<String>,
    }
}

choice! {
    /// Where among Istio's own filters it stands; unspecified: at the end.
    pub enum ExtensionPhase {
        Unspecified,
        Authn,
        Authz,
        Stats,
    }
}
