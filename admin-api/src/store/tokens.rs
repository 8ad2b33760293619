//! Join tokens and API tokens as they are kept: by hash, never as such.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde_json::Value;

/// The SHA-256 of a token. Tokens are 256 random bits, so a fast hash without a salt hides them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// A proxy's first connection.
    Join,
    /// Calls to the REST API.
    Api,
}

impl TokenUse {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Api => "api",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Join, Self::Api].into_iter().find(|u| u.as_str() == name)
    }
}

/// A token without its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Public: shown in lists, used to revoke it.
    pub id: String,
    pub hash: TokenHash,
    pub purpose: TokenUse,
    /// Whom it stands for, or what for: written into the author of a revision.
    pub name: String,
    /// What it allows; the auth room defines the shape.
    pub scope: Value,
    pub created_at: Timestamp,
    pub created_by: String,
    /// Never, if none.
    pub expires_at: Option<Timestamp>,
    /// Any number, if none; 1 for a token that serves once.
    pub uses_left: Option<u32>,
    /// By [`use_token`](super::Store::use_token); API tokens are only looked up, so they have none.
    pub last_used_at: Option<Timestamp>,
}

impl Token {
    /// Whether it counts at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end) && self.uses_left != Some(0)
    }
}
