//! Texts as policies write them: exact, `prefix*`, `*suffix`, `*` for any that is not empty, and path templates.

/// Alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextSet {
    /// Sorted.
    pub(super) exact: Box<[Box<[u8]>]>,
    pub(super) prefixes: Box<[Box<[u8]>]>,
    pub(super) suffixes: Box<[Box<[u8]>]>,
    /// `*`
    pub(super) present: bool,
    pub(super) templates: Box<[Template]>,
}

/// A path with `{*}` for a segment and `{**}` for whatever follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Box<[Part]>,
    /// What follows `{**}`; `None`: there is none.
    tail: Option<Box<[u8]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Segment,
}

impl TextSet {
    /// `*` stands for a wildcard at either end.
    pub fn new<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> Self {
        Self::read(values, false)
    }

    /// Templates are read too.
    pub fn paths<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> Self {
        Self::read(values, true)
    }

    fn read<T: AsRef<str>>(values: impl IntoIterator<Item = T>, with_templates: bool) -> Self {
        let (mut exact, mut prefixes, mut suffixes, mut templates) = (vec![], vec![], vec![], vec![]);
        let mut present = false;
        for value in values {
            let value = value.as_ref();
            if value == "*" {
                present = true;
            } else if with_templates && (value.contains("{*}") || value.contains("{**}")) {
                templates.push(Template::parse(value));
            } else if let Some(suffix) = value.strip_prefix('*') {
                suffixes.push(suffix.as_bytes().into());
            } else if let Some(prefix) = value.strip_suffix('*') {
                prefixes.push(prefix.as_bytes().into());
            } else {
                exact.push(Box::<[u8]>::from(value.as_bytes()));
            }
        }
        exact.sort_unstable();
        exact.dedup();
        Self {
            exact: exact.into(),
            prefixes: prefixes.into(),
            suffixes: suffixes.into(),
            present,
            templates: templates.into(),
        }
    }

    pub(super) fn has(&self, text: &[u8]) -> bool {
        (self.present && !text.is_empty())
            || self.exact.binary_search_by(|exact| (**exact).cmp(text)).is_ok()
            || self.prefixes.iter().any(|prefix| text.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| text.ends_with(suffix))
            || self.templates.iter().any(|template| template.fits(text))
    }
}

impl Template {
    fn parse(text: &str) -> Self {
        let (head, tail) = match text.split_once("{**}") {
            Some((head, tail)) => (head, Some(tail.as_bytes().into())),
            None => (text, None),
        };
        let mut parts = Vec::new();
        for (index, literal) in head.split("{*}").enumerate() {
            if index > 0 {
                parts.push(Part::Segment);
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.as_bytes().into()));
            }
        }
        Self { parts: parts.into(), tail }
    }

    /// What every path that fits begins with.
    pub(super) fn literal(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Literal(literal)) => literal,
            _ => b"",
        }
    }

    fn fits(&self, path: &[u8]) -> bool {
        let mut rest = path;
        for part in &self.parts {
            let taken = match part {
                Part::Literal(literal) if rest.starts_with(literal) => literal.len(),
                Part::Literal(_) => return false,
                Part::Segment => memchr::memchr(b'/', rest).unwrap_or(rest.len()),
            };
            if taken == 0 {
                return false;
            }
            rest = &rest[taken..];
        }
        match &self.tail {
            Some(tail) => rest.ends_with(tail),
            None => rest.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_exact_or_have_a_wildcard_at_one_end() {
        for (values, text, want) in [
            (&["a"][..], "a", true),
            (&["a"], "A", false),
            (&["b", "a", "c"], "c", true),
            (&["a"], "ab", false),
            (&["a*"], "ab", true),
            (&["a*"], "a", true),
            (&["a*"], "ba", false),
            (&["*a"], "ba", true),
            (&["*a"], "a", true),
            (&["*a"], "ab", false),
            (&["*a*"], "a*", true),
            (&["*a*"], "bab", false),
            (&["*"], "x", true),
            (&["*"], "", false),
            (&["{*}"], "x", false),
            (&[], "", false),
        ] {
            assert_eq!(TextSet::new(values).has(text.as_bytes()), want, "{values:?} {text}");
        }
    }

    #[test]
    fn templates_stand_for_segments_and_for_the_rest() {
        for (template, path, want) in [
            ("/{*}", "/a", true),
            ("/{*}", "/", false),
            ("/{*}", "/a/", false),
            ("/a/{*}/c", "/a/b/c", true),
            ("/a/{*}/c", "/a/b/b/c", false),
            ("/a/{*}/c", "/a//c", false),
            ("/a/{*}/{*}", "/a/b/c", true),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/a/b/c.txt", true),
            ("/{*}/b/{**}", "/a/b/c/d", true),
            ("/{*}/b/{**}", "/a/c/d", false),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a//z", true),
            ("/a/{**}/z", "/a/z", false),
            ("/{**}", "/", true),
        ] {
            assert_eq!(TextSet::paths([template]).has(path.as_bytes()), want, "{template} {path}");
        }
    }
}
