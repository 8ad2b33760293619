//! From the blocks of a traffic policy to what a cluster runs on.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::destination_rule::PortPolicy;
use crate::kinds::TextDuration;
use crate::kinds::destination_rule::{self as kinds, ConsistentHash, SimpleLoadBalancer};
use crate::kinds::value::{Double, Written};
use crate::table::cluster::LoadBalancer;
use crate::table::hash::{self, HashAlgorithm, HashCookie, HashKey};
use crate::table::upstream::{
    CircuitBreakers, ConnectionSettings, OutlierDetection, ProxyProtocolVersion, RetryBudget, TcpKeepalive, Tunnel,
    TunnelMethod, UpstreamPolicy, Warmup,
};

/// Envoy's default of `minimum_ring_size`.
const RING_SIZE: u64 = 1024;
/// Envoy's default of Maglev's `table_size`.
const TABLE_SIZE: u64 = 65_537;
/// Larger rings are cut to this; Envoy's own ceiling is 8 Mi, which takes a second to fill.
const MAX_RING_SIZE: u64 = 1024 * 1024;

pub(super) fn load_balancer(block: Option<&kinds::LoadBalancer>) -> LoadBalancer {
    let Some(block) = block else { return LoadBalancer::LeastRequest };
    if let Some(hash) = block.consistent_hash.as_ref().and_then(consistent_hash) {
        return LoadBalancer::Hash(Arc::new(hash));
    }
    match *block.simple {
        SimpleLoadBalancer::Random => LoadBalancer::Random,
        SimpleLoadBalancer::RoundRobin => LoadBalancer::RoundRobin,
        _ => LoadBalancer::LeastRequest,
    }
}

/// `None` where nothing is named to hash by; validation refuses that.
fn consistent_hash(block: &ConsistentHash) -> Option<hash::ConsistentHash> {
    let key = if !block.http_header_name.is_empty() {
        HashKey::Header(HeaderName::from_bytes(block.http_header_name.as_bytes()).ok()?)
    } else if let Some(cookie) = &block.http_cookie {
        HashKey::Cookie(HashCookie {
            name: cookie.name.as_str().into(),
            ttl: cookie.ttl.as_ref().map(TextDuration::get),
            path: cookie.path.as_str().into(),
            attributes: cookie
                .attributes
                .iter()
                .map(|attribute| (attribute.name.as_str().into(), attribute.value.as_str().into()))
                .collect(),
        })
    } else if *block.use_source_ip {
        HashKey::SourceIp
    } else if !block.http_query_parameter_name.is_empty() {
        HashKey::Query(block.http_query_parameter_name.as_str().into())
    } else {
        return None;
    };
    let or = |written: u64, default: u64| if written == 0 { default } else { written };
    let algorithm = if let Some(maglev) = &block.maglev {
        HashAlgorithm::Maglev(u32::try_from(or(*maglev.table_size, TABLE_SIZE)).unwrap_or(u32::MAX))
    } else {
        let ring = block.ring_hash.as_ref().map_or(0, |ring| *ring.minimum_ring_size);
        let size = or(or(ring, *block.minimum_ring_size), RING_SIZE).min(MAX_RING_SIZE);
        HashAlgorithm::Ring(u32::try_from(size).unwrap_or(u32::MAX))
    };
    Some(hash::ConsistentHash { key, algorithm })
}

pub(super) fn policy(policy: &PortPolicy<'_>) -> UpstreamPolicy {
    let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
    let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
    let count = |written: i32| u32::try_from(written).ok().filter(|count| *count > 0);
    let ceiling = |written: Option<i32>| written.and_then(count).unwrap_or(u32::MAX);
    UpstreamPolicy {
        limits: CircuitBreakers {
            connections: ceiling(tcp.map(|tcp| *tcp.max_connections)),
            pending: ceiling(http.map(|http| *http.http1_max_pending_requests)),
            requests: ceiling(http.map(|http| *http.http2_max_requests)),
            retries: ceiling(http.map(|http| *http.max_retries)),
            retry_budget: policy.retry_budget.map(|budget| RetryBudget {
                percent: if budget.percent.is_written() { budget.percent.0 } else { 20.0 },
                minimum: if *budget.min_retry_concurrency == 0 { 3 } else { *budget.min_retry_concurrency },
            }),
        },
        connections: ConnectionSettings {
            max_requests: http.and_then(|http| count(*http.max_requests_per_connection)),
            max_duration: tcp.and_then(|tcp| time(tcp.max_connection_duration.as_ref())),
            max_streams: http.and_then(|http| count(*http.max_concurrent_streams)),
            ping: http.and_then(|http| http.http2_keep_alive.as_ref()).and_then(|ping| {
                let interval = time(ping.interval.as_ref())?;
                Some((interval, time(ping.timeout.as_ref()).unwrap_or(interval)))
            }),
            keepalive: tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).map(|keepalive| TcpKeepalive {
                probes: Some(*keepalive.probes).filter(|probes| *probes > 0),
                time: time(keepalive.time.as_ref()),
                interval: time(keepalive.interval.as_ref()),
            }),
            tcp_idle: match tcp.and_then(|tcp| tcp.idle_timeout.as_ref()) {
                None => Some(Duration::from_hours(1)),
                Some(idle) => time(Some(idle)),
            },
        },
        outlier: policy.outlier_detection.map(outlier),
        warmup: policy.load_balancer.and_then(warmup),
        tls: None,
        proxy_protocol: policy.proxy_protocol.map(|block| match *block.version {
            kinds::ProxyProtocolVersion::V1 => ProxyProtocolVersion::V1,
            kinds::ProxyProtocolVersion::V2 => ProxyProtocolVersion::V2,
        }),
        tunnel: policy.tunnel.map(tunnel),
    }
}

fn tunnel(block: &kinds::Tunnel) -> Tunnel {
    let method = if *block.protocol == "POST" { TunnelMethod::Post } else { TunnelMethod::Connect };
    Tunnel { method, authority: format!("{}:{}", *block.target_host, *block.target_port).into() }
}

/// Only for the two that go by weights; a hash would move with them.
fn warmup(block: &kinds::LoadBalancer) -> Option<Warmup> {
    if !matches!(load_balancer(Some(block)), LoadBalancer::LeastRequest | LoadBalancer::RoundRobin) {
        return None;
    }
    let percent = |written: &Written<Double>, default| written.get().map_or(default, |number| number.0);
    let (duration, minimum_percent, aggression) = match &block.warmup {
        Some(warmup) => (&warmup.duration, percent(&warmup.minimum_percent, 10.0), percent(&warmup.aggression, 1.0)),
        None => (&block.warmup_duration_secs, 10.0, 1.0),
    };
    let window = time(duration.as_ref())?;
    let aggression = if aggression > 0.0 { aggression } else { 1.0 };
    Some(Warmup { window, minimum_percent: minimum_percent.clamp(0.0, 100.0), aggression })
}

/// `None` for a time of zero too, which stands for the default everywhere here.
fn time(written: Option<&TextDuration>) -> Option<Duration> {
    written.map(TextDuration::get).filter(|time| !time.is_zero())
}

fn outlier(block: &kinds::OutlierDetection) -> OutlierDetection {
    let codes = block.outlier_detection_http_error_codes.iter();
    let local = block.consecutive_local_origin_failures.get().copied().unwrap_or(5);
    OutlierDetection {
        consecutive_5xx: block.consecutive_5xx_errors.get().copied().unwrap_or(5),
        consecutive_gateway_errors: *block.consecutive_gateway_errors,
        local_failures: block.split_external_local_origin_errors.then_some(local),
        codes: codes.filter_map(|code| StatusCode::from_u16(u16::try_from(*code).ok()?).ok()).collect(),
        interval: time(block.interval.as_ref()).unwrap_or(Duration::from_secs(10)),
        base_ejection_time: time(block.base_ejection_time.as_ref()).unwrap_or(Duration::from_secs(30)),
        max_ejection_percent: u32::try_from(*block.max_ejection_percent).ok().filter(|p| *p > 0).unwrap_or(10).min(100),
        min_health_percent: u32::try_from(*block.min_health_percent).unwrap_or(0).min(100),
    }
}
