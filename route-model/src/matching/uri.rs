//! Path predicates.

use super::{Regex, quoted};

/// How a route looks at the path, query excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriMatch {
    pub pattern: UriPattern,
    /// `ignoreUriCase`: of ASCII letters, with exact and prefix only.
    pub ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UriPattern {
    Exact(Box<str>),
    /// A plain text prefix: `/foo` takes `/foobar`.
    Prefix(Box<str>),
    Regex(Regex),
}

impl UriMatch {
    /// What a rule without a path takes: whatever begins with a slash.
    pub fn everything() -> Self {
        Self { pattern: UriPattern::Prefix("/".into()), ignore_case: false }
    }

    pub fn is_match(&self, path: &str) -> bool {
        let path = path.as_bytes();
        match &self.pattern {
            UriPattern::Exact(wanted) => self.equal(path, wanted.as_bytes()),
            UriPattern::Prefix(wanted) => {
                path.get(..wanted.len()).is_some_and(|start| self.equal(start, wanted.as_bytes()))
            }
            UriPattern::Regex(regex) => regex.is_match(path),
        }
    }

    fn equal(&self, path: &[u8], wanted: &[u8]) -> bool {
        if self.ignore_case { path.eq_ignore_ascii_case(wanted) } else { path == wanted }
    }

    /// What a rewrite leaves of a path that matches: what follows a prefix, otherwise nothing.
    pub fn rest<'p>(&self, path: &'p str) -> &'p str {
        match &self.pattern {
            // A matched prefix ends at a character boundary, and paths are ASCII anyway.
            UriPattern::Prefix(prefix) => path.get(prefix.len()..).unwrap_or_default(),
            UriPattern::Exact(_) | UriPattern::Regex(_) => "",
        }
    }

    /// Why the path does not match, in words.
    pub fn failure(&self, path: &str) -> String {
        let case = if self.ignore_case { " in any case" } else { "" };
        let wanted = match &self.pattern {
            UriPattern::Exact(wanted) => format!("exactly `{wanted}`{case}"),
            UriPattern::Prefix(wanted) => format!("the prefix `{wanted}`{case}"),
            UriPattern::Regex(regex) => format!("a match of regex `{}`", regex.as_str()),
        };
        format!("the path is {}, the rule wants {wanted}", quoted(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_plain_text() {
        let exact = |text: &str| UriPattern::Exact(text.into());
        let prefix = |text: &str| UriPattern::Prefix(text.into());
        let regex = |text: &str| UriPattern::Regex(Regex::new(text).expect(text));
        for (pattern, ignore_case, takes, leaves) in [
            (exact("/a"), false, &["/a"][..], &["/A", "/a/", "/ab", "/"][..]),
            (exact("/a"), true, &["/a", "/A"], &["/a/"]),
            (prefix("/foo"), false, &["/foo", "/foobar", "/foo/"], &["/fo", "/Foo", "/"]),
            (prefix("/foo"), true, &["/FOOBAR", "/foo"], &["/fo"]),
            (prefix(""), false, &["/", "*"], &[]),
            (prefix("/"), false, &["/", "/a"], &["*"]),
            (regex("/a.*"), false, &["/a", "/ab"], &["/b", "x/a"]),
            // Case is the regex's own affair.
            (regex("/a"), true, &["/a"], &["/A"]),
        ] {
            let uri = UriMatch { pattern, ignore_case };
            for path in takes {
                assert!(uri.is_match(path), "{uri:?} takes {path}");
            }
            for path in leaves {
                assert!(!uri.is_match(path), "{uri:?} does not take {path}");
            }
        }
    }
}
