//! One thing that a rule asks.

use std::net::IpAddr;

use super::addresses::AddressSet;
use super::facts::{Attribute, Facts};
use super::text::TextSet;
use crate::matching::quoted;

/// A field of a source or an operation, or a side of a condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Where it was written: `to[0].operation.paths`, `when[1].notValues`.
    pub field: Box<str>,
    pub check: Check,
    /// A `not…` field: none of the values may match.
    pub negated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    Text(Attribute, TextSet),
    Address(Which, AddressSet),
    /// The listener's port is one of these.
    Port(Box<[u16]>),
    /// Something that nobody here has, by the key it is asked for.
    Absent(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The TCP peer.
    Source,
    /// The client as far as it can be trusted.
    Remote,
    Destination,
}

impl Which {
    pub(super) fn of(self, facts: &Facts<'_>) -> IpAddr {
        match self {
            Self::Source => facts.peer,
            Self::Remote => facts.client,
            Self::Destination => facts.destination,
        }
    }
}

impl Term {
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        self.negated != self.check.is_met(facts)
    }

    /// Only requests can be asked.
    pub fn is_of_http(&self) -> bool {
        matches!(&self.check, Check::Text(attribute, _) if attribute.is_of_http())
    }

    /// Why it does not hold, in words.
    pub(super) fn failure(&self, facts: &Facts<'_>) -> String {
        let (what, found) = self.check.describe(facts);
        let field = &self.field;
        match (found, self.negated) {
            (Some(found), false) => format!("{what} {found} is none of {field}"),
            (Some(found), true) => format!("{what} {found} is one of {field}"),
            (None, _) => format!("{what}, which {field} asks for, is absent"),
        }
    }
}

impl Check {
    fn is_met(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Text(attribute, texts) => facts.any(attribute, |value| texts.has(value)),
            Self::Address(which, addresses) => addresses.has(which.of(facts)),
            Self::Port(ports) => ports.contains(&facts.port),
            Self::Absent(_) => false,
        }
    }

    /// What is asked, and what it is.
    fn describe(&self, facts: &Facts<'_>) -> (String, Option<String>) {
        match self {
            Self::Text(attribute, _) => {
                let mut values = Vec::new();
                facts.any(attribute, |value| {
                    // A certificate without a SPIFFE identity has a name that no text can match.
                    values.push(if value == b"\0" { "without a SPIFFE name".to_owned() } else { quoted(value) });
                    false
                });
                (attribute.to_string(), (!values.is_empty()).then(|| values.join(", ")))
            }
            Self::Address(which, _) => {
                let what = match which {
                    Which::Source => "the peer's address",
                    Which::Remote => "the client's address",
                    Which::Destination => "the address connected to",
                };
                (what.to_owned(), Some(which.of(facts).to_canonical().to_string()))
            }
            Self::Port(_) => ("the port".to_owned(), Some(facts.port.to_string())),
            Self::Absent(key) => (key.to_string(), None),
        }
    }
}
