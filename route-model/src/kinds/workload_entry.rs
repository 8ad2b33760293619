//! `networking.istio.io` WorkloadEntry: one endpoint.

use std::collections::BTreeMap;

use super::value::{StringMap, Written, message};

message! {
    /// The spec of a WorkloadEntry, and an endpoint written inside a ServiceEntry.
    pub struct WorkloadEntry {
        /// An IP address, a DNS name, or `unix:///path`.
        pub address: Written<String>,
        /// Port name to the number on this endpoint.
        pub ports: Written<BTreeMap<String, u32>>,
        pub labels: Written<StringMap>,
        pub network: Written<String>,
        /// `region/zone/subzone`.
        pub locality: Written<String>,
        /// Relative; 0 counts as 1.
        pub weight: Written<u32>,
        pub service_account: Written<String>,
    }
}
