//! Predicates over claims of a verified token (`@request.auth.claims` among `headers` and `withoutHeaders`).

use super::{ValueMatch, quoted};
use crate::request::claims::ClaimPath;
use crate::table::RequestHead;

/// What is asked of one claim.
///
/// A claim is compared as a text, or as a list of texts of which any one suffices; inverted, none may match. A claim
/// that is absent, or anything but text, matches nothing; inverted, it always does. So does every claim of a request
/// without a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPredicate {
    pub path: ClaimPath,
    pub value: ValueMatch,
    /// `withoutHeaders`.
    pub inverted: bool,
}

impl ClaimPredicate {
    pub(super) fn holds(&self, head: &RequestHead<'_>) -> bool {
        let mut texts = head.claims.into_iter().flat_map(|claims| claims.texts(&self.path));
        let matched = texts.any(|text| match &self.value {
            ValueMatch::Present => true,
            ValueMatch::Text(wanted) => wanted.is_match(text.as_bytes()),
        });
        matched != self.inverted
    }

    pub(super) fn failure(&self, head: &RequestHead<'_>) -> String {
        let Self { path, value, inverted } = self;
        let wanted = match (value, inverted) {
            (ValueMatch::Present, false) => "the rule wants it to be there".to_owned(),
            (ValueMatch::Present, true) => "the rule wants it absent".to_owned(),
            (ValueMatch::Text(wanted), false) => format!("the rule wants {wanted}"),
            (ValueMatch::Text(wanted), true) => format!("the rule wants anything but {wanted}"),
        };
        let Some(claims) = head.claims else {
            return format!("there is no verified token with the claim `{path}`, {wanted}");
        };
        let texts: Vec<_> = claims.texts(path).map(quoted).collect();
        if !texts.is_empty() {
            return format!("claim `{path}` is {}, {wanted}", texts.join(" and "));
        }
        match claims.get(path) {
            Some(_) => format!("claim `{path}` is neither a text nor a list of texts, {wanted}"),
            None => format!("claim `{path}` is absent, {wanted}"),
        }
    }
}
