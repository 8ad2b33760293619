//! Rate limits: asks every limit that a request is under, in order, and gives back what it took where one refuses.

mod bucket;
mod buckets;
mod state;
pub(crate) mod top;

use std::hash::RandomState;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};
use route_model::request::headers::Headers;
use route_model::table::RequestHead;
use route_model::verdict::limits::{LimitRule, Refusal, RouteLimits, together};
use smallvec::SmallVec;

pub(crate) use self::state::{LimitStates, PolicyState};

use self::bucket::{Take, Taken};
use self::buckets::Place;
use self::state::RuleState;
use crate::http::local_reply::text_response;
use crate::http::message::Response;

/// As in draft-ietf-httpapi-ratelimit-headers-10.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What all rate limits of a process share: one clock, and a secret by which keys are hashed.
#[derive(Debug)]
pub(crate) struct Common {
    epoch: Instant,
    hasher: RandomState,
}

impl Common {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), hasher: RandomState::new() }
    }

    /// Nanoseconds, for some centuries.
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

/// What the limits of a route say about a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// With what the answer is to say; `None`: no rule that is enforced counts the request.
    Admitted(Option<Box<Standing>>),
    Refused(Response<Bytes>),
}

/// How a client stands with the limits that count its request.
#[derive(Debug)]
pub(crate) struct Standing {
    advertised: SmallVec<[HeaderValue; 2]>,
    tightest: HeaderValue,
}

impl Standing {
    /// Tells the client.
    pub(crate) fn tell(self, headers: &mut Headers) {
        for policy in self.advertised {
            headers.append(RATELIMIT_POLICY, policy);
        }
        headers.append(RATELIMIT, self.tightest);
    }
}

/// Something that was taken for a request.
struct Share<'t> {
    state: &'t RuleState,
    rule: &'t LimitRule,
    enforced: bool,
    taken: Taken,
    place: Place,
}

/// Takes a request's share from every bucket that it is under: of its route, then of the service that it goes to.
pub(crate) fn ask(
    route: Option<&RouteLimits>,
    service: Option<&RouteLimits>,
    states: &[Option<std::sync::Arc<PolicyState>>],
    head: &RequestHead<'_>,
    client: IpAddr,
    common: &Common,
) -> Verdict {
    let clock = || common.now();
    let mut shares: SmallVec<[Share<'_>; 4]> = SmallVec::new();
    for (whose, policy) in together(route, service) {
        // By number, so that the state is the newest one's of this policy.
        let Some(state) = states.get(policy.id.index()).and_then(Option::as_ref) else { continue };
        let policy = &state.policy;
        let first = shares.len();
        for (rule, state) in policy.rules.iter().zip(&state.rules) {
            if !rule.counts(head) {
                continue;
            }
            let key = if rule.is_keyless(policy) {
                None
            } else {
                let route = policy.per_route.then_some(whose);
                let Some(key) = rule.bucket(route, head, client, &common.hasher) else { continue };
                Some(key)
            };
            let (take, place) = state.kept.buckets.take(key, state.gcra, rule.cost(head.headers), clock);
            if place == Place::Overflow {
                state.kept.counts.overflow.add();
            }
            match take {
                Take::Admitted(taken) => {
                    shares.push(Share { state, rule, enforced: policy.enforced, taken, place });
                }
                Take::Refused { wait, reset } if policy.enforced => {
                    state.kept.counts.limited.add();
                    note_key(state, rule, key, head, client);
                    shares.iter().for_each(|share| share.give_back(clock));
                    let counted = shares.iter().filter(|share| share.enforced).map(|share| share.rule);
                    let advertised = counted.chain([rule]).map(|rule| rule.advertised.clone()).collect();
                    let standing = Standing { advertised, tightest: standing(&rule.name, 0, reset) };
                    return Verdict::Refused(refuse(&policy.refusal, wait, standing));
                }
                Take::Refused { .. } => {
                    // Were the policy enforced, the request would end here.
                    state.kept.counts.would_limit.add();
                    note_key(state, rule, key, head, client);
                    shares.drain(first..).for_each(|share| share.give_back(clock));
                    break;
                }
            }
        }
    }
    let mut tightest: Option<&Share<'_>> = None;
    for share in &shares {
        share.state.kept.counts.admitted.add();
        if share.enforced && tightest.is_none_or(|tightest| share.taken.remaining < tightest.taken.remaining) {
            tightest = Some(share);
        }
    }
    Verdict::Admitted(tightest.map(|tightest| {
        Box::new(Standing {
            advertised: shares
                .iter()
                .filter(|share| share.enforced)
                .map(|share| share.rule.advertised.clone())
                .collect(),
            tightest: standing(&tightest.rule.name, tightest.taken.remaining, tightest.taken.reset),
        })
    }))
}

fn note_key(state: &RuleState, rule: &LimitRule, key: Option<u64>, head: &RequestHead<'_>, client: IpAddr) {
    if let Some(key) = key {
        state.kept.counts.top.note(key, || top::describe(rule, head, client));
    }
}

impl Share<'_> {
    fn give_back(&self, clock: impl Fn() -> u64) {
        self.state.kept.buckets.give_back(self.place, self.taken, clock);
    }
}

/// An item of `RateLimit` (section 4 of the draft): requests left, and seconds until the bucket is full.
fn standing(name: &str, remaining: u64, reset: Duration) -> HeaderValue {
    let text = format!("\"{name}\";r={remaining};t={}", seconds(reset));
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// Whole seconds, rounded up: who comes back then does not come too early.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn refuse(refusal: &Refusal, wait: Option<Duration>, standing: Standing) -> Response<Bytes> {
    let mut response = text_response(refusal.status, refusal.body.clone());
    let headers = response.headers_mut();
    if let Some(wait) = wait {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
    }
    standing.tell(headers);
    for (name, value) in &refusal.headers {
        headers.insert(name.clone(), value.clone());
    }
    response
}
