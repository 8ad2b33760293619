//! Listeners that could not be bound are tried again by themselves: the program that held the port ends, the address
//! comes up, the privilege is granted. Nobody has to edit anything for that.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;

use crate::proxy::{ApplyReport, Core, Issue};

/// The first wait; each further one is twice as long …
const FIRST: Duration = Duration::from_secs(1);

/// … up to this.
const LONGEST: Duration = Duration::from_secs(30);

/// Tries for as long as the proxy lives and a report says that a listener is not bound. A new report, be it of a new
/// table or of a port that was bound, begins the waits anew.
pub(crate) async fn keep_trying(core: Weak<Core>, mut report: watch::Receiver<ApplyReport>) {
    let is_unbound = |report: &ApplyReport| report.issues.iter().any(Issue::is_unbound);
    // An error means that the proxy is gone.
    while report.wait_for(is_unbound).await.is_ok() {
        report.mark_unchanged();
        let mut wait = FIRST;
        while tokio::time::timeout(wait, report.changed()).await.is_err() {
            let Some(core) = core.upgrade() else { return };
            core.try_unbound().await;
            wait = (wait * 2).min(LONGEST);
        }
    }
}
