//! Regular expressions as Istio means them: RE2, the whole text, bytes.

use std::fmt;
use std::sync::Arc;

use regex_automata::meta;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Dot, Hir, HirKind, Look};
use thiserror::Error;

use super::re2;

/// Istio's limit.
pub const MAX_CHARS: usize = 1024;
/// What one compiled pattern may take; RE2's program limit in Istio's proxies is of the same order.
const MAX_AUTOMATON_BYTES: usize = 1 << 20;
/// What the lazy automaton of one pattern may grow to on one thread.
const MAX_CACHE_BYTES: usize = 256 << 10;
/// How deep groups may nest; the parsers recurse.
const MAX_NESTING: u32 = 100;
/// More alternatives than this at the start of a pattern are not worth an entry each in an index.
const MAX_PREFIXES: usize = 16;

/// Why a text is no regex.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegexError {
    #[error("the regex has {chars} characters, at most {MAX_CHARS} are allowed")]
    TooLong { chars: usize },
    #[error("at byte {at}: {message}")]
    Syntax { at: usize, message: String },
    #[error("not a valid RE2 regex: {0}")]
    Invalid(String),
    #[error("the regex compiles to more than {} KiB; make its repetitions smaller", MAX_AUTOMATON_BYTES >> 10)]
    TooLarge,
    #[error("the rewrite refers to group {group}, the regex has {groups}")]
    NoSuchGroup { group: u8, groups: usize },
    #[error("in a rewrite a `\\` must be followed by a digit or another `\\`")]
    BadRewriteEscape,
}

impl RegexError {
    pub(super) fn syntax(at: usize, message: String) -> Self {
        Self::Syntax { at, message }
    }
}

/// Whether a text is a regex that can be matched.
pub fn check(pattern: &str) -> Result<(), RegexError> {
    Regex::new(pattern).map(drop)
}

/// Whether a regex and its replacement fit (`uriRegexRewrite`).
pub fn check_rewrite(pattern: &str, rewrite: &str) -> Result<(), RegexError> {
    self::rewrite(pattern, rewrite).map(drop)
}

/// A regex that takes a text whole. Cloning shares it.
#[derive(Clone)]
pub struct Regex {
    pattern: Arc<str>,
    matcher: Matcher,
}

#[derive(Clone)]
enum Matcher {
    /// The pattern is a literal.
    Exact(Arc<[u8]>),
    /// The pattern is a literal and then `.*`.
    Prefix(Arc<[u8]>),
    Automaton(Arc<Automaton>),
}

struct Automaton {
    regex: meta::Regex,
    prefixes: Box<[Box<[u8]>]>,
}

/// What an index may know about the texts that a regex takes.
pub(crate) enum Shape<'r> {
    /// This one alone.
    Exact(&'r [u8]),
    /// All that begin so.
    Prefix(&'r [u8]),
    /// Those that it takes of those that begin with one of these.
    Other(&'r [Box<[u8]>]),
}

impl Regex {
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        let hir = parse(pattern)?;
        let matcher = match simple(&hir) {
            Some(simple) => simple,
            None => Matcher::Automaton(Arc::new(Automaton { prefixes: prefixes(&hir), regex: build(&[hir])? })),
        };
        Ok(Self { pattern: pattern.into(), matcher })
    }

    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    pub fn is_match(&self, text: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact(literal) => text == &**literal,
            // `.` is any character but a line feed, and bytes that are no UTF-8 are no characters.
            Matcher::Prefix(literal) => text
                .strip_prefix(&**literal)
                .is_some_and(|rest| memchr::memchr(b'\n', rest).is_none() && std::str::from_utf8(rest).is_ok()),
            Matcher::Automaton(automaton) => automaton.regex.is_match(text),
        }
    }

    /// For paths, which are ASCII without line feeds.
    pub(crate) fn shape(&self) -> Shape<'_> {
        match &self.matcher {
            Matcher::Exact(literal) => Shape::Exact(literal),
            Matcher::Prefix(literal) => Shape::Prefix(literal),
            Matcher::Automaton(automaton) => Shape::Other(&automaton.prefixes),
        }
    }
}

/// Compared by what was written, as a compiled pattern has no equality.
impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.pattern)
    }
}

/// Several regexes asked in one pass.
pub(crate) struct RegexSet {
    automaton: meta::Regex,
    matches: regex_automata::util::pool::Pool<regex_automata::PatternSet, NewMatches>,
}

type NewMatches = Box<dyn Fn() -> regex_automata::PatternSet + Send + Sync>;

impl RegexSet {
    pub(crate) fn new(regexes: &[Regex]) -> Result<Self, RegexError> {
        let hirs = regexes.iter().map(|regex| parse(&regex.pattern)).collect::<Result<Vec<_>, _>>()?;
        let automaton = build(&hirs)?;
        let count = automaton.pattern_len();
        let new: NewMatches = Box::new(move || regex_automata::PatternSet::new(count));
        Ok(Self { automaton, matches: regex_automata::util::pool::Pool::new(new) })
    }

    /// Calls `visit` with the indexes of the regexes that take the text, ascending, until it answers true.
    pub(crate) fn find(&self, text: &[u8], mut visit: impl FnMut(usize) -> bool) {
        let mut matches = self.matches.get();
        matches.clear();
        self.automaton.which_overlapping_matches(&regex_automata::Input::new(text), &mut matches);
        matches.iter().any(|pattern| visit(pattern.as_usize()));
    }
}

impl fmt::Debug for RegexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegexSet").field("patterns", &self.automaton.pattern_len()).finish_non_exhaustive()
    }
}

/// `uriRegexRewrite`: a regex that is searched for, and its replacement in the syntax of the `regex` crate.
pub(crate) fn rewrite(pattern: &str, rewrite: &str) -> Result<(regex::bytes::Regex, Box<str>), RegexError> {
    parse(pattern)?;
    let regex = regex::bytes::RegexBuilder::new(&re2::translate(pattern)?)
        .size_limit(MAX_AUTOMATON_BYTES)
        .dfa_size_limit(MAX_CACHE_BYTES)
        .nest_limit(MAX_NESTING)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => RegexError::TooLarge,
            error => RegexError::Invalid(error.to_string()),
        })?;
    let groups = regex.captures_len() - 1;
    let mut replacement = String::with_capacity(rewrite.len() + 8);
    let mut chars = rewrite.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(digit @ '0'..='9') => {
                    let group = digit as u8 - b'0';
                    if usize::from(group) > groups {
                        return Err(RegexError::NoSuchGroup { group, groups });
                    }
                    replacement.extend(["${", digit.encode_utf8(&mut [0; 4]), "}"]);
                }
                Some('\\') => replacement.push('\\'),
                _ => return Err(RegexError::BadRewriteEscape),
            },
            '$' => replacement.push_str("$$"),
            c => replacement.push(c),
        }
    }
    Ok((regex, replacement.into()))
}

fn parse(pattern: &str) -> Result<Hir, RegexError> {
    let chars = pattern.chars().count();
    if chars > MAX_CHARS {
        return Err(RegexError::TooLong { chars });
    }
    regex_syntax::ParserBuilder::new()
        .utf8(false)
        .nest_limit(MAX_NESTING)
        .build()
        .parse(&re2::translate(pattern)?)
        .map_err(|error| {
            RegexError::Invalid(match error {
                regex_syntax::Error::Parse(error) => error.kind().to_string(),
                regex_syntax::Error::Translate(error) => error.kind().to_string(),
                error => error.to_string(),
            })
        })
}

/// Texts one of which begins whatever the regex takes; one empty text where nothing better is known.
fn prefixes(hir: &Hir) -> Box<[Box<[u8]>]> {
    let mut extractor = Extractor::new();
    extractor.limit_class(2).limit_total(MAX_PREFIXES);
    match extractor.extract(hir).literals() {
        Some(literals) if !literals.is_empty() => literals.iter().map(|literal| literal.as_bytes().into()).collect(),
        _ => Box::new([Box::default()]),
    }
}

/// Builds one automaton for patterns that each take the whole text.
fn build(hirs: &[Hir]) -> Result<meta::Regex, RegexError> {
    let anchored: Vec<_> =
        hirs.iter().map(|hir| Hir::concat(vec![Hir::look(Look::Start), hir.clone(), Hir::look(Look::End)])).collect();
    let limit = MAX_AUTOMATON_BYTES * hirs.len().clamp(1, 8);
    meta::Builder::new()
        .configure(
            meta::Config::new()
                .utf8_empty(false)
                .nfa_size_limit(Some(limit))
                .hybrid_cache_capacity(MAX_CACHE_BYTES * hirs.len().clamp(1, 8))
                .which_captures(regex_automata::nfa::thompson::WhichCaptures::Implicit)
                .match_kind(if hirs.len() == 1 {
                    regex_automata::MatchKind::LeftmostFirst
                } else {
                    regex_automata::MatchKind::All
                }),
        )
        .build_many_from_hir(&anchored)
        .map_err(|error| {
            if error.size_limit().is_some() { RegexError::TooLarge } else { RegexError::Invalid(error.to_string()) }
        })
}

/// Literals, and literals followed by `.*`: most regexes in real resources are one of these.
fn simple(hir: &Hir) -> Option<Matcher> {
    fn is_dot_star(hir: &Hir) -> bool {
        matches!(hir.kind(), HirKind::Repetition(repetition)
            if repetition.min == 0 && repetition.max.is_none() && *repetition.sub == Hir::dot(Dot::AnyCharExceptLF))
    }
    match hir.kind() {
        HirKind::Empty => Some(Matcher::Exact(Arc::default())),
        HirKind::Literal(literal) => Some(Matcher::Exact((*literal.0).into())),
        HirKind::Repetition(_) if is_dot_star(hir) => Some(Matcher::Prefix(Arc::default())),
        HirKind::Concat(parts) => match &parts[..] {
            [first, last] if is_dot_star(last) => match first.kind() {
                HirKind::Literal(literal) => Some(Matcher::Prefix((*literal.0).into())),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_means_what_re2_means() {
        for (pattern, takes, leaves) in [
            ("a", &["a"][..], &["", "aa", "ba", "A"][..]),
            ("", &[""], &["a"]),
            (".*", &["", "a", "/é"], &["a\nb"]),
            ("/foo.*", &["/foo", "/foobar"], &["/fo", "x/foo", "/foo\n"]),
            ("a|b", &["a", "b"], &["ab", "xa", "bx"]),
            ("/v[0-9]+/x", &["/v1/x", "/v22/x"], &["/v/x", "/v1/xy"]),
            (r"/a\.b", &["/a.b"], &["/axb"]),
            // ASCII classes.
            (r"\d+", &["12"], &["١٢", ""]),
            (r"\w", &["a", "_", "0"], &["é", "-"]),
            (r"\s", &[" ", "\t"], &["\x0b", "\u{a0}"]),
            (r"[\s\d]", &[" ", "1"], &["\x0b", "a"]),
            (r"\D", &["a", "é"], &["1"]),
            (r"[\D]", &["a", "é"], &["1"]),
            (r"\bfoo\b", &["foo"], &["foox"]),
            // Quoting and escapes.
            (r"\Qa.b+\E+", &["a.b+", "a.b++"], &["axb+"]),
            (r"\Qa.b", &["a.b"], &["axb"]),
            (r"\<a\>", &["<a>"], &["a"]),
            (r"\101\x42\x{43}", &["ABC"], &["101"]),
            (r"\_\-\/", &["_-/"], &[]),
            // Braces that repeat nothing.
            ("a{b}", &["a{b}"], &["ab"]),
            ("a{,2}", &["a{,2}"], &["aa"]),
            ("a{2}", &["aa"], &["a", "aaa"]),
            ("a{1,2}?", &["a", "aa"], &["aaa"]),
            ("a{2,}", &["aa", "aaaa"], &["a"]),
            ("}]", &["}]"], &[]),
            // Inside a class.
            ("[a&&b]", &["a", "b", "&"], &[]),
            ("[[a]", &["[", "a"], &["]"]),
            ("[]a]", &["]", "a"], &["["]),
            ("[^]a]", &["b"], &["]", "a"]),
            ("[a-c-]", &["b", "-"], &["d"]),
            ("[-a]", &["-", "a"], &["b"]),
            ("[+--]", &["+", ",", "-"], &["."]),
            ("[a~~b]", &["~"], &[]),
            ("[[:alpha:]_]", &["a", "_"], &["1"]),
            ("[[:^alpha:]]", &["1"], &["a"]),
            (r"[\[\]]", &["[", "]"], &["a"]),
            // Flags and groups.
            ("(?i)abc", &["ABC", "aBc"], &["abd"]),
            ("a(?i)b|c", &["aB", "C"], &["AB"]),
            ("(?i:a)b", &["Ab"], &["AB"]),
            ("(?P<name>a)(?<other>b)", &["ab"], &[]),
            (r"\p{Greek}", &["α"], &["a"]),
            (r"\p{^Greek}", &["a"], &["α"]),
            (r"\PL", &["1"], &["a"]),
            ("a$", &["a"], &["a\n"]),
            ("(?s).", &["\n"], &[]),
        ] {
            let regex = Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            for text in takes {
                assert!(regex.is_match(text.as_bytes()), "{pattern} takes {text:?}");
            }
            for text in leaves {
                assert!(!regex.is_match(text.as_bytes()), "{pattern} does not take {text:?}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_no_characters() {
        for pattern in [".*", "x.*", "[^a]*"] {
            assert!(!Regex::new(pattern).expect(pattern).is_match(b"x\xff"), "{pattern}");
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for pattern in [
            "*",
            "a**",
            "a*+",
            "a{2}{3}",
            "a{1001}",
            "a{0,2000}",
            "(",
            ")",
            "a)(b",
            "[a",
            "[z-a]",
            r"\",
            r"\1",
            r"\8",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            "(?x)a",
            "(?u)a",
            "(?R)a",
            r"\C",
            r"\Z",
            r"\h",
            r"\y",
            r"\p",
            r"\p{}",
            r"\p{sc=Greek}",
            r"\xZ",
            r"\x{110000}",
            "(((a{100}){100}){100})",
            r"[\b]",
            "[a-\\d]",
        ] {
            assert!(check(pattern).is_err(), "{pattern}");
        }
        assert_eq!(check(&"a".repeat(1024)), Ok(()));
        assert_eq!(check(&"é".repeat(1025)), Err(RegexError::TooLong { chars: 1025 }));
        assert!(check(&"(".repeat(1000)).is_err());
    }

    #[test]
    fn a_set_finds_all_that_match_in_order() {
        let regexes = ["/a.*", "/[ab]b", "/x", ".*b"].map(|pattern| Regex::new(pattern).expect(pattern));
        let set = RegexSet::new(&regexes).expect("set");
        for (text, want) in [("/ab", &[0, 1, 3][..]), ("/bb", &[1, 3]), ("/x", &[2]), ("/abc", &[0]), ("/y", &[])] {
            let mut found = Vec::new();
            set.find(text.as_bytes(), |i| {
                found.push(i);
                false
            });
            assert_eq!(found, want, "{text}");
        }
    }

    #[test]
    fn prefixes_begin_whatever_matches() {
        for (pattern, want) in [
            ("/api/v[0-9]+", &["/api/v"][..]),
            ("(/a|/b)/c.+", &["/a/c", "/b/c"]),
            (".+x", &[""]),
            (r"\Bx", &["x"]),
            ("[a-z]+", &[""]),
        ] {
            let regex = Regex::new(pattern).expect(pattern);
            let Shape::Other(prefixes) = regex.shape() else { panic!("{pattern} is not simple") };
            let prefixes: Vec<_> = prefixes.iter().map(|p| String::from_utf8_lossy(p)).collect();
            assert_eq!(prefixes, want, "{pattern}");
        }
    }

    #[test]
    fn rewrites_use_res_backreferences() {
        for (pattern, text, path, want) in [
            ("/a/(.*)/b", r"/\1", "/a/x/b", "/x"),
            ("o", "0", "/foo", "/f00"),
            (r"\Bo", "0", "/oo", "/o0"),
            ("(f)(o+)", r"\2$1\\\0", "/foo", r"/oo$1\foo"),
        ] {
            let (regex, replacement) = rewrite(pattern, text).expect(pattern);
            assert_eq!(String::from_utf8_lossy(&regex.replace_all(path.as_bytes(), replacement.as_bytes())), want);
        }
        assert_eq!(check_rewrite("a", r"\1"), Err(RegexError::NoSuchGroup { group: 1, groups: 0 }));
        assert_eq!(check_rewrite("a", r"\x"), Err(RegexError::BadRewriteEscape));
        assert_eq!(check_rewrite("a", "\\"), Err(RegexError::BadRewriteEscape));
    }
}
