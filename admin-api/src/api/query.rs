//! Query parameters, read as forgivingly as Kubernetes reads them: unknown ones are ignored, empty pairs are passed
//! over, booleans are true unless they are `false` or `0`.

use std::time::Duration;

use route_model::field::FieldCause;

use super::error::ApiError;

/// The decoded pairs of a query, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// What to do about fields that the schema does not know (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    /// The default.
    Warn,
    Strict,
}

/// Parameters that every write takes.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    /// As sent, or empty.
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    pub(crate) dry_run: bool,
    /// Only server-side apply may set it.
    pub(crate) force: bool,
}

/// Longest `fieldManager`, as in Kubernetes.
const MAX_FIELD_MANAGER: usize = 128;

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.filter(|(name, _)| !name.is_empty()).map(|(n, v)| (n.into_owned(), v.into_owned())).collect())
    }

    /// The first value, if it is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Is the parameter there at all, even empty?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// Every value, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// `?watch` and `?watch=True` are true; absent, `0` and `false` in any case are false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// A whole number that is not negative; absent is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid value {text:?} of the parameter {name}: a whole number is expected"
                ))
            }),
        }
    }

    /// A number of seconds.
    pub(crate) fn seconds(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        Ok(self.number(name)?.map(Duration::from_secs))
    }

    /// Reads `fieldManager`, `fieldValidation`, `dryRun` and `force`. `kind` names the options in errors
    /// (`CreateOptions`, `PatchOptions` …).
    pub(crate) fn write_options(&self, kind: &str) -> Result<WriteOptions, ApiError> {
        let options = format!("{kind}.meta.k8s.io");
        let field_manager = self.get("fieldManager").unwrap_or_default().to_owned();
        if field_manager.len() > MAX_FIELD_MANAGER || field_manager.chars().any(char::is_control) {
            let why = format!("Invalid value: at most {MAX_FIELD_MANAGER} printable characters");
            return Err(ApiError::invalid_options(&options, "fieldManager", FieldCause::Invalid, &why));
        }
        let field_validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                let why = format!("Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\"");
                return Err(ApiError::invalid_options(&options, "fieldValidation", FieldCause::NotSupported, &why));
            }
        };
        let mut dry_run = false;
        for value in self.all("dryRun").filter(|v| !v.is_empty()) {
            dry_run |= parse_dry_run(value, &options)?;
        }
        Ok(WriteOptions { field_manager, field_validation, dry_run, force: self.flag("force") })
    }
}

/// `All` is the only value there is.
pub(crate) fn parse_dry_run(value: &str, options: &str) -> Result<bool, ApiError> {
    if value == "All" {
        return Ok(true);
    }
    let why = format!("Unsupported value: {value:?}: supported values: \"All\"");
    Err(ApiError::invalid_options(options, "dryRun", FieldCause::NotSupported, &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_and_stray_ampersands() {
        let query = Query::parse(Some("&limit=1&watch=True&force&a=0&b=False&c=false&d=no&timeout=32s"));
        assert_eq!(query.number("limit").unwrap(), Some(1));
        for (name, value) in
            [("watch", true), ("force", true), ("a", false), ("b", false), ("c", false), ("d", true), ("x", false)]
        {
            assert_eq!(query.flag(name), value, "{name}");
        }
        assert!(Query::parse(Some("limit=-1")).number("limit").is_err());
    }

    #[test]
    fn write_options_refuse_what_they_do_not_know() {
        let options = |q: &str| Query::parse(Some(q)).write_options("PatchOptions");
        assert!(options("dryRun=All&force=true").unwrap().dry_run);
        assert!(!options("dryRun=").unwrap().dry_run);
        assert_eq!(options("").unwrap().field_validation, FieldValidation::Warn);
        assert_eq!(options("fieldValidation=Strict").unwrap().field_validation, FieldValidation::Strict);
        for bad in ["dryRun=Some", "fieldValidation=strict", &format!("fieldManager={}", "x".repeat(129))] {
            assert_eq!(options(bad).unwrap_err().reason, "Invalid", "{bad}");
        }
    }
}
