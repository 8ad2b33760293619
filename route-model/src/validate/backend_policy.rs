//! The rules for BackendPolicies.

use super::{Report, rate_limit_policy};
use crate::field::Place;
use crate::kinds::BackendPolicy;

pub(super) fn check(policy: &BackendPolicy, at: &Place<'_>, report: &mut Report) {
    rate_limit_policy::check_targets(&policy.target_refs, &at.field("targetRefs"), report);
}
