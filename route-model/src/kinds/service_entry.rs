//! `networking.istio.io` ServiceEntry: a service and where its endpoints are.

use super::selector::WorkloadSelector;
use super::value::{Written, choice, message};
use super::workload_entry::WorkloadEntry;

message! {
    /// The spec of a ServiceEntry.
    pub struct ServiceEntry {
        /// Fully qualified; short names are not expanded.
        pub hosts: Written<Vec<String>>,
        /// Virtual IP addresses and CIDRs.
        pub addresses: Written<Vec<String>>,
        pub ports: Written<Vec<ServicePort>>,
        pub location: Written<Location>,
        pub resolution: Written<Resolution>,
        /// Excludes `workloadSelector`.
        pub endpoints: Written<Vec<WorkloadEntry>>,
        /// WorkloadEntries of the same namespace.
        pub workload_selector: Option<WorkloadSelector>,
        pub export_to: Written<Vec<String>>,
        pub subject_alt_names: Written<Vec<String>>,
    }

    /// A port of the service.
    pub struct ServicePort {
        pub number: Written<u32>,
        pub protocol: Written<String>,
        pub name: Written<String>,
        /// The endpoints' port; 0: `number`.
        pub target_port: Written<u32>,
    }
}

choice! {
    /// Whether the endpoints are part of the mesh.
    pub enum Location {
        MeshExternal,
        MeshInternal,
    }

    /// How endpoints are found: not at all (to where the client connected), listed, or by DNS.
    pub enum Resolution {
        None,
        Static,
        Dns,
        DnsRoundRobin,
        DynamicDns,
    }
}
