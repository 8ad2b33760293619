//! Header operations, ready to run.

use std::fmt;

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

pub use super::template::{Command, Fact, FormatContext, HeaderRef, PseudoHeader, TemplateError, ValueTemplate};

use crate::request::headers::Headers;

/// One evaluation of header operations: all removes, then all sets, then all adds (Envoy's order, whatever the order
/// in the resource). Values are formatted from the message as it was before the evaluation.
///
/// A name that is set twice takes the last value. A value that comes out empty makes its operation void.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderOps {
    pub remove: Box<[HeaderName]>,
    pub set: Box<[(HeaderName, ValueTemplate)]>,
    pub add: Box<[(HeaderName, ValueTemplate)]>,
}

impl HeaderOps {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Formats the values. It is a step of its own because the context looks at the very headers that
    /// [`Evaluation::apply`] then changes.
    pub fn evaluate(&self, context: &dyn FormatContext) -> Evaluation<'_> {
        let mut scratch = Vec::new();
        let formatted = self
            .set
            .iter()
            .chain(&self.add)
            .filter(|(_, template)| template.as_static().is_none())
            .map(|(_, template)| {
                scratch.clear();
                template.render(context, &mut scratch);
                if scratch.is_empty() { None } else { HeaderValue::from_bytes(&scratch).ok() }
            })
            .collect();
        Evaluation { ops: self, formatted }
    }
}

/// Header operations with their values formatted, to be applied to the message they were formatted from.
pub struct Evaluation<'o> {
    ops: &'o HeaderOps,
    /// The values of templates that are not static: of sets, then of adds, in order. `None`: the operation is void.
    formatted: SmallVec<[Option<HeaderValue>; 4]>,
}

impl Evaluation<'_> {
    pub fn apply(self, headers: &mut Headers) {
        let mut formatted = self.formatted.into_iter();
        let mut value = |template: &ValueTemplate| match template.as_static() {
            Some(value) => Some(value.clone()).filter(|value| !value.is_empty()),
            None => formatted.next().flatten(),
        };
        for name in &self.ops.remove {
            headers.remove(name);
        }
        for (name, template) in &self.ops.set {
            if let Some(value) = value(template) {
                headers.insert(name.clone(), value);
            }
        }
        for (name, template) in &self.ops.add {
            if let Some(value) = value(template) {
                headers.append(name.clone(), value);
            }
        }
    }
}

/// Without the values: they may carry credentials.
impl fmt::Debug for Evaluation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evaluation").field("ops", self.ops).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::test_context::Context;
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn ops(remove: &[&str], set: Pairs<'_>, add: Pairs<'_>) -> HeaderOps {
        let values = |pairs: Pairs<'_>| {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().expect("name"), ValueTemplate::parse(value).expect("value")))
                .collect()
        };
        HeaderOps {
            remove: remove.iter().map(|name| name.parse().expect("name")).collect(),
            set: values(set),
            add: values(add),
        }
    }

    fn headers(pairs: Pairs<'_>) -> Headers {
        let mut map = Headers::new();
        for (name, value) in pairs {
            map.append(name.parse::<HeaderName>().expect("name"), value.parse().expect("value"));
        }
        map
    }

    #[test]
    fn operations_run_in_envoys_order() {
        for (case, ops, before, after) in [
            (
                "set replaces every value",
                ops(&[], &[("x", "new")], &[]),
                &[("x", "a"), ("x", "b")][..],
                &[("x", "new")][..],
            ),
            ("add appends", ops(&[], &[], &[("x", "b")]), &[("x", "a")], &[("x", "a"), ("x", "b")]),
            (
                "remove, set, add on one name",
                ops(&["x"], &[("x", "s")], &[("x", "a")]),
                &[("x", "old")],
                &[("x", "s"), ("x", "a")],
            ),
            ("the last of two sets wins", ops(&[], &[("X", "1"), ("x", "2")], &[]), &[], &[("x", "2")]),
            ("empty values are void", ops(&[], &[("x", "")], &[("y", "")]), &[("x", "a")], &[("x", "a")]),
            (
                "values that format to nothing are void",
                ops(&[], &[("x", "%REQ(absent)%")], &[("y", "%REQ(absent)%")]),
                &[("x", "a")],
                &[("x", "a")],
            ),
            (
                "inside other text a missing header is empty",
                ops(&[], &[("x", "<%REQ(absent)%>")], &[]),
                &[],
                &[("x", "<>")],
            ),
            (
                "formatters see the message as it was",
                ops(&["a"], &[("b", "%REQ(a)%"), ("c", "%REQ(b)%")], &[]),
                &[("a", "1"), ("b", "2")],
                &[("b", "1"), ("c", "2")],
            ),
        ] {
            let mut message = headers(before);
            let context = Context { request: message.clone(), ..Context::default() };
            ops.evaluate(&context).apply(&mut message);
            assert_eq!(message, headers(after), "{case}");
        }
    }

    #[test]
    fn what_comes_from_a_client_cannot_split_a_header() {
        let mut message = Headers::new();
        let context = Context { fact: "a\r\nevil: 1", ..Context::default() };
        ops(&[], &[("x", "%PROTOCOL%"), ("y", "1")], &[]).evaluate(&context).apply(&mut message);
        assert_eq!(message, headers(&[("y", "1")]));
    }
}
