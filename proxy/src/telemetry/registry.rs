//! The series of one kind of metric that a worker keeps: bounded in number, and forgotten when nobody uses them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many series of a kind one worker keeps.
pub const MAX_SERIES: usize = 8192;

/// For how long a series is shown that nothing uses any more.
const RETIRE_AFTER: Duration = Duration::from_hours(1);

/// The series `S` by what tells them apart.
#[derive(Debug)]
pub struct SeriesRegistry<K, S> {
    series: Mutex<HashMap<K, Entry<S>, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct Entry<S> {
    series: Arc<S>,
    /// When a scrape first found that only the registry knows the series.
    unused_since: Option<Instant>,
}

impl<K, S> Default for SeriesRegistry<K, S> {
    fn default() -> Self {
        Self { series: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, S: Default> SeriesRegistry<K, S> {
    /// The series of a key, or that of `overflow` once there are [`MAX_SERIES`].
    pub(super) fn series(&self, mut key: K, overflow: impl FnOnce() -> K) -> Arc<S> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_SERIES && !all.contains_key(&key) {
            key = overflow();
        }
        let entry = all.entry(key).or_insert_with(|| Entry { series: Arc::default(), unused_since: None });
        entry.unused_since = None;
        Arc::clone(&entry.series)
    }

    /// Hands every series to `visit`, and forgets those that nothing has used for an hour.
    pub(super) fn read(&self, now: Instant, mut visit: impl FnMut(&K, &S)) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, entry| {
            if Arc::strong_count(&entry.series) > 1 {
                entry.unused_since = None;
                return true;
            }
            let since = *entry.unused_since.get_or_insert(now);
            now.saturating_duration_since(since) < RETIRE_AFTER
        });
        let current: Vec<_> = all.iter().map(|(key, entry)| (key.clone(), Arc::clone(&entry.series))).collect();
        // A worker that meets a new outcome does not wait for the reader.
        drop(all);
        for (key, series) in current {
            visit(&key, &series);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cells::Cell;
    use super::*;

    type Numbers = SeriesRegistry<u64, Cell>;

    const OVERFLOW: u64 = u64::MAX;

    /// How many series there are, and the sum of what they counted.
    fn total(registry: &Numbers, now: Instant) -> (usize, u64) {
        let (mut series, mut sum) = (0, 0);
        registry.read(now, |_, cell| {
            series += 1;
            sum += cell.get();
        });
        (series, sum)
    }

    #[test]
    fn what_nobody_uses_is_forgotten_after_an_hour_and_not_before() {
        let (registry, start) = (Numbers::default(), Instant::now());
        let series = registry.series(1, || OVERFLOW);
        series.add(1);
        assert_eq!(total(&registry, start + RETIRE_AFTER * 2), (1, 1), "in use");
        drop(series);
        assert_eq!(total(&registry, start), (1, 1), "just gone");
        let back = registry.series(1, || OVERFLOW);
        back.add(1);
        assert_eq!(total(&registry, start + RETIRE_AFTER), (1, 2), "came back and goes on counting");
        drop(back);
        assert_eq!(total(&registry, start + RETIRE_AFTER), (1, 2));
        assert_eq!(total(&registry, start + RETIRE_AFTER * 2), (0, 0));
    }

    #[test]
    fn series_are_bounded_and_nothing_is_lost_to_the_bound() {
        let registry = Numbers::default();
        let counted = MAX_SERIES as u64 + 500;
        for number in 0..counted {
            registry.series(number, || OVERFLOW).add(1);
        }
        let mut overflow = 0;
        registry.read(Instant::now(), |key, cell| overflow += if *key == OVERFLOW { cell.get() } else { 0 });
        assert_eq!(overflow, 500);
        assert_eq!(total(&registry, Instant::now()), (MAX_SERIES + 1, counted));
    }
}
