//! Istio's StringMatch.

use std::fmt;

use super::Regex;

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Regex),
}

/// What is asked of a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// That it is there, whatever its value (`{}`).
    Present,
    Text(StringMatch),
}

impl StringMatch {
    pub fn is_match(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => text == wanted.as_bytes(),
            Self::Prefix(wanted) => text.starts_with(wanted.as_bytes()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// As it stands after "the rule wants".
impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(wanted) => write!(f, "exactly `{wanted}`"),
            Self::Prefix(wanted) => write!(f, "the prefix `{wanted}`"),
            Self::Regex(regex) => write!(f, "a match of regex `{}`", regex.as_str()),
        }
    }
}
