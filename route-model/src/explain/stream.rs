//! The steps of a connection that is not HTTP to the gateway.

use super::authorization::{self, Stage};
use super::request::Sent;
use super::steps::{MAX_LISTED, facts_of_connection};
use super::{ExplainedDestination, Explanation, Outcome, RuleVerdict};
use crate::matching::quoted;
use crate::table::{Listener, RouteTable, ServerRef, StreamFacts, StreamRoutes};

/// What the gateway does with the bytes of a connection.
#[derive(Clone, Copy)]
pub(super) enum Handling {
    Raw,
    PassThrough,
    /// It may ask clients for certificates.
    Terminate {
        asks: bool,
    },
}

impl Handling {
    pub(super) fn asks_for_certificates(self) -> bool {
        matches!(self, Self::Terminate { asks: true })
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Raw => "the bytes are passed on as they come, HTTP or not",
            Self::PassThrough => "TLS is passed on as it comes and never decrypted",
            Self::Terminate { .. } => "TLS ends here, and the bytes inside are passed on, HTTP or not",
        }
    }
}

/// Explains where a connection goes. The address connected to is the listener's, or 127.0.0.1 where it has none.
pub(super) fn explain(
    table: &RouteTable,
    listener: &Listener,
    server: &ServerRef,
    routes: &StreamRoutes,
    handling: Handling,
    sent: &Sent<'_>,
    explanation: &mut Explanation,
) -> Outcome {
    explanation.routes = Some(routes.name.to_string());
    explanation.servers = vec![format!("{} servers[{}]", server.gateway, server.index)];
    let shown = facts_of_connection(sent, listener.bind, handling.asks_for_certificates());
    let gateways = match handling {
        Handling::Raw => &listener.servers[..],
        Handling::PassThrough | Handling::Terminate { .. } => std::slice::from_ref(server),
    };
    let gateways = gateways.iter().map(|server| &server.gateway);
    if let Some(denied) = authorization::explain(table, gateways, &shown, Stage::All, explanation) {
        return denied;
    }
    let facts = StreamFacts { sni: shown.sni, destination: shown.destination, source: shown.peer };
    let found = routes.find(&facts);
    for (position, rule) in routes.rules().iter().enumerate() {
        let failure = rule.refusal(&facts);
        let taken = found.is_some_and(|found| std::sync::Arc::ptr_eq(found, rule));
        if failure.is_none() && !taken {
            // It would do, and one with a more specific name takes the connection.
            continue;
        }
        if explanation.rules.len() >= MAX_LISTED && !taken {
            explanation.skipped += 1;
            continue;
        }
        let resource = rule.origin.virtual_service.clone();
        explanation.rules.push(RuleVerdict {
            position,
            resource,
            path: rule.origin.path(),
            name: String::new(),
            failure,
        });
        if taken {
            break;
        }
    }
    let Some(rule) = found else {
        let reason = match (routes.rules().is_empty(), facts.sni) {
            (true, _) => "no VirtualService has a rule for this server, so the connection is closed".to_owned(),
            (false, Some(sni)) => format!("no rule takes the server name {}, so the connection is closed", quoted(sni)),
            (false, None) => "no rule takes the connection, so it is closed".to_owned(),
        };
        return Outcome::Refused { status: None, reason };
    };
    let destinations = rule.destinations.iter().map(|destination| ExplainedDestination {
        cluster: table.cluster(destination.cluster).map(|cluster| cluster.name.to_string()),
        percent: f64::from(destination.weight) * 100.0 / rule.total_weight as f64,
        authority: None,
        tunnel: table
            .cluster(destination.cluster)
            .and_then(|cluster| Some(cluster.policy.tunnel.as_ref()?.to_string())),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
    });
    Outcome::Connection { handling: handling.in_words().to_owned(), destinations: destinations.collect() }
}
