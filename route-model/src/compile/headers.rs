//! From `headers` of a rule and of a destination to evaluations, with Istio's winners.

use http::HeaderName;

use crate::kinds::value::StringMap;
use crate::kinds::virtual_service::{HeaderOperations, Headers};
use crate::table::headers::{HeaderOps, TemplateError, ValueTemplate};

/// An operation that cannot run, and the field under `headers` that holds it.
#[derive(Debug)]
pub(super) struct BadOperation {
    pub(super) field: String,
    pub(super) message: String,
}

/// The operations of one level (rule or destination).
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Level {
    pub(super) request: HeaderOps,
    pub(super) response: HeaderOps,
    /// `set`, else `add` of Host or `:authority`, which is no header operation but an authority rewrite.
    pub(super) authority: Option<ValueTemplate>,
}

impl Level {
    pub(super) fn new(headers: Option<&Headers>) -> Result<Self, BadOperation> {
        let Some(headers) = headers else { return Ok(Self::default()) };
        let mut level = Self::default();
        if let Some(request) = &headers.request {
            level.request = operations("request", request)?;
            for (field, map) in [("add", &request.add), ("set", &request.set)] {
                for (name, value) in map {
                    if is_authority(name) && !value.is_empty() {
                        level.authority = Some(template("request", field, name, value)?);
                    }
                }
            }
        }
        if let Some(response) = &headers.response {
            level.response = operations("response", response)?;
        }
        Ok(level)
    }

    /// Both levels as one evaluation, this one first: where both set a header, `inner` wins.
    pub(super) fn with(&self, inner: &Self) -> Self {
        Self {
            request: concatenated(&self.request, &inner.request),
            response: concatenated(&self.response, &inner.response),
            authority: self.authority.clone().or_else(|| inner.authority.clone()),
        }
    }
}

fn concatenated(outer: &HeaderOps, inner: &HeaderOps) -> HeaderOps {
    HeaderOps {
        remove: outer.remove.iter().chain(&inner.remove).cloned().collect(),
        set: outer.set.iter().chain(&inner.set).cloned().collect(),
        add: outer.add.iter().chain(&inner.add).cloned().collect(),
    }
}

/// The evaluations without those that do nothing.
pub(super) fn evaluations<const N: usize>(ops: [&HeaderOps; N]) -> Box<[HeaderOps]> {
    ops.into_iter().filter(|ops| !ops.is_empty()).cloned().collect()
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Host and pseudo-headers cannot be operated on, but for the rewrite of the authority.
fn is_internal(name: &str) -> bool {
    name.starts_with(':') || is_authority(name)
}

/// Maps iterate by key bytewise, which is Istio's order; of keys that differ in case the last `set` wins.
fn operations(direction: &str, operations: &HeaderOperations) -> Result<HeaderOps, BadOperation> {
    let values = |field: &str, map: &StringMap| -> Result<Box<[_]>, BadOperation> {
        let wanted = map.iter().filter(|(name, _)| !is_internal(name));
        wanted
            .map(|(name, value)| {
                Ok((
                    header_name(direction, &format!("{field}[{name}]"), name)?,
                    template(direction, field, name, value)?,
                ))
            })
            .collect()
    };
    let remove = operations.remove.iter().enumerate().filter(|(_, name)| !is_internal(name));
    Ok(HeaderOps {
        remove: remove
            .map(|(i, name)| header_name(direction, &format!("remove[{i}]"), name))
            .collect::<Result<_, _>>()?,
        set: values("set", &operations.set)?,
        add: values("add", &operations.add)?,
    })
}

fn header_name(direction: &str, field: &str, name: &str) -> Result<HeaderName, BadOperation> {
    name.parse().map_err(|_| BadOperation {
        field: format!("{direction}.{field}"),
        message: format!("`{name}` is no header name; use letters, digits and `-`"),
    })
}

fn template(direction: &str, field: &str, name: &str, value: &str) -> Result<ValueTemplate, BadOperation> {
    ValueTemplate::parse(value).map_err(|error: TemplateError| BadOperation {
        field: format!("{direction}.{field}[{name}]"),
        message: error.to_string(),
    })
}
