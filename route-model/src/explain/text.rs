//! An explanation for a terminal: what the request meets, line by line, its fate last.

use std::fmt::{self, Display, Formatter};

use super::{
    ChangedHeader, ExplainedLimit, ExplainedMirror, ExplainedPolicy, ExplainedRetries, ExplainedToken, Explanation,
    HeaderOperation, NormalisedPath, Operation, Outcome, RuleVerdict,
};

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for server in &self.servers {
            writeln!(f, "server   {server}")?;
        }
        if let Some(NormalisedPath { sent, matched }) = &self.path {
            writeln!(f, "path     {sent} is taken as {matched}")?;
        }
        for ChangedHeader { name, value } in &self.headers {
            match value {
                Some(value) => writeln!(f, "header   {name} is taken as {value}")?,
                None => writeln!(f, "header   {name} is dropped")?,
            }
        }
        if let Some(token) = &self.token {
            writeln!(f, "token    {token}")?;
        }
        if let Some(host) = &self.host {
            writeln!(f, "host     {host}")?;
        }
        if self.skipped > 0 {
            writeln!(f, "         {} rules whose path cannot fit are not listed", self.skipped)?;
        }
        for rule in &self.rules {
            writeln!(f, "{rule}")?;
        }
        for policy in &self.policies {
            writeln!(f, "policy   {policy}")?;
        }
        for limit in &self.limits {
            writeln!(f, "limit    {limit}")?;
        }
        for fault in &self.faults {
            writeln!(f, "fault    {fault}")?;
        }
        if let Some(cors) = &self.cors {
            writeln!(f, "cors     {cors}")?;
        }
        self.outcome.fmt(f)
    }
}

impl Display for ExplainedPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { policy, action, dry_run, rule, failures } = self;
        write!(f, "{policy} ({action}{}): ", if *dry_run { ", on trial" } else { "" })?;
        if let Some(rule) = rule {
            return write!(f, "rules[{rule}] takes it");
        }
        f.write_str("no rule takes it")?;
        failures.iter().try_for_each(|failure| write!(f, "\n         {failure}"))
    }
}

impl Display for ExplainedToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { places, policy, rule, principal, forwarded, headers } = self;
        let principal = principal.as_deref().unwrap_or("nobody in particular");
        let fate = if *forwarded { "goes on" } else { "is taken out" };
        write!(
            f,
            "{} is taken at its word for {principal}, by {policy} jwtRules[{rule}]; it {fate}",
            places.join(", ")
        )?;
        headers.iter().try_for_each(|(name, value)| write!(f, "\n         request header: add {name} {value}"))
    }
}

impl Display for ExplainedLimit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { policy, rule, enforced, cost, requests, per, burst, key, destination, uncounted } = self;
        write!(f, "{policy} {rule}: ")?;
        if let Some(destination) = destination {
            write!(f, "if sent to {destination}, ")?;
        }
        if let Some(uncounted) = uncounted {
            return write!(f, "does not count it, as {uncounted}");
        }
        let sharing = if key.is_empty() { "all together".to_owned() } else { key.join(", ") };
        write!(f, "{requests} requests in {per:?}, up to {burst} at once, for {sharing}; takes {cost}")?;
        f.write_str(if *enforced { "" } else { " (only counted)" })
    }
}

impl Display for RuleVerdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sign = if self.failure.is_some() { "-    " } else { "match" };
        write!(f, "  {sign}  {} {}", self.resource, self.path)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        match &self.failure {
            Some(failure) => write!(f, ": {failure}"),
            None => Ok(()),
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward { destinations, path, timeout, retries, mirrors, max_request_body } => {
                for to in destinations {
                    let nowhere = "nowhere: 503, the service, port or subset does not exist";
                    writeln!(f, "forward  {:.1}% to {}", to.percent, to.cluster.as_deref().unwrap_or(nowhere))?;
                    if let Some(authority) = &to.authority {
                        writeln!(f, "         host becomes {authority}")?;
                    }
                    write_headers(f, "request", &to.request_headers)?;
                    write_headers(f, "response", &to.response_headers)?;
                }
                if let Some(path) = path {
                    writeln!(f, "         path becomes {path}")?;
                }
                if let Some(timeout) = timeout {
                    writeln!(f, "         timeout {timeout:?}")?;
                }
                if let Some(retries) = retries.as_deref().filter(|retries| !retries.default) {
                    let ExplainedRetries { attempts, per_try_timeout, on, .. } = retries;
                    let each = per_try_timeout.map_or_else(String::new, |time| format!(", each try within {time:?}"));
                    writeln!(f, "         up to {attempts} retries on {on}{each}")?;
                }
                if let Some(bytes) = max_request_body {
                    writeln!(f, "         a body of up to {bytes} bytes; a longer one is answered 413")?;
                }
                for ExplainedMirror { cluster, percent } in mirrors {
                    writeln!(f, "         {percent}% copied to {}", cluster.as_deref().unwrap_or("nowhere"))?;
                }
                Ok(())
            }
            Self::Connection { handling, destinations } => {
                for to in destinations {
                    let nowhere = "nowhere: closed, the service, port or subset does not exist";
                    write!(f, "connect  {:.1}% to {}", to.percent, to.cluster.as_deref().unwrap_or(nowhere))?;
                    let through = to.tunnel.as_ref().map_or_else(String::new, |asked| format!(", by {asked}"));
                    writeln!(f, "{through}")?;
                }
                writeln!(f, "         {handling}")
            }
            Self::Redirect { status, location, response_headers } => {
                writeln!(f, "redirect {status} to {location}")?;
                write_headers(f, "response", response_headers)
            }
            Self::Direct { status, body_length, response_headers } => {
                writeln!(f, "direct   {status} with {body_length} bytes")?;
                write_headers(f, "response", response_headers)
            }
            Self::HttpsRedirect { location } => {
                writeln!(f, "redirect 301 to {location}, as the server's httpsRedirect says")
            }
            Self::Refused { status: Some(status), reason } => writeln!(f, "refused  {status}: {reason}"),
            Self::Refused { status: None, reason } => writeln!(f, "refused  without an answer: {reason}"),
        }
    }
}

fn write_headers(f: &mut Formatter<'_>, which: &str, operations: &[HeaderOperation]) -> fmt::Result {
    for HeaderOperation { operation, name, value } in operations {
        let operation = match operation {
            Operation::Remove => "remove",
            Operation::Set => "set",
            Operation::Add => "add",
        };
        write!(f, "         {which} header: {operation} {name}")?;
        match value {
            Some(value) => writeln!(f, " {value}")?,
            None => writeln!(f)?,
        }
    }
    Ok(())
}
