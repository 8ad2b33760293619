//! The rules for how requests are spread over endpoints.

use super::Report;
use crate::field::Place;
use crate::kinds::destination_rule::{
    ConsistentHash, Distribute, Failover, LoadBalancer, LocalityLoadBalancer, SimpleLoadBalancer,
};

/// Maglev tables are smaller than this; it is a prime itself.
const MAX_MAGLEV_TABLE: u64 = 5_000_011;

pub(super) fn check(load_balancer: &LoadBalancer, at: &Place<'_>, report: &mut Report) {
    if let Some(hash) = &load_balancer.consistent_hash {
        check_hash(hash, &at.field("consistentHash"), report);
    }
    if let Some(locality) = &load_balancer.locality_lb_setting {
        check_locality(locality, &at.field("localityLbSetting"), report);
    }
    if let Some(zone) = &load_balancer.zone_aware_lb_setting {
        let at = at.field("zoneAwareLbSetting");
        if load_balancer.locality_lb_setting.is_some() {
            report.forbidden(&at, "only one of localityLbSetting and zoneAwareLbSetting may be set");
        }
        check_failover(&zone.failover, &at.field("failover"), report);
    }
    if load_balancer.warmup_duration_secs.is_some() {
        let at = at.field("warmupDurationSecs");
        report.warn(&at, "deprecated; use warmup.duration");
        if load_balancer.warmup.is_some() {
            report.forbidden(&at, "only one of warmup and warmupDurationSecs may be set");
        }
    }
    let warms_up = load_balancer.warmup.is_some() || load_balancer.warmup_duration_secs.is_some();
    let simple_without = matches!(*load_balancer.simple, SimpleLoadBalancer::Random | SimpleLoadBalancer::Passthrough);
    if warms_up && (simple_without || load_balancer.consistent_hash.is_some()) {
        report.warn(&at.field("warmup"), "only has an effect with ROUND_ROBIN and LEAST_REQUEST");
    }
}

fn check_hash(hash: &ConsistentHash, at: &Place<'_>, report: &mut Report) {
    if hash.minimum_ring_size.is_written() {
        report.warn(&at.field("minimumRingSize"), "deprecated; use ringHash.minimumRingSize");
    }
    if let Some(maglev) = &hash.maglev {
        let size = *maglev.table_size;
        if size != 0 && !(size < MAX_MAGLEV_TABLE && is_prime(size)) {
            let at = at.field("maglev");
            let detail = format_args!("must be a prime below {MAX_MAGLEV_TABLE}");
            report.invalid(&at.field("tableSize"), size.to_string().as_str(), detail);
        }
    }
}

/// By trial; the numbers are below 5 million.
fn is_prime(number: u64) -> bool {
    number >= 2 && !(2..=number.isqrt()).any(|divisor| number.is_multiple_of(divisor))
}

pub(super) fn check_locality(locality: &LocalityLoadBalancer, at: &Place<'_>, report: &mut Report) {
    if !locality.distribute.is_empty() && (!locality.failover.is_empty() || !locality.failover_priority.is_empty()) {
        report.forbidden(&at.field("distribute"), "cannot be set with failover or failoverPriority");
    }
    let places = at.field("distribute");
    for (index, distribute) in locality.distribute.iter().enumerate() {
        check_distribute(distribute, &places.index(index), report);
    }
    check_failover(&locality.failover, &at.field("failover"), report);
}

/// Shares sum to 100 percent.
fn check_distribute(distribute: &Distribute, at: &Place<'_>, report: &mut Report) {
    check_name(&distribute.from, &at.field("from"), report);
    let to = at.field("to");
    for (locality, weight) in &distribute.to {
        let at = to.key(locality);
        check_name(locality, &at, report);
        if !(1..=100).contains(weight) {
            report.invalid(&at, *weight, "must be between 1 and 100");
        }
    }
    let total: u64 = distribute.to.values().map(|weight| u64::from(*weight)).sum();
    if total != 100 {
        report.invalid(&to, "object", format_args!("the weights must sum to 100, not {total}"));
    }
}

/// `region/zone/subzone`, of which later parts may be left out and the last may be `*`.
fn check_name(locality: &str, at: &Place<'_>, report: &mut Report) {
    let parts: Vec<&str> = locality.split('/').collect();
    let wildcard_inside = parts.iter().rev().skip(1).any(|part| part.contains('*'));
    let partial = parts.last().is_some_and(|last| last.contains('*') && *last != "*");
    if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) || wildcard_inside || partial {
        report.invalid(at, locality, "must be region/zone/subzone, region/zone/*, region/* or *");
    }
}

fn check_failover(failovers: &[Failover], at: &Place<'_>, report: &mut Report) {
    for (index, failover) in failovers.iter().enumerate() {
        let at = at.index(index);
        if failover.from == failover.to {
            report.invalid(&at.field("to"), &*failover.to, "must be another region than from");
        }
        for (field, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.contains('/') || region.contains('*') {
                report.invalid(&at.field(field), region.as_str(), "must be a region, without zone and wildcard");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_prime;

    #[test]
    fn primes() {
        for (number, prime) in [(0, false), (1, false), (2, true), (9, false), (65537, true), (4_999_999, true)] {
            assert_eq!(is_prime(number), prime, "{number}");
        }
    }
}
