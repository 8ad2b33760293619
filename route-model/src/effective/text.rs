//! What is in force, as a terminal shows it.

use std::fmt;

use serde_json::Value;

use super::{AppliedPolicy, EffectiveDestination, EffectiveRule, Setting, Source};

/// Columns of names and values; longer ones push the rest of their line.
const NAME: usize = 44;
const VALUE: usize = 14;

impl fmt::Display for EffectiveRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { String::new() } else { format!(" `{}`", self.name) };
        writeln!(f, "rule{name}  {}", self.origin)?;
        writeln!(f, "  gateways  {}", self.gateways.join(", "))?;
        self.settings.iter().try_for_each(|setting| write!(f, "{setting}"))?;
        self.policies.iter().try_for_each(|policy| write!(f, "{policy}"))?;
        self.destinations.iter().try_for_each(|destination| write!(f, "{destination}"))
    }
}

impl fmt::Display for EffectiveDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(subset) = &self.subset {
            write!(f, " subset {subset}")?;
        }
        writeln!(f, "  {:.1}%  {}", self.percent, self.origin)?;
        if self.rules.is_empty() {
            writeln!(f, "  no DestinationRule is in force")?;
        } else {
            writeln!(f, "  in force  {}", self.rules.join(", "))?;
        }
        self.settings.iter().try_for_each(|setting| write!(f, "{setting}"))
    }
}

impl fmt::Display for AppliedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "under {}", self.resource)?;
        self.does.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:NAME$}  {:VALUE$}  ", self.name, Shown(&self.value).to_string())?;
        match &self.from {
            Some(from) => writeln!(f, "{from}")?,
            None => writeln!(f, "default")?,
        }
        for other in &self.overrides {
            writeln!(f, "  {:NAME$}  not {:10}  {}", "", Shown(&other.value).to_string(), other.from)?;
        }
        Ok(())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource, self.field)
    }
}

/// A value without the quotes of a text.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => f.write_str(text),
            Value::Null => f.write_str("unset"),
            other => write!(f, "{other}"),
        }
    }
}
