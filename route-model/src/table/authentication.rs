//! Which tokens a gateway or a workload accepts: RequestAuthentications, ready to run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, Uri};

use super::host::HostIndex;
use crate::meta::ResourceKey;
use crate::request::claims::ClaimPath;

/// All RequestAuthentications that a request is under, as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// By issuer. The first whose tokens are all in order speaks for the request.
    pub rules: Box<[JwtRule]>,
    /// Headers that only the proxy may write, in lower case: what clients send under these names never goes on.
    pub written: Box<[HeaderName]>,
}

/// `jwtRules[index]` of a RequestAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtRule {
    pub policy: ResourceKey,
    pub index: usize,
    /// `None`: any.
    pub issuer: Option<Box<str>>,
    /// Empty: any.
    pub audiences: Box<[Box<str>]>,
    pub keys: KeySource,
    /// Where tokens are looked for, in this order.
    pub places: Box<[TokenPlace]>,
    /// `outputPayloadToHeader`.
    pub payload_header: Option<HeaderName>,
    /// `outputClaimToHeaders`.
    pub claim_headers: Box<[(HeaderName, ClaimPath)]>,
    /// `forwardOriginalToken`; else the token is taken out of the request.
    pub forward: bool,
    /// For one fetch of the keys.
    pub timeout: Duration,
    /// `spaceDelimitedClaims`.
    pub space_delimited: Box<[Box<str>]>,
}

/// Where the keys of a rule come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// `jwks`.
    Inline(Arc<str>),
    /// `jwksUri`.
    Url(Arc<str>),
    /// The `jwks_uri` of the document at this URL (OpenID Connect Discovery 1.0, section 4): the issuer is one, and
    /// nothing else is written.
    Discovery(Arc<str>),
    /// The issuer is no URL and no keys are written: no token can be verified.
    None,
}

impl KeySource {
    /// Where something is fetched, if anything is.
    pub fn url(&self) -> Option<&Arc<str>> {
        match self {
            Self::Url(url) | Self::Discovery(url) => Some(url),
            Self::Inline(_) | Self::None => None,
        }
    }

    /// Whether something can be fetched there.
    pub fn is_url(text: &str) -> bool {
        text.parse::<Uri>().is_ok_and(|url| {
            let has_host = |authority: &Authority| !authority.host().is_empty() && !authority.as_str().contains('@');
            matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some_and(has_host)
        })
    }
}

/// A place of a request that may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// `Authorization: Bearer`, the scheme in any case (RFC 9110 section 11.1).
    Bearer,
    /// What follows the prefix, wherever that stands; with an empty one the whole value.
    Header {
        name: HeaderName,
        prefix: Box<str>,
    },
    Param(Box<str>),
    Cookie(Box<str>),
}

/// As a person names it.
impl fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("header `authorization`"),
            Self::Header { name, .. } => write!(f, "header `{name}`"),
            Self::Param(name) => write!(f, "query parameter `{name}`"),
            Self::Cookie(name) => write!(f, "cookie `{name}`"),
        }
    }
}

/// What the requests of a route configuration are under, which may be another for the hosts of each Gateway.
#[derive(Clone, Debug, Default)]
pub struct HostAuthentication {
    /// By the hosts of servers; empty where all hosts are alike.
    pub hosts: HostIndex<Option<Arc<Authentication>>>,
    /// For all other hosts.
    pub otherwise: Option<Arc<Authentication>>,
}

impl HostAuthentication {
    /// Whether no token is looked at, whatever the host.
    pub fn is_none(&self) -> bool {
        self.hosts.is_empty() && self.otherwise.is_none()
    }

    /// For a Host header or `:authority`; `None`: no token is looked at.
    pub fn of_authority(&self, authority: &str) -> Option<&Arc<Authentication>> {
        if self.hosts.is_empty() {
            return self.otherwise.as_ref();
        }
        self.hosts.find_authority(authority).unwrap_or(&self.otherwise).as_ref()
    }

    /// Everything that some request is under.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Authentication>> {
        self.hosts.iter().filter_map(|(_, authentication)| authentication.as_ref()).chain(&self.otherwise)
    }
}

impl PartialEq for HostAuthentication {
    fn eq(&self, other: &Self) -> bool {
        self.otherwise == other.otherwise && self.hosts.iter().eq(other.hosts.iter())
    }
}
