//! The cells that metrics are counted in: one writer, any number of readers, no locked instruction.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread raises and others read.
///
/// Adding is a load and a store, not an atomic addition: with two writers counts would get lost. Where there are two,
/// use an `AtomicU64` as it is.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper bounds of Istio's histograms, for milliseconds and bytes alike (Envoy's defaults).
pub const ISTIO_BOUNDS: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000",
    "300000", "600000", "1800000", "3600000",
];

/// [`ISTIO_BOUNDS`] in thousandths, so that they are whole.
const ISTIO_BOUNDS_MILLI: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// A histogram over [`ISTIO_BOUNDS`].
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one has no bound.
    buckets: [Cell; 20],
    sum_milli: Cell,
}

/// A histogram's numbers as read by a scrape; can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramValue {
    /// Not cumulative; the last one has no bound.
    pub buckets: [u64; 20],
    /// In thousandths of the unit.
    pub sum_milli: u64,
}

impl Histogram {
    /// Counts a value given in thousandths of the histogram's unit.
    pub fn observe_milli(&self, value: u64) {
        let bucket = ISTIO_BOUNDS_MILLI.partition_point(|bound| *bound < value);
        self.buckets[bucket].add(1);
        self.sum_milli.add(value);
    }

    pub fn read(&self) -> HistogramValue {
        HistogramValue {
            buckets: std::array::from_fn(|index| self.buckets[index].get()),
            sum_milli: self.sum_milli.get(),
        }
    }
}

impl HistogramValue {
    pub fn add(&mut self, other: &Self) {
        for (sum, value) in self.buckets.iter_mut().zip(other.buckets) {
            *sum = sum.wrapping_add(value);
        }
        self.sum_milli = self.sum_milli.wrapping_add(other.sum_milli);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_agree_in_both_forms() {
        for (text, milli) in ISTIO_BOUNDS.iter().zip(ISTIO_BOUNDS_MILLI) {
            assert!((text.parse::<f64>().unwrap() * 1000.0 - milli as f64).abs() < 0.001, "{text}");
        }
        let histogram = Histogram::default();
        for value in [0, 500, 501, 3_600_000_000, 3_600_000_001] {
            histogram.observe_milli(value);
        }
        let value = histogram.read();
        assert_eq!((value.buckets[0], value.buckets[1], value.buckets[18], value.buckets[19]), (2, 1, 1, 1));
        assert_eq!(value.count(), 5);
    }
}
