//! Which proxies may join.
//!
//! A join token lets proxies of one service account of one namespace in until it expires, or once. A proxy that was let in stays a member: it
//! comes back with the same token although that has expired or is used up, for as long as the token is not revoked.
//! When it is, the sessions that it let in end.
//! So a control plane that restarts after a day does not lose its proxies, and needs no database to know them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use push::message::{DEFAULT_SERVICE_ACCOUNT, Hello};
use push::server::{Caller, Peer, Refusal};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::store::{Snapshot, Token, TokenHash, TokenUse};

/// What a join token allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JoinScope {
    /// Where the proxies run.
    pub(super) namespace: String,
    /// What they run as. Tokens that were made before there were service accounts name none.
    #[serde(default = "default_service_account")]
    pub(super) service_account: String,
    pub(super) single_use: bool,
}

pub(super) fn default_service_account() -> String {
    DEFAULT_SERVICE_ACCOUNT.to_owned()
}

impl JoinScope {
    /// `None` when the token is for something else.
    pub(super) fn of(token: &Token) -> Option<Self> {
        if token.purpose != TokenUse::Join {
            return None;
        }
        serde_json::from_value(token.scope.clone()).ok()
    }
}

#[derive(Debug)]
pub(super) struct Admission {
    snapshot: Snapshot,
    /// Node to the id of the token that it joined with.
    members: Mutex<HashMap<String, String>>,
}

impl Admission {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, members: Mutex::default() }
    }

    /// Learns of members that joined at another replica or before the start.
    pub(super) fn remember(&self, members: impl IntoIterator<Item = (String, String)>) {
        self.lock().extend(members);
    }

    /// The token that a node joined with.
    pub(super) fn token_of(&self, node: &str) -> Option<String> {
        self.lock().get(node).cloned()
    }

    /// Decides about a proxy whose certificate, if any, does not say that it may. Answers whether it is a new member,
    /// whom the caller writes down before it lets it in.
    pub(super) async fn admit(&self, caller: &Caller, hello: &Hello) -> Result<Admitted, Refusal> {
        let peer = caller.peer;
        if peer == Peer::InProcess {
            return Ok(Admitted::Known);
        }
        let text =
            caller.token.as_ref().ok_or_else(|| Refusal::Unauthenticated("a join token is required".to_owned()))?;
        let hash = TokenHash::of(text.as_str());
        let known = self.snapshot.view().token(&hash).cloned();
        // A token made a moment ago at another replica is not in the snapshot yet, but the store counts uses itself.
        let scope = known.as_deref().map(|token| (token, JoinScope::of(token)));
        if let Some((token, scope)) = &scope {
            Self::check(token, scope.as_ref(), hello)?;
            if self.lock().get(&hello.node) == Some(&token.id) {
                return Ok(Admitted::Known);
            }
        }
        let used = self.snapshot.store().use_token(&hash).await.map_err(|error| {
            warn!(node = hello.node, %error, "a proxy cannot join now");
            Refusal::Unavailable("the database is not available, so no new proxy can join".to_owned())
        })?;
        let Some(used) = used else { return self.without_use(known.as_deref(), hello).await };
        Self::check(&used, JoinScope::of(&used).as_ref(), hello)?;
        info!(node = hello.node, token = used.id, ?peer, "a proxy joined");
        self.lock().insert(hello.node.clone(), used.id.clone());
        Ok(Admitted::New)
    }

    fn check(token: &Token, scope: Option<&JoinScope>, hello: &Hello) -> Result<(), Refusal> {
        let scope = scope.ok_or_else(|| Refusal::Unauthenticated("the token is no join token".to_owned()))?;
        if scope.namespace != hello.namespace {
            return Err(Refusal::PermissionDenied(format!(
                "the join token {} is for proxies in namespace {}, this one says it is in {}",
                token.id, scope.namespace, hello.namespace
            )));
        }
        if scope.service_account != hello.service_account() {
            return Err(Refusal::PermissionDenied(format!(
                "the join token {} is for service account {} in namespace {}, this proxy says it runs as {}",
                token.id,
                scope.service_account,
                scope.namespace,
                hello.service_account()
            )));
        }
        Ok(())
    }

    /// The token has no use left: only who is a member already gets in.
    async fn without_use(&self, token: Option<&Token>, hello: &Hello) -> Result<Admitted, Refusal> {
        let unknown = || Refusal::Unauthenticated("the join token is not known; it may have been revoked".to_owned());
        let token = token.ok_or_else(unknown)?;
        // It may have joined at another replica a moment ago.
        let states = self.snapshot.store().proxies(super::STALE_AFTER, None).await.unwrap_or_default();
        self.remember(states.iter().filter_map(super::roster::membership));
        if self.lock().get(&hello.node) == Some(&token.id) {
            return Ok(Admitted::Known);
        }
        let expired = token.expires_at.is_some_and(|end| end <= Timestamp::now());
        let reason = if expired { "has expired" } else { "was used already" };
        Err(Refusal::Unauthenticated(format!("the join token {} {reason}; make another", token.id)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy that may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Known,
    New,
}

/// A token's text and what the store keeps of it.
pub(super) fn new_token(
    scope: &JoinScope,
    expires_at: Timestamp,
    created_by: &str,
) -> Result<(String, Token), aws_lc_rs::error::Unspecified> {
    let text = format!("fwj_{}", crate::auth::generate_token()?);
    let mut id = [0; 6];
    aws_lc_rs::rand::fill(&mut id)?;
    let token = Token {
        id: format!("join-{}", crate::base64_url(&id).to_ascii_lowercase().replace(['-', '_'], "x")),
        hash: TokenHash::of(&text),
        purpose: TokenUse::Join,
        name: format!("proxies of {}/{}", scope.namespace, scope.service_account),
        scope: serde_json::json!(scope),
        created_at: Timestamp::now(),
        created_by: created_by.to_owned(),
        expires_at: Some(expires_at),
        uses_left: scope.single_use.then_some(1),
        last_used_at: None,
    };
    Ok((text, token))
}
