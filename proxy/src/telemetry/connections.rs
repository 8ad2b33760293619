//! Istio's TCP metrics: one series per destination and flags, bounded as those of requests are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cells::Cell;
use super::flags::ResponseFlags;
use super::requests::{DestinationLabels, MAX_SERIES};

/// For how long a series is shown that no connection and no table uses any more.
const RETIRE_AFTER: Duration = Duration::from_hours(1);

/// The cells of one series.
#[derive(Debug, Default)]
pub struct ConnectionSeries {
    opened: Cell,
    closed: Cell,
    sent: Cell,
    received: Cell,
}

/// A series' numbers as read by a scrape; can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionValue {
    pub opened: u64,
    pub closed: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Bytes from clients.
    pub received: u64,
}

impl ConnectionSeries {
    pub fn opened(&self) {
        self.opened.add(1);
    }

    pub fn closed(&self) {
        self.closed.add(1);
    }

    /// Counts bytes from and to a client.
    pub fn moved(&self, received: u64, sent: u64) {
        self.received.add(received);
        self.sent.add(sent);
    }

    fn read(&self) -> ConnectionValue {
        ConnectionValue {
            opened: self.opened.get(),
            closed: self.closed.get(),
            sent: self.sent.get(),
            received: self.received.get(),
        }
    }
}

impl ConnectionValue {
    pub fn add(&mut self, other: &Self) {
        self.opened = self.opened.wrapping_add(other.opened);
        self.closed = self.closed.wrapping_add(other.closed);
        self.sent = self.sent.wrapping_add(other.sent);
        self.received = self.received.wrapping_add(other.received);
    }
}

type Key = (DestinationLabels, ResponseFlags);

/// All series of one worker.
#[derive(Debug, Default)]
pub struct ConnectionRegistry {
    series: Mutex<HashMap<Key, Entry, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct Entry {
    series: Arc<ConnectionSeries>,
    /// When a scrape first found that only the registry knows the series.
    unused_since: Option<Instant>,
}

impl ConnectionRegistry {
    /// The series of a destination. Connections that reach an upstream are counted without flags, those that do not
    /// under the flags that say why.
    pub fn series(&self, destination: DestinationLabels, flags: ResponseFlags) -> Arc<ConnectionSeries> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (destination, flags);
        if all.len() >= MAX_SERIES && !all.contains_key(&key) {
            key = (DestinationLabels::all("overflow"), ResponseFlags::NONE);
        }
        let entry = all.entry(key).or_insert_with(|| Entry { series: Arc::default(), unused_since: None });
        entry.unused_since = None;
        Arc::clone(&entry.series)
    }

    /// Hands every series to `visit`, and forgets those that nothing has used for an hour.
    pub fn read(&self, now: Instant, mut visit: impl FnMut(&DestinationLabels, ResponseFlags, ConnectionValue)) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, entry| {
            if Arc::strong_count(&entry.series) > 1 {
                entry.unused_since = None;
                return true;
            }
            let since = *entry.unused_since.get_or_insert(now);
            now.saturating_duration_since(since) < RETIRE_AFTER
        });
        for ((destination, flags), entry) in &*all {
            visit(destination, *flags, entry.series.read());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_forgotten_an_hour_after_their_last_use() {
        let (registry, start) = (ConnectionRegistry::default(), Instant::now());
        let connections = MAX_SERIES as u64 + 10;
        for number in 0..connections {
            registry.series(DestinationLabels::all(&number.to_string()), ResponseFlags::NONE).opened();
        }
        let total = |now| {
            let (mut series, mut opened) = (0, 0);
            registry.read(now, |_, _, value| {
                series += 1;
                opened += value.opened;
            });
            (series, opened)
        };
        assert_eq!(total(start), (MAX_SERIES + 1, connections));
        let used = registry.series(DestinationLabels::all("7"), ResponseFlags::NONE);
        assert_eq!(total(start + RETIRE_AFTER), (1, 1), "only what is in use is left");
        drop(used);
    }
}
