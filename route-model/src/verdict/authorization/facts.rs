//! What conditions may look at.

use std::fmt;
use std::net::IpAddr;

use http::HeaderValue;
use smallvec::SmallVec;

use crate::identity::{SPIFFE, WorkloadId};
use crate::matching::HeaderField;
use crate::request::claims::{ClaimPath, Claims};
use crate::table::RequestHead;

/// The facts about a request, or about a connection that is not HTTP to the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `None` for a connection.
    pub head: Option<&'a RequestHead<'a>>,
    /// The other end of the socket.
    pub peer: IpAddr,
    /// The client as far as it can be trusted.
    pub client: IpAddr,
    /// The address that the client connected to.
    pub destination: IpAddr,
    /// The port of the listener, as written in the Gateway.
    pub port: u16,
    /// In lower case.
    pub sni: Option<&'a str>,
    /// The names of the verified client certificate: its URIs, else its DNS names, else its subject.
    pub principals: &'a [Box<str>],
}

/// Something with a text for a value, or several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// In lower case, with the port.
    Host,
    Method,
    /// Normalised, without the query.
    Path,
    Header(HeaderField),
    /// In lower case.
    Sni,
    /// A SPIFFE identity without its scheme.
    Principal,
    Namespace,
    /// `namespace/sa/name`, a part of the identity.
    ServiceAccount,
    TrustDomain,
    /// `issuer/subject` of a verified token.
    RequestPrincipal,
    Audience,
    /// `azp`.
    Presenter,
    /// Of a verified token.
    Claim(ClaimPath),
}

/// Stands for the name of a client whose certificate has no SPIFFE identity: it is somebody, and none that a text can
/// name.
const NAMELESS: &[u8] = b"\0";

impl Attribute {
    /// Nobody but a request has it.
    pub fn is_of_http(&self) -> bool {
        !matches!(self, Self::Sni | Self::Principal | Self::Namespace | Self::ServiceAccount | Self::TrustDomain)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Method => f.write_str("the method"),
            Self::Path => f.write_str("the path"),
            Self::Header(field) => write!(f, "header {field}"),
            Self::Sni => f.write_str("the server name"),
            Self::Principal => f.write_str("the client certificate's identity"),
            Self::Namespace => f.write_str("the client certificate's namespace"),
            Self::ServiceAccount => f.write_str("the client certificate's service account"),
            Self::TrustDomain => f.write_str("the client certificate's trust domain"),
            Self::RequestPrincipal => f.write_str("the token's principal"),
            Self::Audience => f.write_str("the token's audience"),
            Self::Presenter => f.write_str("the token's presenter"),
            Self::Claim(path) => write!(f, "the token's claim {path}"),
        }
    }
}

impl Facts<'_> {
    /// Shows the values of an attribute until `is` accepts one; whether it did. Allocates nothing for texts of usual
    /// length.
    pub(super) fn any(&self, attribute: &Attribute, mut is: impl FnMut(&[u8]) -> bool) -> bool {
        match attribute {
            Attribute::Host => self.head.is_some_and(|head| is_in_lower_case(head.authority, is)),
            Attribute::Method => self.head.is_some_and(|head| is(head.method.as_bytes())),
            Attribute::Path => self.head.is_some_and(|head| is(head.path.as_bytes())),
            Attribute::Header(field) => self.head.is_some_and(|head| header(head, field, is)),
            Attribute::Sni => self.sni.is_some_and(|sni| is(sni.as_bytes())),
            Attribute::Principal => self.principals.iter().any(|name| match name.strip_prefix(SPIFFE) {
                Some(identity) => is(identity.as_bytes()),
                None => !name.is_empty() && is(NAMELESS),
            }),
            Attribute::Namespace => self.identities().any(|identity| is(identity.namespace.as_bytes())),
            Attribute::ServiceAccount => self.identities().any(|identity| is(identity.account.as_bytes())),
            Attribute::TrustDomain => self.identities().any(|identity| is(identity.trust_domain.as_bytes())),
            Attribute::RequestPrincipal => {
                self.claims().and_then(Claims::principal).is_some_and(|principal| is(principal.as_bytes()))
            }
            Attribute::Audience => {
                self.claims().into_iter().flat_map(Claims::audiences).any(|audience| is(audience.as_bytes()))
            }
            Attribute::Presenter => {
                self.claims().and_then(Claims::presenter).is_some_and(|presenter| is(presenter.as_bytes()))
            }
            Attribute::Claim(path) => {
                self.claims().into_iter().flat_map(|claims| claims.texts(path)).any(|text| is(text.as_bytes()))
            }
        }
    }

    fn claims(&self) -> Option<&Claims> {
        self.head?.claims
    }

    fn identities(&self) -> impl Iterator<Item = WorkloadId<'_>> {
        self.principals.iter().filter_map(|name| WorkloadId::parse(name))
    }
}

fn is_in_lower_case(text: &str, mut is: impl FnMut(&[u8]) -> bool) -> bool {
    if !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return is(text.as_bytes());
    }
    let mut lower = SmallVec::<[u8; 256]>::from_slice(text.as_bytes());
    lower.make_ascii_lowercase();
    is(&lower)
}

/// Several values of one name are one value, with commas between them, as Envoy has it.
fn header(head: &RequestHead<'_>, field: &HeaderField, mut is: impl FnMut(&[u8]) -> bool) -> bool {
    match field {
        HeaderField::Name(name) => {
            let mut values = head.headers.get_all(name).map(HeaderValue::as_bytes);
            let Some(first) = values.next() else { return false };
            let Some(second) = values.next() else { return is(first) };
            let mut joined = SmallVec::<[u8; 256]>::from_slice(first);
            for value in std::iter::once(second).chain(values) {
                joined.push(b',');
                joined.extend_from_slice(value);
            }
            is(&joined)
        }
        HeaderField::Method => is(head.method.as_bytes()),
        HeaderField::Scheme => is(head.scheme.as_bytes()),
        HeaderField::Authority => is(head.authority.as_bytes()),
        HeaderField::Path => {
            let mut target = SmallVec::<[u8; 512]>::from_slice(head.path.as_bytes());
            if let Some(query) = head.query {
                target.push(b'?');
                target.extend_from_slice(query.as_bytes());
            }
            is(&target)
        }
        HeaderField::Impossible(_) => false,
    }
}
