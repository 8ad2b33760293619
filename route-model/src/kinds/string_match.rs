//! How a string is matched.

use serde::{Deserialize, Serialize};

/// Istio's `StringMatch`. All but `prefix` look at the whole string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub enum StringMatch {
    /// `{}`: what is matched has to be there, with any value.
    #[default]
    Present,
    Exact(String),
    Prefix(String),
    /// RE2 syntax.
    Regex(String),
}

/// The form in documents.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
}

impl TryFrom<Fields> for StringMatch {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        match fields {
            Fields { exact: None, prefix: None, regex: None } => Ok(Self::Present),
            Fields { exact: Some(value), prefix: None, regex: None } => Ok(Self::Exact(value)),
            Fields { exact: None, prefix: Some(value), regex: None } => Ok(Self::Prefix(value)),
            Fields { exact: None, prefix: None, regex: Some(value) } => Ok(Self::Regex(value)),
            _ => Err("only one of exact, prefix and regex may be set"),
        }
    }
}

impl From<StringMatch> for Fields {
    fn from(value: StringMatch) -> Self {
        match value {
            StringMatch::Present => Self::default(),
            StringMatch::Exact(value) => Self { exact: Some(value), ..Self::default() },
            StringMatch::Prefix(value) => Self { prefix: Some(value), ..Self::default() },
            StringMatch::Regex(value) => Self { regex: Some(value), ..Self::default() },
        }
    }
}
