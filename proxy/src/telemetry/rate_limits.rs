//! What rate limits count, by policy and rule. Labels come from the configuration alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::exposition::{Label, head};
use crate::policy::rate_limit::top::TopKeys;

/// A count that all workers share, as they share the buckets.
#[derive(Debug, Default)]
pub(crate) struct SharedCount(AtomicU64);

impl SharedCount {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one rule.
#[derive(Debug, Default)]
pub(crate) struct LimitCounts {
    /// Requests within this limit, and within all others that they were under.
    pub(crate) admitted: SharedCount,
    pub(crate) limited: SharedCount,
    /// Requests that a policy in shadow mode let pass.
    pub(crate) would_limit: SharedCount,
    /// Requests counted in the bucket of all keys that found no room.
    pub(crate) overflow: SharedCount,
    /// Whom it hits most. Not among the metrics: what clients send is no label.
    pub(crate) top: TopKeys,
}

/// One rule's counts and labels.
#[derive(Debug)]
pub(crate) struct LimitSeries {
    /// `namespace/name`.
    pub(crate) policy: String,
    pub(crate) rule: Box<str>,
    pub(crate) counts: Arc<LimitCounts>,
}

/// The counts of all rules, with the keys that were refused most, as JSON.
pub(crate) fn dump(series: &[LimitSeries]) -> Value {
    series
        .iter()
        .map(|LimitSeries { policy, rule, counts }| {
            let top = counts.top.list().into_iter();
            let top = top.map(|key| json!({"key": key.key, "limited": key.limited, "over_by_at_most": key.over}));
            json!({
                "policy": policy,
                "rule": rule,
                "admitted": counts.admitted.get(),
                "limited": counts.limited.get(),
                "would_limit": counts.would_limit.get(),
                "overflow": counts.overflow.get(),
                "top": top.collect::<Vec<_>>(),
            })
        })
        .collect()
}

/// Writes the counts of all rules.
pub(super) fn render(series: &[LimitSeries], out: &mut dyn fmt::Write) -> fmt::Result {
    let name = "fairway_rate_limit_requests_total";
    head(out, name, "counter", "Requests that rate limits counted, by what became of them.")?;
    for LimitSeries { policy, rule, counts } in series {
        let (policy, rule) = (Label(policy), Label(rule));
        for (result, count) in
            [("admitted", &counts.admitted), ("limited", &counts.limited), ("would_limit", &counts.would_limit)]
        {
            writeln!(out, "{name}{{policy=\"{policy}\",rule=\"{rule}\",result=\"{result}\"}} {}", count.get())?;
        }
    }
    let name = "fairway_rate_limit_overflow_total";
    head(out, name, "counter", "Requests whose key found no room, so that they shared a bucket with others.")?;
    for LimitSeries { policy, rule, counts } in series {
        let (policy, rule) = (Label(policy), Label(rule));
        writeln!(out, "{name}{{policy=\"{policy}\",rule=\"{rule}\"}} {}", counts.overflow.get())?;
    }
    Ok(())
}
