//! Authorization: holds requests and connections against the policies, and counts what these say.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use route_model::meta::ResourceKey;
use route_model::table::{Listener, ListenerProtocol, Lookup, RequestHead, RouteTable};
use route_model::verdict::authorization::{Action, Authorization, Denial, Facts, Policy, Verdict};

use crate::http::context::{Connection, Routes};
use crate::http::facts::ConnectionFacts;
use crate::telemetry::authorization::{AuthorizationSeries, Verdicts};

/// The policies of a table, with what is counted of them.
#[derive(Debug)]
pub(crate) struct Enforcement {
    policies: Arc<Authorization>,
    /// One for each policy.
    counts: Box<[Arc<Verdicts>]>,
    /// What no ALLOW rule took.
    unmatched: Arc<Verdicts>,
}

/// The counts of all policies, from table to table.
#[derive(Debug, Default)]
pub(crate) struct AuthorizationStates {
    kept: HashMap<ResourceKey, Arc<Verdicts>, foldhash::fast::RandomState>,
    unmatched: Arc<Verdicts>,
}

impl AuthorizationStates {
    /// `None`: there are no policies.
    pub(crate) fn enforcement(&mut self, table: &RouteTable) -> Option<Enforcement> {
        let policies = &table.authorization;
        let before = std::mem::take(&mut self.kept);
        for policy in policies.policies() {
            let known = before.get(&policy.resource).cloned().unwrap_or_default();
            self.kept.insert(policy.resource.clone(), known);
        }
        let counts = policies.policies().iter().filter_map(|policy| self.kept.get(&policy.resource).cloned());
        (!policies.is_empty()).then(|| Enforcement {
            policies: Arc::clone(policies),
            counts: counts.collect(),
            unmatched: Arc::clone(&self.unmatched),
        })
    }

    /// What there is to count, for the policies of a table.
    pub(crate) fn series(&self, table: &RouteTable) -> Vec<AuthorizationSeries> {
        let policies = table.authorization.policies();
        let series = policies.iter().filter_map(|policy| {
            let verdicts = Arc::clone(self.kept.get(&policy.resource)?);
            let ResourceKey { namespace, name, .. } = &policy.resource;
            Some(AuthorizationSeries { policy: format!("{namespace}/{name}"), results: results(policy), verdicts })
        });
        let mut series: Vec<_> = series.collect();
        if !series.is_empty() {
            // Without a name, because it is no policy in particular that did not allow them.
            let verdicts = Arc::clone(&self.unmatched);
            series.push(AuthorizationSeries { policy: String::new(), results: ["denied", "shadow_denied"], verdicts });
        }
        series
    }
}

/// What a policy says of what it takes: in force, and on trial; empty where it never says so.
fn results(policy: &Policy) -> [&'static str; 2] {
    match (policy.action, policy.dry_run) {
        (Action::Allow, false) => ["allowed", ""],
        (Action::Allow, true) => ["", "shadow_allowed"],
        (Action::Deny | Action::Custom, false) => ["denied", ""],
        (Action::Deny | Action::Custom, true) => ["", "shadow_denied"],
        (Action::Audit, _) => ["audited", ""],
    }
}

impl Enforcement {
    /// Whether there is anything to ask before a request's tokens are looked at.
    pub(crate) fn has_external(&self) -> bool {
        self.policies.has_external()
    }

    /// Whether a request may pass the CUSTOM policies, which come before tokens.
    ///
    /// # Errors
    /// As of [`admits_request`](Self::admits_request).
    pub(crate) fn admits_before_tokens(
        &self,
        connection: &Connection,
        client: IpAddr,
        entrance: Routes<'_>,
        found: Lookup<'_>,
        head: &RequestHead<'_>,
    ) -> Result<(), Option<Arc<str>>> {
        let listener = entrance.listener();
        let facts = facts(&connection.facts, client, listener, Some(head));
        let taking = self.policies.judge_external(concerned(listener, gateway(entrance, found)), &facts);
        self.settle(&Verdict { denied: taking.map(Denial::By), ..Verdict::default() }, &connection.facts)
    }

    /// Whether a request may pass; `asked`: whose CUSTOM policies were asked before, if any were.
    ///
    /// # Errors
    /// It may not, and why, where a rule says so: its response code details.
    pub(crate) fn admits_request(
        &self,
        connection: &Connection,
        client: IpAddr,
        entrance: Routes<'_>,
        found: Lookup<'_>,
        head: &RequestHead<'_>,
        asked: Option<Asked<'_>>,
    ) -> Result<(), Option<Arc<str>>> {
        let listener = entrance.listener();
        let facts = facts(&connection.facts, client, listener, Some(head));
        let gateway = gateway(entrance, found);
        let gateways = concerned(listener, gateway);
        // What the token says may lead to a route of another Gateway on the port.
        let verdict = if asked.is_some_and(|asked| asked.0 == gateway) {
            self.policies.judge_own(gateways, &facts)
        } else {
            self.policies.judge(gateways, &facts)
        };
        self.settle(&verdict, &connection.facts)
    }

    /// Whether a connection that is not HTTP to the proxy may pass; the same error.
    pub(crate) fn admits_connection(
        &self,
        connection: &ConnectionFacts,
        listener: &Listener,
        gateway: Option<&ResourceKey>,
    ) -> Result<(), Option<Arc<str>>> {
        let facts = facts(connection, connection.peer.ip(), listener, None);
        self.settle(&self.policies.judge(concerned(listener, gateway), &facts), connection)
    }

    /// Counts a verdict, and says whether it lets pass.
    fn settle(&self, verdict: &Verdict<'_>, connection: &ConnectionFacts) -> Result<(), Option<Arc<str>>> {
        for found in [verdict.allowed, verdict.audited].into_iter().flatten() {
            self.counts[found.policy].in_force();
        }
        if let Some(found) = verdict.trial_allowed {
            self.counts[found.policy].on_trial();
        }
        if let Some(denial) = &verdict.trial_denied {
            self.of(denial).on_trial();
            tracing::debug!(peer = %connection.peer, by = by(denial), "a policy on trial would have denied a request");
        }
        if let Some(found) = verdict.audited {
            tracing::debug!(peer = %connection.peer, by = &*found.rule.denial, "a request is to be audited");
        }
        let Some(denial) = &verdict.denied else { return Ok(()) };
        self.of(denial).in_force();
        Err(denial.details().cloned())
    }

    fn of(&self, denial: &Denial<'_>) -> &Verdicts {
        match denial {
            Denial::By(found) => &self.counts[found.policy],
            Denial::NotAllowed => &self.unmatched,
        }
    }
}

/// The Gateways whose policies are asked: the one whose server took it, or all of the port where it could be any's.
fn concerned<'t>(
    listener: &'t Listener,
    gateway: Option<&'t ResourceKey>,
) -> impl Iterator<Item = &'t ResourceKey> + Clone {
    let all = gateway.is_none().then(|| listener.gateways());
    gateway.into_iter().chain(all.into_iter().flatten())
}

/// Of which Gateway the policies were asked; `None`: of all that share the port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'t>(Option<&'t ResourceKey>);

impl<'t> Asked<'t> {
    /// Those for a request that is found this route.
    pub(crate) fn of(entrance: Routes<'t>, found: Lookup<'t>) -> Self {
        Self(gateway(entrance, found))
    }
}

/// The Gateway that a request belongs to; `None`: it may be any of the port.
fn gateway<'t>(entrance: Routes<'t>, found: Lookup<'t>) -> Option<&'t ResourceKey> {
    let of_route = match found {
        Lookup::Route(_, route) => route.gateway.as_deref(),
        _ => None,
    };
    of_route.or(entrance.gateway())
}

fn by<'a>(denial: &'a Denial<'_>) -> &'a str {
    denial.details().map_or(route_model::verdict::authorization::NOT_ALLOWED, |details| &**details)
}

fn facts<'a>(
    connection: &'a ConnectionFacts,
    client: IpAddr,
    listener: &Listener,
    head: Option<&'a RequestHead<'a>>,
) -> Facts<'a> {
    Facts {
        head,
        peer: connection.peer.ip(),
        client,
        destination: connection.local.ip(),
        // What others open to a sidecar's application comes in by ports that are the sidecar's own.
        port: match &listener.protocol {
            ListenerProtocol::Inbound { .. } => connection.local.port(),
            _ => listener.port,
        },
        sni: connection.server_name(),
        principals: connection.principals(),
    }
}
