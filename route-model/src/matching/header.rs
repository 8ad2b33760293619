//! Header predicates (`headers`, `withoutHeaders`).

use std::fmt;

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::{ValueMatch, quoted};
use crate::table::RequestHead;

/// What is asked of one header.
///
/// A repeated header is compared value by value and any one suffices; inverted, none may match. A missing header
/// matches nothing; inverted, it is compared as if it were empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPredicate {
    pub field: HeaderField,
    pub value: ValueMatch,
    /// `withoutHeaders`.
    pub inverted: bool,
}

/// A header as a resource names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderField {
    Name(HeaderName),
    Method,
    Scheme,
    /// `:authority` and `host`, which are one.
    Authority,
    /// Path and query.
    Path,
    /// A name that no header can have.
    Impossible(Box<str>),
}

impl HeaderField {
    pub fn parse(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" | "host" => Self::Authority,
            ":path" => Self::Path,
            lower => lower.parse().map_or_else(|_| Self::Impossible(name.into()), Self::Name),
        }
    }
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name(name) => name.as_str(),
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Impossible(name) => name,
        })
    }
}

impl HeaderPredicate {
    pub(super) fn holds(&self, head: &RequestHead<'_>) -> bool {
        let mut present = false;
        let mut matched = false;
        self.visit(head, |value| {
            present = true;
            matched = match &self.value {
                ValueMatch::Present => true,
                ValueMatch::Text(wanted) => wanted.is_match(value),
            };
            matched
        });
        if !self.inverted {
            return matched;
        }
        match &self.value {
            ValueMatch::Text(wanted) if !present => !wanted.is_match(b""),
            _ => !matched,
        }
    }

    /// Shows the header's values one by one until `enough` says so.
    fn visit(&self, head: &RequestHead<'_>, mut enough: impl FnMut(&[u8]) -> bool) {
        match &self.field {
            HeaderField::Name(name) => {
                head.headers.get_all(name).map(HeaderValue::as_bytes).any(enough);
            }
            HeaderField::Method => {
                enough(head.method.as_bytes());
            }
            HeaderField::Scheme => {
                enough(head.scheme.as_bytes());
            }
            HeaderField::Authority => {
                enough(head.authority.as_bytes());
            }
            HeaderField::Path => {
                let mut target = SmallVec::<[u8; 512]>::from_slice(head.path.as_bytes());
                if let Some(query) = head.query {
                    target.push(b'?');
                    target.extend_from_slice(query.as_bytes());
                }
                enough(&target);
            }
            HeaderField::Impossible(_) => {}
        }
    }

    pub(super) fn failure(&self, head: &RequestHead<'_>) -> String {
        let mut values = Vec::new();
        self.visit(head, |value| {
            values.push(quoted(value));
            false
        });
        let field = &self.field;
        let is = values.join(" and ");
        match (&self.value, self.inverted) {
            (ValueMatch::Present, false) => format!("header `{field}` is absent, the rule wants it to be there"),
            (ValueMatch::Present, true) => format!("header `{field}` is there ({is}), the rule wants it absent"),
            (ValueMatch::Text(wanted), false) if values.is_empty() => {
                format!("header `{field}` is absent, the rule wants {wanted}")
            }
            (ValueMatch::Text(wanted), true) if values.is_empty() => {
                format!("header `{field}` is absent, which counts as empty, the rule wants anything but {wanted}")
            }
            (ValueMatch::Text(wanted), false) => format!("header `{field}` is {is}, the rule wants {wanted}"),
            (ValueMatch::Text(wanted), true) => {
                format!("header `{field}` is {is}, the rule wants anything but {wanted}")
            }
        }
    }
}
