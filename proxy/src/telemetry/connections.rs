//! Istio's TCP metrics: one series per destination and flags, bounded as those of requests are.

use std::sync::Arc;
use std::time::Instant;

use super::cells::Cell;
use super::flags::ResponseFlags;
use super::registry::SeriesRegistry;
use super::requests::DestinationLabels;

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

/// All series of one worker.
#[derive(Debug, Default)]
pub struct ConnectionRegistry(SeriesRegistry<(DestinationLabels, ResponseFlags), ConnectionSeries>);

impl ConnectionRegistry {
    /// The series of a destination. Connections that reach an upstream are counted without flags, those that do not
    /// under the flags that say why.
    pub fn series(&self, destination: DestinationLabels, flags: ResponseFlags) -> Arc<ConnectionSeries> {
        self.0.series((destination, flags), || (DestinationLabels::all("overflow"), ResponseFlags::NONE))
    }

    /// Hands every series to `visit`, and forgets those that nothing has used for an hour.
    pub fn read(&self, now: Instant, mut visit: impl FnMut(&DestinationLabels, ResponseFlags, ConnectionValue)) {
        self.0.read(now, |(destination, flags), series| visit(destination, *flags, series.read()));
    }
}
