//! Query parameter predicates.

use super::{ValueMatch, quoted};
use crate::table::RequestHead;

/// What is asked of one query parameter. Keys and values are compared as they were sent, undecoded; of a repeated
/// parameter the first one counts; only `&` separates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPredicate {
    pub key: Box<str>,
    pub value: ValueMatch,
}

impl QueryPredicate {
    pub(super) fn holds(&self, head: &RequestHead<'_>) -> bool {
        match (head.query_parameter(&self.key), &self.value) {
            (None, _) => false,
            (Some(_), ValueMatch::Present) => true,
            (Some(value), ValueMatch::Text(wanted)) => wanted.is_match(value.as_bytes()),
        }
    }

    pub(super) fn failure(&self, head: &RequestHead<'_>) -> String {
        let key = &self.key;
        match (head.query_parameter(&self.key), &self.value) {
            (_, ValueMatch::Present) => format!("query parameter `{key}` is absent, the rule wants it to be there"),
            (None, ValueMatch::Text(wanted)) => format!("query parameter `{key}` is absent, the rule wants {wanted}"),
            (Some(value), ValueMatch::Text(wanted)) => {
                format!("query parameter `{key}` is {}, the rule wants {wanted}", quoted(value))
            }
        }
    }
}
