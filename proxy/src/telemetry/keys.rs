//! How the keys of issuers are fetched, by URL. Labels come from the configuration alone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::exposition::{Label, head};
use super::rate_limits::SharedCount;

/// The fetches from one URL.
#[derive(Debug, Default)]
pub(crate) struct KeyFetches {
    fetched: SharedCount,
    failed: SharedCount,
    /// When the keys in use were fetched; `None`: there are none.
    good: Mutex<Option<Instant>>,
}

impl KeyFetches {
    /// Keys were fetched.
    pub(crate) fn fetched(&self) {
        self.fetched.add();
        *self.good.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// They were not, and those known are `kept` in use or not.
    pub(crate) fn failed(&self, kept: bool) {
        self.failed.add();
        if !kept {
            *self.good.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn age(&self) -> Option<f64> {
        let good = *self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.map(|good| good.elapsed().as_secs_f64())
    }
}

/// The fetches from one URL, and it.
#[derive(Debug)]
pub(crate) struct KeySeries {
    pub(crate) url: Arc<str>,
    pub(crate) fetches: Arc<KeyFetches>,
}

/// Writes the fetches from all URLs.
pub(super) fn render(series: &[KeySeries], out: &mut dyn fmt::Write) -> fmt::Result {
    let name = "fairway_jwks_fetches_total";
    head(out, name, "counter", "Fetches of issuers' keys, by URL.")?;
    for KeySeries { url, fetches } in series {
        for (result, count) in [("fetched", &fetches.fetched), ("failed", &fetches.failed)] {
            writeln!(out, "{name}{{url=\"{}\",result=\"{result}\"}} {}", Label(url), count.get())?;
        }
    }
    let name = "fairway_jwks_age_seconds";
    head(out, name, "gauge", "Time since the keys in use were fetched; absent where there are none.")?;
    for KeySeries { url, fetches } in series {
        if let Some(age) = fetches.age() {
            writeln!(out, "{name}{{url=\"{}\"}} {age:.3}", Label(url))?;
        }
    }
    Ok(())
}
