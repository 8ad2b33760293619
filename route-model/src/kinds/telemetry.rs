//! `telemetry.istio.io` Telemetry: tracing, metrics and access logs.

use std::collections::BTreeMap;

use super::selector::{LabelSelector, TargetRef};
use super::value::{Double, TextDuration, Written, choice, message};

message! {
    /// The spec of a Telemetry.
    pub struct Telemetry {
        pub selector: Option<LabelSelector>,
        pub target_ref: Option<TargetRef>,
        pub target_refs: Written<Vec<TargetRef>>,
        pub tracing: Written<Vec<Tracing>>,
        pub metrics: Written<Vec<Metrics>>,
        pub access_logging: Written<Vec<AccessLogging>>,
    }

    /// A provider, by the name it has in the mesh's configuration.
    pub struct ProviderRef {
        pub name: Written<String>,
    }

    /// What is traced and where spans go.
    pub struct Tracing {
        pub r#match: Option<TracingSelector>,
        pub providers: Written<Vec<ProviderRef>>,
        /// 0 to 100.
        pub random_sampling_percentage: Written<Double>,
        pub disable_span_reporting: Written<bool>,
        pub disable_context_propagation: Written<bool>,
        pub custom_tags: Written<BTreeMap<String, CustomTag>>,
        pub use_request_id_for_trace_sampling: Written<bool>,
        pub enable_istio_tags: Written<bool>,
    }

    /// The side of a request that is traced.
    pub struct TracingSelector {
        pub mode: Written<WorkloadMode>,
    }

    /// One of the four.
    pub struct CustomTag {
        pub literal: Option<LiteralTag>,
        pub environment: Option<NamedTag>,
        pub header: Option<NamedTag>,
        pub formatter: Option<LiteralTag>,
    }

    /// A value, or for `formatter` an expression of Envoy's access log.
    pub struct LiteralTag {
        pub value: Written<String>,
    }

    /// The name of an environment variable or a header.
    pub struct NamedTag {
        pub name: Written<String>,
        pub default_value: Written<String>,
    }

    /// Which metrics are reported, and where.
    pub struct Metrics {
        pub providers: Written<Vec<ProviderRef>>,
        pub overrides: Written<Vec<MetricsOverride>>,
        pub reporting_interval: Option<TextDuration>,
    }

    /// A change to metrics.
    pub struct MetricsOverride {
        pub r#match: Option<MetricSelector>,
        pub disabled: Written<bool>,
        pub tag_overrides: Written<BTreeMap<String, TagOverride>>,
    }

    /// At most one of `metric` and `customMetric`.
    pub struct MetricSelector {
        pub metric: Written<IstioMetric>,
        pub custom_metric: Written<String>,
        pub mode: Written<WorkloadMode>,
    }

    /// A change to one tag of a metric.
    pub struct TagOverride {
        pub operation: Written<TagOperation>,
        /// An expression.
        pub value: Written<String>,
    }

    /// What is logged, and where.
    pub struct AccessLogging {
        pub r#match: Option<LogSelector>,
        pub providers: Written<Vec<ProviderRef>>,
        pub disabled: Written<bool>,
        pub filter: Option<LogFilter>,
    }

    /// The side of a request that is logged.
    pub struct LogSelector {
        pub mode: Written<WorkloadMode>,
    }

    /// The requests that are logged.
    pub struct LogFilter {
        /// In CEL.
        pub expression: Written<String>,
    }
}

choice! {
    /// The side of a request: the one that sends it, or the one that answers.
    pub enum WorkloadMode {
        ClientAndServer,
        Client,
        Server,
    }

    /// Istio's standard metrics.
    pub enum IstioMetric {
        AllMetrics,
        RequestCount,
        RequestDuration,
        RequestSize,
        ResponseSize,
        TcpOpenedConnections,
        TcpClosedConnections,
        TcpSentBytes,
        TcpReceivedBytes,
        GrpcRequestMessages,
        GrpcResponseMessages,
    }

    /// What is done to a tag.
    pub enum TagOperation {
        Upsert,
        Remove,
    }
}
