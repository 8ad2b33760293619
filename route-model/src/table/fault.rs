//! Faults that are made on purpose, and shares of requests.

use std::time::Duration;

use http::StatusCode;

/// A share of requests, to a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction(u32);

impl Fraction {
    pub const ALWAYS: Self = Self(Self::WHOLE);
    pub const NEVER: Self = Self(0);
    /// Draws are below this.
    pub const WHOLE: u32 = 1_000_000;

    /// From 0 to 100; what is beyond is read as the nearest.
    pub fn from_percent(percent: f64) -> Self {
        Self((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Whether a request belongs to the share that drew this number, at random below [`WHOLE`](Self::WHOLE).
    pub fn takes(self, draw: u32) -> bool {
        draw < self.0
    }
}

/// `http[].fault`: both parts are drawn apart from each other; a request that draws both is delayed, then aborted.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub delay: Option<(Fraction, Duration)>,
    pub abort: Option<(Fraction, Abort)>,
}

/// The answer in the upstream's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// 200–599.
    Http(StatusCode),
    /// A gRPC status, in the head of a 200; to a client that does not speak gRPC too.
    Grpc(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_to_a_millionth() {
        for (percent, share) in [(0.0, 0), (0.0001, 1), (50.0, 500_000), (100.0, 1_000_000), (250.0, 1_000_000)] {
            let fraction = Fraction::from_percent(percent);
            assert_eq!(fraction.0, share);
            assert_eq!((0..Fraction::WHOLE).filter(|draw| fraction.takes(*draw)).count(), share as usize);
        }
    }
}
