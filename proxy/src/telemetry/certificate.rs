//! The proxy's own certificate in the mesh.

use std::fmt;
use std::time::SystemTime;

use super::exposition::head;
use crate::tls::Identity;

/// Writes when the certificate expires, and how its renewal goes.
pub(crate) fn render(identity: &Identity, out: &mut dyn fmt::Write) -> fmt::Result {
    let name = "fairway_certificate_expiry_seconds";
    let help = "Time until the proxy's certificate in the mesh expires, negative once it has; absent without one.";
    head(out, name, "gauge", help)?;
    if let Some(current) = identity.current() {
        let left = match current.not_after().duration_since(SystemTime::now()) {
            Ok(left) => left.as_secs_f64(),
            Err(ago) => -ago.duration().as_secs_f64(),
        };
        writeln!(out, "{name} {left:.0}")?;
    }
    let (obtained, failures) = identity.counts();
    let name = "fairway_certificate_requests_total";
    head(out, name, "counter", "Requests to the control plane for a certificate, by their result.")?;
    writeln!(out, "{name}{{result=\"signed\"}} {obtained}")?;
    writeln!(out, "{name}{{result=\"failed\"}} {failures}")
}
