//! Tokens that were verified before, kept by each worker, so that a token that comes again costs a look-up.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::rc::Rc;

use foldhash::quality::RandomState;
use http::{HeaderName, HeaderValue};
use route_model::request::claims::Claims;
use smallvec::SmallVec;

/// What is kept of tokens on one worker, in bytes of their text.
const MAX_BYTES: usize = 4 * 1024 * 1024;
const MAX_TOKENS: usize = 8192;
/// A longer token is verified each time.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A token whose signature was found true.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) claims: Claims,
    /// What upstreams are told of it.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Seconds since 1970.
    pub(super) expires: Option<i64>,
    pub(super) not_before: Option<i64>,
    /// Which keys it was verified with.
    pub(super) keys: u64,
}

/// The verified tokens of a worker. Only what was verified gets in, and what is not asked for gets out first.
///
/// A token is found by a hash with a secret of this worker and then compared whole: no other text is ever taken for it.
#[derive(Default)]
pub(crate) struct TokenCache {
    hasher: RandomState,
    tokens: HashMap<u64, Entry, foldhash::fast::RandomState>,
    /// By age; what was asked for meanwhile gets another turn.
    order: VecDeque<u64>,
    bytes: usize,
}

struct Entry {
    /// Of the rules that the token was verified by.
    rules: u64,
    token: Box<str>,
    issuer: Box<str>,
    verified: SmallVec<[(usize, Rc<Verified>); 1]>,
    asked: bool,
}

/// Tokens are nothing to be written anywhere.
impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A token that is known.
pub(super) struct Known<'c> {
    pub(super) issuer: &'c str,
    /// `None`: not by this rule.
    pub(super) verified: Option<&'c Rc<Verified>>,
}

impl TokenCache {
    /// What is known of a token under these rules, for the one with this index.
    pub(super) fn get(&mut self, rules: u64, rule: usize, token: &str) -> Option<Known<'_>> {
        let entry = self.tokens.get_mut(&self.hash(rules, token))?;
        if entry.rules != rules || *entry.token != *token {
            return None;
        }
        entry.asked = true;
        let verified = entry.verified.iter().find(|(by, _)| *by == rule).map(|(_, verified)| verified);
        Some(Known { issuer: &entry.issuer, verified })
    }

    /// Keeps a token that was verified.
    pub(super) fn insert(&mut self, rules: u64, rule: usize, token: &str, verified: &Rc<Verified>) {
        if token.len() > MAX_TOKEN_BYTES {
            return;
        }
        let hash = self.hash(rules, token);
        if let Some(entry) = self.tokens.get_mut(&hash) {
            if entry.rules == rules && *entry.token == *token {
                entry.verified.retain(|(by, _)| *by != rule);
                entry.verified.push((rule, Rc::clone(verified)));
            }
            // Of two tokens with one hash the older stays; there are none in practice.
            return;
        }
        while self.tokens.len() >= MAX_TOKENS || self.bytes + token.len() > MAX_BYTES {
            self.evict();
        }
        self.bytes += token.len();
        self.order.push_back(hash);
        let issuer = verified.claims.issuer().unwrap_or_default().into();
        let verified = SmallVec::from_elem((rule, Rc::clone(verified)), 1);
        self.tokens.insert(hash, Entry { rules, token: token.into(), issuer, verified, asked: false });
    }

    fn evict(&mut self) {
        while let Some(oldest) = self.order.pop_front() {
            match self.tokens.get_mut(&oldest) {
                Some(entry) if entry.asked => {
                    entry.asked = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    if let Some(gone) = self.tokens.remove(&oldest) {
                        self.bytes -= gone.token.len();
                    }
                    return;
                }
            }
        }
    }

    fn hash(&self, rules: u64, token: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        rules.hash(&mut hasher);
        token.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verified(issuer: &str) -> Rc<Verified> {
        let payload = json!({"iss": issuer}).as_object().expect("an object").clone();
        let claims = Claims::new(payload, &[]);
        Rc::new(Verified { claims, headers: Vec::new(), expires: None, not_before: None, keys: 0 })
    }

    fn is_known(cache: &mut TokenCache, rules: u64, rule: usize, token: &str) -> bool {
        cache.get(rules, rule, token).is_some_and(|known| known.verified.is_some())
    }

    #[test]
    fn a_token_is_known_to_the_rule_that_verified_it() {
        let mut cache = TokenCache::default();
        cache.insert(1, 0, "token", &verified("i"));
        assert!(is_known(&mut cache, 1, 0, "token"));
        assert!(!is_known(&mut cache, 1, 1, "token"));
        assert_eq!(cache.get(1, 1, "token").map(|known| known.issuer.to_owned()).as_deref(), Some("i"));
        assert!(cache.get(2, 0, "token").is_none());
        assert!(cache.get(1, 0, "other").is_none());
        cache.insert(1, 1, "token", &verified("i"));
        assert!(is_known(&mut cache, 1, 0, "token") && is_known(&mut cache, 1, 1, "token"));
    }

    #[test]
    fn what_is_asked_for_stays_and_nothing_grows_without_end() {
        let mut cache = TokenCache::default();
        let one = verified("i");
        cache.insert(1, 0, "asked", &one);
        for n in 0..3 * MAX_TOKENS {
            assert!(is_known(&mut cache, 1, 0, "asked"), "{n}");
            cache.insert(1, 0, &format!("token {n}"), &one);
        }
        assert_eq!((cache.tokens.len(), cache.order.len()), (MAX_TOKENS, MAX_TOKENS));
        assert!(!is_known(&mut cache, 1, 0, "token 0"));
        let long = "x".repeat(MAX_TOKEN_BYTES - 8);
        for n in 0..3 * MAX_BYTES / MAX_TOKEN_BYTES {
            cache.insert(1, 0, &format!("{long}{n:08}"), &one);
        }
        assert!(cache.bytes <= MAX_BYTES);
        assert_eq!(cache.bytes, cache.tokens.values().map(|entry| entry.token.len()).sum::<usize>());
        cache.insert(1, 0, &"x".repeat(MAX_TOKEN_BYTES + 1), &one);
        assert!(!is_known(&mut cache, 1, 0, &"x".repeat(MAX_TOKEN_BYTES + 1)));
    }
}
