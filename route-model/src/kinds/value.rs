//! The values that specs are made of: fields that remember whether they were written, durations, doubles, bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// A field of a message. It reads as in proto3, where an absent field has its type's zero value, and it still knows
/// whether it was written, so that a document goes out as it came in.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Written<T> {
    presence: Presence,
    value: T,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    Absent,
    /// An explicit `null`, which some fields allow.
    Null,
    Value,
}

/// A map of strings: labels, header values.
pub type StringMap = BTreeMap<String, String>;

impl<T> Written<T> {
    pub fn new(value: T) -> Self {
        Self { presence: Presence::Value, value }
    }

    /// The value if one was written, be it the zero value.
    pub fn get(&self) -> Option<&T> {
        matches!(self.presence, Presence::Value).then_some(&self.value)
    }

    pub fn is_written(&self) -> bool {
        matches!(self.presence, Presence::Value)
    }
}

impl<T> From<T> for Written<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> Deref for Written<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

#[expect(clippy::into_iter_without_iter, reason = "the value has an iter method, which Deref leads to")]
impl<'a, T> IntoIterator for &'a Written<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&self.value).into_iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for Written<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.presence {
            Presence::Absent => f.write_str("absent"),
            Presence::Null => f.write_str("null"),
            Presence::Value => self.value.fmt(f),
        }
    }
}

impl<T: Serialize> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::<T>::deserialize(deserializer)? {
            Some(value) => Self::new(value),
            None => Self { presence: Presence::Null, value: T::default() },
        })
    }
}

/// What is left out of a document when a message is written.
pub trait Omit {
    fn omit(&self) -> bool;
}

impl<T> Omit for Written<T> {
    fn omit(&self) -> bool {
        matches!(self.presence, Presence::Absent)
    }
}

impl<T> Omit for Option<T> {
    fn omit(&self) -> bool {
        self.is_none()
    }
}

/// Declares messages of the schema: structs whose fields are all [`Written`] or an optional message, named in
/// camelCase in documents.
macro_rules! message {
    ($($(#[$attr:meta])* pub struct $name:ident { $($(#[$field_attr:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$attr])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {$(
            $(#[$field_attr])*
            #[serde(skip_serializing_if = "crate::kinds::value::Omit::omit")]
            pub $field: $type,
        )*}
    )*};
}

/// Declares enums of the schema. The first variant is the zero value, which an absent field has.
macro_rules! choice {
    ($($(#[$attr:meta])* pub enum $name:ident {
        $(#[$first_attr:meta])* $first:ident $(, $(#[$variant_attr:meta])* $variant:ident)* $(,)?
    })*) => {$(
        $(#[$attr])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        pub enum $name {
            $(#[$first_attr])*
            #[default]
            $first,
            $($(#[$variant_attr])* $variant,)*
        }
    )*};
}

pub(crate) use {choice, message};

/// A duration as Go and protobuf write it (`1.5s`, `1h5m`, `250ms`). Keeps its text.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TextDuration {
    text: String,
    value: Duration,
}

impl TextDuration {
    /// Reads the sequence of decimal numbers with units (`h`, `m`, `s`, `ms`, `us`, `µs`, `ns`) that Go's
    /// `time.ParseDuration` takes. Negative durations have no meaning in any field and are refused.
    pub fn parse(text: &str) -> Result<Self, InvalidDuration> {
        let value = parse_duration(text).ok_or_else(|| InvalidDuration(text.chars().take(64).collect()))?;
        Ok(Self { text: text.to_owned(), value })
    }

    pub fn get(&self) -> Duration {
        self.value
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 250ms, 5s or 1h30m")]
pub struct InvalidDuration(String);

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let whole_len = digits(rest);
        let (whole, after) = rest.split_at(whole_len);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(nanos)?)?;
        let mut scale = nanos;
        for digit in fraction.bytes() {
            // Digits below a nanosecond are dropped, as Go drops them.
            scale /= 10;
            total = total.checked_add(u128::from(digit - b'0') * scale)?;
        }
        rest = after;
    }
    // Go's durations are 64 bit numbers of nanoseconds.
    let nanos = u64::try_from(total).ok().filter(|n| i64::try_from(*n).is_ok())?;
    Some(Duration::from_nanos(nanos))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

impl fmt::Debug for TextDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for TextDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for TextDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// A floating point number. A whole one is written without a fraction, as Go's encoder does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Double(pub f64);

impl Serialize for Double {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Up to 2^53 every whole number is exact in both forms.
        if self.0.fract() == 0.0 && self.0.abs() <= 9_007_199_254_740_992.0 {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(Self)
    }
}

/// Bytes that documents carry as base64 (standard alphabet, padded).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Base64 {
    /// Line breaks are allowed, as Kubernetes allows them.
    pub fn parse(text: &str) -> Option<Self> {
        let decoded = if text.contains(['\r', '\n']) {
            STANDARD.decode(text.replace(['\r', '\n'], ""))
        } else {
            STANDARD.decode(text)
        };
        decoded.ok().map(Self)
    }
}

impl Deref for Base64 {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The length alone: the bytes may be a private key.
impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("must be base64 in the standard alphabet, padded"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        let cases: &[(&str, Option<Duration>)] = &[
            ("0", Some(Duration::ZERO)),
            ("0s", Some(Duration::ZERO)),
            ("5s", Some(Duration::from_secs(5))),
            ("1.5s", Some(Duration::from_millis(1500))),
            (".5s", Some(Duration::from_millis(500))),
            ("1.s", Some(Duration::from_secs(1))),
            ("1h30m", Some(Duration::from_mins(90))),
            ("1h2m3.004005006s", Some(Duration::new(3723, 4_005_006))),
            ("250ms", Some(Duration::from_millis(250))),
            ("3us", Some(Duration::from_micros(3))),
            ("3µs", Some(Duration::from_micros(3))),
            ("0.0000000009s", Some(Duration::ZERO)),
            ("+5s", Some(Duration::from_secs(5))),
            ("9223372036854775807ns", Some(Duration::from_nanos(i64::MAX as u64))),
            ("9223372036854775808ns", None),
            ("2562048h", None),
            ("-1s", None),
            ("", None),
            ("+", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("5 s", None),
            ("5d", None),
            ("1s2", None),
        ];
        for (text, expected) in cases {
            assert_eq!(TextDuration::parse(text).ok().map(|d| d.get()), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_field_goes_out_as_it_came_in() {
        use crate::kinds::virtual_service::HttpRoute;

        for text in [
            "{}",
            r#"{"match":[{"ignoreUriCase":false,"gateways":[]}],"route":[]}"#,
            r#"{"mirrorPercent":null}"#,
            r#"{"timeout":"1m0s","mirrorPercentage":{"value":0.1}}"#,
            r#"{"mirrorPercentage":{"value":50}}"#,
            r#"{"directResponse":{"status":200,"body":{"bytes":"aGk="}}}"#,
        ] {
            let route: HttpRoute = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_value(&route).unwrap(), serde_json::from_str::<serde_json::Value>(text).unwrap());
        }
        let route: HttpRoute = serde_json::from_str("{}").unwrap();
        assert!(route.name.is_empty() && !route.name.is_written());
    }
}
