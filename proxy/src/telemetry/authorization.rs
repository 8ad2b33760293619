//! What authorization policies say, by policy. Labels come from the configuration alone.

use std::fmt;
use std::sync::Arc;

use super::exposition::{Label, head};
use super::rate_limits::SharedCount;

/// How often a policy took something.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    in_force: SharedCount,
    on_trial: SharedCount,
}

impl Verdicts {
    pub(crate) fn in_force(&self) {
        self.in_force.add();
    }

    pub(crate) fn on_trial(&self) {
        self.on_trial.add();
    }
}

/// One policy's counts and labels.
#[derive(Debug)]
pub(crate) struct AuthorizationSeries {
    /// `namespace/name`; empty for what no ALLOW policy took.
    pub(crate) policy: String,
    /// What taking means, in force and on trial; empty: it never does.
    pub(crate) results: [&'static str; 2],
    pub(crate) verdicts: Arc<Verdicts>,
}

/// Writes the counts of all policies.
pub(super) fn render(series: &[AuthorizationSeries], out: &mut dyn fmt::Write) -> fmt::Result {
    let name = "fairway_authorization_verdicts_total";
    head(out, name, "counter", "Requests and connections that authorization policies decided about, by the policy.")?;
    for AuthorizationSeries { policy, results, verdicts } in series {
        for (result, count) in results.iter().zip([&verdicts.in_force, &verdicts.on_trial]) {
            if !result.is_empty() {
                writeln!(out, "{name}{{policy=\"{}\",result=\"{result}\"}} {}", Label(policy), count.get())?;
            }
        }
    }
    Ok(())
}
