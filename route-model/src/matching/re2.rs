//! RE2's syntax, written as the `regex` crate reads it.
//!
//! Istio's regexes are RE2. The two syntaxes mostly agree; where one text means two things it is rewritten here, and
//! what RE2 refuses is refused, so that a resource means the same as on Envoy:
//!
//! - `\d \w \s \b` and their negations are ASCII (and RE2's `\s` has no vertical tab),
//! - `\Q…\E` quotes, `\123` is octal, `\<` and `\>` are plain characters,
//! - `{` that begins no repetition is a plain character, and so are `[`, `&`, `~` and `-` inside a class,
//! - repetition counts end at 1000, and a repetition cannot be repeated without a group.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::CharIndices;

use super::regex::RegexError;

/// The longest repetition count that RE2 takes.
const MAX_REPEAT: u32 = 1000;

const DIGIT: &str = "0-9";
const SPACE: &str = r"\t\n\x0C\r\x20";
const WORD: &str = "0-9A-Za-z_";

/// Rewrites RE2 syntax. That groups are balanced and classes are in order is left to the parser that reads the result.
pub(super) fn translate(pattern: &str) -> Result<String, RegexError> {
    Translator { pattern, chars: pattern.char_indices().peekable(), out: String::with_capacity(pattern.len() + 16) }
        .run()
}

struct Translator<'p> {
    pattern: &'p str,
    chars: Peekable<CharIndices<'p>>,
    out: String,
}

/// What an escape stands for.
enum Escape {
    Char(char),
    /// The inside of a class, and whether it is negated.
    Class(&'static str, bool),
    /// `\pN`, `\p{Greek}`, ready to be written.
    Unicode(String),
    /// `\A`, `\z`, `\b`, `\B`, ready to be written.
    Assertion(&'static str),
    /// `\Q`: literal up to the `\E`.
    Quote,
}

impl Translator<'_> {
    fn run(mut self) -> Result<String, RegexError> {
        // Whether the last thing written is a repetition, which RE2 does not repeat again.
        let mut repeated = false;
        while let Some((at, c)) = self.chars.next() {
            let was_repeated = std::mem::take(&mut repeated);
            match c {
                '\\' => match self.escape(at)? {
                    Escape::Char(c) => self.literal(c),
                    Escape::Class(class, negated) => self.class(class, negated),
                    Escape::Unicode(text) => self.out.push_str(&text),
                    Escape::Assertion(text) => self.out.push_str(text),
                    Escape::Quote => self.quoted(),
                },
                '[' => self.bracket(at)?,
                '(' => self.group(at)?,
                '*' | '+' | '?' => {
                    if was_repeated {
                        return Err(RegexError::syntax(at, format!("`{c}` repeats a repetition; put it in a group")));
                    }
                    self.out.push(c);
                    self.lazy();
                    repeated = true;
                }
                '{' => match repetition(&self.pattern[at..]) {
                    Some(text) => {
                        if was_repeated {
                            return Err(RegexError::syntax(
                                at,
                                format!("`{text}` repeats a repetition; put it in a group"),
                            ));
                        }
                        self.count(at, text)?;
                        self.lazy();
                        repeated = true;
                    }
                    None => self.out.push_str(r"\{"),
                },
                '}' => self.out.push_str(r"\}"),
                ']' => self.out.push_str(r"\]"),
                c => self.out.push(c),
            }
        }
        Ok(self.out)
    }

    fn lazy(&mut self) {
        if self.chars.next_if(|(_, c)| *c == '?').is_some() {
            self.out.push('?');
        }
    }

    fn count(&mut self, at: usize, text: &str) -> Result<(), RegexError> {
        for number in text.trim_matches(['{', '}']).split(',').filter(|number| !number.is_empty()) {
            if number.parse::<u32>().map_or(true, |n| n > MAX_REPEAT) {
                return Err(RegexError::syntax(at, format!("`{text}` repeats more than {MAX_REPEAT} times")));
            }
        }
        self.out.push_str(text);
        self.skip(text.len() - 1);
        Ok(())
    }

    /// Steps over ASCII characters that were looked at in `pattern`.
    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.chars.next();
        }
    }

    /// Everything but letters and digits by its code, so that nothing in it is an operator.
    fn literal(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() {
            self.out.push(c);
        } else {
            let _ = write!(self.out, r"\x{{{:X}}}", u32::from(c));
        }
    }

    fn class(&mut self, class: &str, negated: bool) {
        self.out.push_str(if negated { "[^" } else { "[" });
        self.out.push_str(class);
        self.out.push(']');
    }

    /// After `\Q`.
    fn quoted(&mut self) {
        while let Some((at, c)) = self.chars.next() {
            if c == '\\' && self.pattern[at..].starts_with(r"\E") {
                self.chars.next();
                return;
            }
            self.literal(c);
        }
    }

    /// After `(`: RE2 knows `(?:`, `(?P<name>`, `(?<name>` and the flags i, m, s and U.
    fn group(&mut self, at: usize) -> Result<(), RegexError> {
        self.out.push('(');
        if self.chars.next_if(|(_, c)| *c == '?').is_none() {
            return Ok(());
        }
        self.out.push('?');
        let rest = &self.pattern[at + 2..];
        let named = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<'));
        if named.is_some_and(|name| !name.starts_with(['=', '!'])) {
            return Ok(());
        }
        let flags_end = rest.find([':', ')']).unwrap_or(rest.len());
        let flags = &rest[..flags_end];
        if !flags.chars().all(|c| matches!(c, 'i' | 'm' | 's' | 'U' | '-')) {
            let message = if flags.starts_with(['=', '!', '<']) {
                format!("`(?{}` looks ahead or behind, which RE2 cannot", &flags[..1])
            } else {
                format!("`(?{flags}` is no group or flag that RE2 knows")
            };
            return Err(RegexError::syntax(at, message));
        }
        self.out.push_str(flags);
        self.skip(flags.len());
        Ok(())
    }

    /// After `\`, inside a class or outside.
    fn escape(&mut self, at: usize) -> Result<Escape, RegexError> {
        let Some((_, c)) = self.chars.next() else {
            return Err(RegexError::syntax(at, "a `\\` at the end escapes nothing".to_owned()));
        };
        let unknown = |text: &str| RegexError::syntax(at, format!("`\\{text}` is no escape that RE2 knows"));
        Ok(match c {
            'd' => Escape::Class(DIGIT, false),
            'D' => Escape::Class(DIGIT, true),
            's' => Escape::Class(SPACE, false),
            'S' => Escape::Class(SPACE, true),
            'w' => Escape::Class(WORD, false),
            'W' => Escape::Class(WORD, true),
            'A' => Escape::Assertion(r"\A"),
            'z' => Escape::Assertion(r"\z"),
            'b' => Escape::Assertion(r"(?-u:\b)"),
            'B' => Escape::Assertion(r"(?-u:\B)"),
            'Q' => Escape::Quote,
            // A `\E` without a `\Q` ends nothing.
            'E' => Escape::Unicode(String::new()),
            'p' | 'P' => self.unicode_class(at, c)?,
            'a' => Escape::Char('\x07'),
            'f' => Escape::Char('\x0c'),
            't' => Escape::Char('\t'),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            'v' => Escape::Char('\x0b'),
            'x' => Escape::Char(self.hexadecimal(at)?),
            '0'..='7' => {
                let more = self.pattern[at + 2..].bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                if c != '0' && more == 0 {
                    let message = format!("`\\{c}` refers back to a group, which RE2 cannot");
                    return Err(RegexError::syntax(at, message));
                }
                let digits = &self.pattern[at + 1..at + 2 + more];
                self.skip(more);
                let code = u32::from_str_radix(digits, 8).ok().and_then(char::from_u32);
                Escape::Char(code.ok_or_else(|| unknown(digits))?)
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Escape::Char(c),
            c => return Err(unknown(c.encode_utf8(&mut [0; 4]))),
        })
    }

    /// After `\x`: two digits, or any number of them in braces.
    fn hexadecimal(&mut self, at: usize) -> Result<char, RegexError> {
        let rest = &self.pattern[at + 2..];
        let (digits, length) = match rest.strip_prefix('{') {
            Some(inner) => {
                let end = inner.find('}').unwrap_or(0);
                (&inner[..end], end + 2)
            }
            None => (rest.get(..2).unwrap_or_default(), 2),
        };
        let code = Some(digits)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        let code =
            code.ok_or_else(|| RegexError::syntax(at, "`\\x` needs two hexadecimal digits or `{…}`".to_owned()))?;
        self.skip(length);
        Ok(code)
    }

    /// After `\p` or `\P`: `N`, `{Name}` or `{^Name}`.
    fn unicode_class(&mut self, at: usize, letter: char) -> Result<Escape, RegexError> {
        let rest = &self.pattern[at + 2..];
        let (name, length) = match rest.strip_prefix('{') {
            Some(inner) => {
                let end = inner.find('}').unwrap_or(0);
                (&inner[..end], end + 2)
            }
            None => (rest.get(..1).unwrap_or_default(), 1),
        };
        let (name, flip) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(RegexError::syntax(
                at,
                format!("`\\{letter}` must name a Unicode class: `\\{letter}{{Greek}}`"),
            ));
        }
        self.skip(length);
        let letter = if (letter == 'P') == flip { 'p' } else { 'P' };
        Ok(Escape::Unicode(format!(r"\{letter}{{{name}}}")))
    }

    /// After `[`, up to and with the `]`.
    fn bracket(&mut self, at: usize) -> Result<(), RegexError> {
        let open = || RegexError::syntax(at, "the class that `[` opens is not closed".to_owned());
        self.out.push('[');
        if self.chars.next_if(|(_, c)| *c == '^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let (item_at, c) = self.chars.next().ok_or_else(open)?;
            let from = match c {
                ']' if !first => break,
                '[' if self.pattern[item_at..].starts_with("[:") => {
                    let rest = &self.pattern[item_at..];
                    if let Some(end) = rest.find(":]") {
                        self.out.push_str(&rest[..end + 2]);
                        self.skip(rest[..end + 2].chars().count() - 1);
                        first = false;
                        continue;
                    }
                    c
                }
                '\\' => match self.escape(item_at)? {
                    Escape::Char(c) => c,
                    Escape::Class(class, negated) => {
                        self.class(class, negated);
                        first = false;
                        continue;
                    }
                    Escape::Unicode(text) => {
                        self.out.push_str(&text);
                        first = false;
                        continue;
                    }
                    Escape::Assertion(_) | Escape::Quote => {
                        let message = "an assertion or `\\Q` cannot stand inside a class".to_owned();
                        return Err(RegexError::syntax(item_at, message));
                    }
                },
                c => c,
            };
            first = false;
            self.literal(from);
            // A `-` before the `]` is a plain character.
            let rest = self.chars.peek().map_or("", |(next, _)| &self.pattern[*next..]);
            if rest.starts_with('-') && !rest.starts_with("-]") && rest.len() > 1 {
                self.chars.next();
                let (to_at, c) = self.chars.next().ok_or_else(open)?;
                let to = match c {
                    '\\' => {
                        if let Escape::Char(c) = self.escape(to_at)? {
                            c
                        } else {
                            let message = "a range in a class must end with a character".to_owned();
                            return Err(RegexError::syntax(to_at, message));
                        }
                    }
                    c => c,
                };
                self.out.push('-');
                self.literal(to);
            }
        }
        self.out.push(']');
        Ok(())
    }
}

/// The repetition `{n}`, `{n,}` or `{n,m}` at the start of a text; anything else in braces is plain text to RE2.
fn repetition(text: &str) -> Option<&str> {
    let end = text.find('}')?;
    let (from, to) = match text[1..end].split_once(',') {
        Some((from, to)) => (from, Some(to)),
        None => (&text[1..end], None),
    };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (number(from) && to.is_none_or(|to| to.is_empty() || number(to))).then(|| &text[..=end])
}
