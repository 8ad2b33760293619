//! `networking.istio.io` WorkloadGroup: a template for the WorkloadEntries of workloads that register themselves.

use super::value::{StringMap, Written, message};
use super::workload_entry::WorkloadEntry;

message! {
    /// The spec of a WorkloadGroup.
    pub struct WorkloadGroup {
        /// Put on every WorkloadEntry that is made.
        pub metadata: Option<WorkloadGroupMetadata>,
        pub template: Option<WorkloadEntry>,
        pub probe: Option<Probe>,
    }

    /// Labels and annotations.
    pub struct WorkloadGroupMetadata {
        pub labels: Written<StringMap>,
        pub annotations: Written<StringMap>,
    }

    /// How a workload's health is probed. At most one of the four methods. Times are in seconds; 0 means the default.
    pub struct Probe {
        pub initial_delay_seconds: Written<i32>,
        /// 0: 1.
        pub timeout_seconds: Written<i32>,
        /// 0: 10.
        pub period_seconds: Written<i32>,
        /// 0: 1.
        pub success_threshold: Written<i32>,
        /// 0: 3.
        pub failure_threshold: Written<i32>,
        pub http_get: Option<HttpProbe>,
        pub tcp_socket: Option<TcpProbe>,
        pub exec: Option<ExecProbe>,
        pub grpc: Option<GrpcProbe>,
    }

    /// A GET that must be answered with 200 to 399.
    pub struct HttpProbe {
        pub path: Written<String>,
        pub port: Written<u32>,
        pub host: Written<String>,
        /// `HTTP` or `HTTPS`; empty: `HTTP`.
        pub scheme: Written<String>,
        pub http_headers: Written<Vec<HttpHeader>>,
    }

    /// A header that the probe sends.
    pub struct HttpHeader {
        pub name: Written<String>,
        pub value: Written<String>,
    }

    /// A connection that must come about.
    pub struct TcpProbe {
        pub host: Written<String>,
        pub port: Written<u32>,
    }

    /// A command that must end with 0.
    pub struct ExecProbe {
        pub command: Written<Vec<String>>,
    }

    /// A call of the standard health service.
    pub struct GrpcProbe {
        pub port: Written<u32>,
        pub service: Written<String>,
    }
}
