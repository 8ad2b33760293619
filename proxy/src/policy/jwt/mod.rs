//! Tokens: requests are held against the rules of RequestAuthentications before their routes are looked up.

mod cache;
mod fetch;
mod keys;
mod verify;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use route_model::table::authentication::{Authentication, TokenPlace};
use route_model::table::{HttpRoutes, ListenerProtocol, RouteTable};
use route_model::verdict::authentication::{
    Token, TokenFault, TokenVerdict, is_preflight, query_without, remove, timely,
};
use smallvec::SmallVec;
use tokio::time::Instant;

pub(crate) use self::cache::{TokenCache, Verified};
pub(crate) use self::keys::{KeyStore, Schedule};

use self::keys::{IssuerKeys, Miss};
use crate::http::local_reply::text_response;
use crate::http::message::{RequestParts, Response};
use crate::http::request::{asked, replace_target};
use crate::telemetry::metrics::{Count, WorkerMetrics};
use crate::worker::Worker;

/// The longest path that `www-authenticate` repeats, in bytes; as in Envoy.
const MAX_REALM_PATH: usize = 256;

/// The rules of a table, ready to run, by the address of what they were made of.
#[derive(Debug, Default)]
pub(crate) struct Verifiers(HashMap<usize, Arc<Verifier>, foldhash::fast::RandomState>);

/// What requests of some hosts are held against.
#[derive(Debug)]
struct Verifier {
    authentication: Arc<Authentication>,
    /// No two verifiers have the same, so that tokens are never taken for verified by other rules.
    serial: u64,
    /// One for each rule.
    keys: Box<[Arc<IssuerKeys>]>,
}

impl Verifiers {
    /// Makes the rules of a table ready. What is in `previous` stays as it is.
    pub(crate) fn new(table: &RouteTable, previous: &Self, store: &mut KeyStore) -> Self {
        static SERIALS: AtomicU64 = AtomicU64::new(0);
        let mut verifiers = Self::default();
        for authentication in authentications(table) {
            let address = Arc::as_ptr(authentication).addr();
            verifiers.0.entry(address).or_insert_with(|| {
                let known = previous.0.get(&address);
                known.filter(|known| Arc::ptr_eq(&known.authentication, authentication)).cloned().unwrap_or_else(|| {
                    Arc::new(Verifier {
                        authentication: Arc::clone(authentication),
                        serial: SERIALS.fetch_add(1, Ordering::Relaxed),
                        keys: authentication.rules.iter().map(|rule| store.keys(&rule.keys, rule.timeout)).collect(),
                    })
                })
            });
        }
        let used: HashSet<_> =
            verifiers.0.values().flat_map(|verifier| verifier.keys.iter()).map(Arc::as_ptr).collect();
        store.retain(&used);
        verifiers
    }

    fn of(&self, authentication: &Arc<Authentication>) -> Option<&Verifier> {
        self.0.get(&Arc::as_ptr(authentication).addr()).map(|verifier| &**verifier)
    }
}

fn authentications(table: &RouteTable) -> impl Iterator<Item = &Arc<Authentication>> {
    let routes = table.listeners.iter().flat_map(|listener| {
        let routes: SmallVec<[&HttpRoutes; 1]> = match &listener.protocol {
            ListenerProtocol::Http(routes) => SmallVec::from_elem(&**routes, 1),
            ListenerProtocol::Tls(tls) => tls.servers.iter().filter_map(|server| Some(&**server.http()?)).collect(),
            ListenerProtocol::Inbound { inbound, .. } => {
                inbound.ports.values().chain([&inbound.other]).map(|port| &*port.routes.http).collect()
            }
            // What the application asks for is for others to verify.
            ListenerProtocol::Tcp(_) | ListenerProtocol::Service(_) | ListenerProtocol::Outbound(_) => SmallVec::new(),
        };
        routes
    });
    routes.flat_map(|routes| routes.authentication.all())
}

/// Holds a request against the rules of its host, and changes it as they say: headers that only the proxy writes are
/// written, tokens that go no further are taken out. Answers who sends it; `None`: nobody says so.
///
/// # Errors
/// A token is not accepted.
pub(crate) async fn authenticate(
    worker: &Worker,
    verifiers: &Verifiers,
    authentication: &Arc<Authentication>,
    head: &mut RequestParts,
    scheme: &str,
) -> Result<Option<Rc<Verified>>, TokenFault> {
    let outcome = identify(worker, verifiers, authentication, head, scheme).await;
    if let Err(fault) = &outcome {
        worker.metrics.count(reason(*fault));
    }
    outcome
}

async fn identify(
    worker: &Worker,
    verifiers: &Verifiers,
    authentication: &Arc<Authentication>,
    head: &mut RequestParts,
    scheme: &str,
) -> Result<Option<Rc<Verified>>, TokenFault> {
    authentication.sanitise(&mut head.headers);
    if is_preflight(head.method.as_str(), &head.headers) {
        return Ok(None);
    }
    // There is one for whatever a table names; without one nothing could be verified.
    let Some(verifier) = verifiers.of(authentication) else { return Err(TokenFault::NoKeys) };
    let mut deadline = None;
    let (rule, verified, places) = loop {
        let mut awaited = None;
        let verdict = {
            let mut tokens = worker.tokens.borrow_mut();
            authentication.judge(&asked(head, scheme, None), |_, rule, token| {
                verifier.verify(&mut tokens, &worker.metrics, rule, token).map_err(|miss| match miss {
                    Miss::Fault(fault) => fault,
                    Miss::Later(fetches, fault) => {
                        awaited.get_or_insert((rule, fetches));
                        fault
                    }
                })
            })
        };
        match (verdict, awaited) {
            (TokenVerdict::None, _) => return Ok(None),
            (TokenVerdict::Accepted { rule, verified, found }, _) => {
                let places: SmallVec<[&TokenPlace; 1]> = found.iter().map(|(_, place)| *place).collect();
                break (&authentication.rules[rule], verified, places);
            }
            (TokenVerdict::Refused(fault), None) => return Err(fault),
            (TokenVerdict::Refused(fault), Some((rule, fetches))) => {
                let now = Instant::now();
                let deadline = *deadline.get_or_insert_with(|| now + authentication.rules[rule].timeout);
                let fetched = Box::pin(verifier.keys[rule].fetched(fetches));
                if now >= deadline || tokio::time::timeout_at(deadline, fetched).await.is_err() {
                    return Err(fault);
                }
            }
        }
    };
    if !rule.forward {
        for place in places {
            take_out(place, head);
        }
    }
    for (name, value) in &verified.headers {
        head.headers.append(name, value.clone());
    }
    Ok(Some(verified))
}

impl Verifier {
    /// Verifies a token by a rule, or finds that it was verified before.
    fn verify(
        &self,
        tokens: &mut TokenCache,
        metrics: &WorkerMetrics,
        rule: usize,
        text: &str,
    ) -> Result<Rc<Verified>, Miss> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let keys = &self.keys[rule];
        let rules = &self.authentication.rules;
        if let Some(known) = tokens.get(self.serial, rule, text) {
            if rules[rule].issuer.as_deref().is_some_and(|issuer| issuer != known.issuer) {
                return Err(Miss::Fault(TokenFault::UnknownIssuer));
            }
            if let Some(verified) = known.verified.filter(|verified| verified.keys == keys.generation()) {
                timely(verified.not_before, verified.expires, now).map_err(Miss::Fault)?;
                metrics.count(Count::TokensRemembered);
                return Ok(Rc::clone(verified));
            }
        }
        let rule_of_token = &rules[rule];
        let token = Token::parse(text).map_err(Miss::Fault)?;
        token.check(rule_of_token, Some(now)).map_err(Miss::Fault)?;
        let generation = keys.verify(&token)?;
        metrics.count(Count::TokensVerified);
        let verified = Rc::new(Verified {
            headers: token.headers(rule_of_token),
            expires: token.expires,
            not_before: token.not_before,
            keys: generation,
            claims: token.claims(rule_of_token),
        });
        tokens.insert(self.serial, rule, text, &verified);
        Ok(verified)
    }
}

/// What a refusal is counted as.
fn reason(fault: TokenFault) -> Count {
    match fault {
        TokenFault::Alg | TokenFault::AlgMissing | TokenFault::Es512 => Count::TokenAlgorithm,
        TokenFault::UnknownIssuer => Count::TokenIssuer,
        TokenFault::Audience => Count::TokenAudience,
        TokenFault::NotYetValid => Count::TokenTooEarly,
        TokenFault::Expired => Count::TokenExpired,
        TokenFault::Signature => Count::TokenSignature,
        TokenFault::NoKey => Count::TokenUnknownKey,
        TokenFault::NoKeys | TokenFault::Fetch => Count::TokenNoKeys,
        TokenFault::Form
        | TokenFault::HeaderBase64
        | TokenFault::HeaderJson
        | TokenFault::Kid
        | TokenFault::PayloadBase64
        | TokenFault::PayloadJson
        | TokenFault::Iss
        | TokenFault::Sub
        | TokenFault::Iat
        | TokenFault::Nbf
        | TokenFault::Exp
        | TokenFault::Jti
        | TokenFault::Aud
        | TokenFault::SignatureBase64 => Count::TokenMalformed,
    }
}

fn take_out(place: &TokenPlace, head: &mut RequestParts) {
    remove(place, &mut head.headers);
    let TokenPlace::Param(name) = place else { return };
    let Some(query) = head.uri.query() else { return };
    let target = match query_without(query, name) {
        Some(query) => format!("{}?{query}", head.uri.path()),
        None => head.uri.path().to_owned(),
    };
    // A part of what was a target is one.
    let _ = replace_target(&mut head.uri, Bytes::from(target));
}

/// The answer to a request whose token is not accepted, as Envoy gives it. The query stays out of it: it may hold the
/// token.
pub(crate) fn refusal(fault: TokenFault, head: &RequestParts, scheme: &str) -> Response<Bytes> {
    let mut response = text_response(fault.status(), Bytes::from(fault.to_string()));
    let request = asked(head, scheme, None);
    let path = &request.path[..request.path.len().min(MAX_REALM_PATH)];
    let challenge = format!("Bearer realm=\"{scheme}://{}{path}\", error=\"invalid_token\"", request.authority);
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::{Duration, Instant};

    use http::Request;
    use http::header::{AUTHORIZATION, HOST};
    use route_model::kind::Kind;
    use route_model::meta::ResourceKey;
    use route_model::table::authentication::{JwtRule, KeySource};
    use serde_json::json;
    use testkit::Issuer;

    use super::*;
    use crate::options::ProxyIdentity;
    use crate::telemetry::metrics::Metrics;

    /// Run alone: `cargo test --release -p proxy --lib repeated_tokens -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement, for a machine that does nothing else"]
    fn repeated_tokens_cost_less_than_a_microsecond() {
        const ROUNDS: u32 = 1_000_000;
        let issuer = Issuer::rsa("k");
        let rule = JwtRule {
            policy: ResourceKey::new(Kind::RequestAuthentication, "default", "p"),
            index: 0,
            issuer: Some("https://issuer.test".into()),
            audiences: Box::default(),
            keys: KeySource::Inline(issuer.jwks().into()),
            places: Box::new([TokenPlace::Bearer, TokenPlace::Param("access_token".into())]),
            payload_header: None,
            claim_headers: Box::default(),
            forward: false,
            timeout: Duration::from_secs(5),
            space_delimited: Box::default(),
        };
        let authentication = Arc::new(Authentication { rules: Box::new([rule]), written: Box::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut store = KeyStore::new(runtime.handle().clone(), Schedule::default());
        let keys = authentication.rules.iter().map(|rule| store.keys(&rule.keys, rule.timeout)).collect();
        let verifier = Verifier { authentication: Arc::clone(&authentication), serial: 0, keys };
        let payload = json!({"iss": "https://issuer.test", "sub": "ann", "groups": vec!["a group"; 40]});
        let bearer = format!("Bearer {}", issuer.token(&payload));
        let request = Request::get("/").header(HOST, "h").header(AUTHORIZATION, &bearer).body(()).unwrap();
        let head = RequestParts::from(request.into_parts().0);
        let mut tokens = TokenCache::default();
        let metrics = Metrics::new(ProxyIdentity::default()).worker();
        let mut judge = || {
            let verdict = authentication.judge(&asked(&head, "http", None), |_, rule, token| {
                verifier.verify(&mut tokens, &metrics, rule, token).map_err(|_| TokenFault::Signature)
            });
            assert!(matches!(verdict, TokenVerdict::Accepted { .. }));
        };
        judge();
        let begin = Instant::now();
        (0..ROUNDS).for_each(|_| judge());
        let each = begin.elapsed() / ROUNDS;
        println!("a repeated token of {} bytes costs {each:?}", bearer.len());
        assert!(each < Duration::from_micros(1), "{each:?}");
    }
}
