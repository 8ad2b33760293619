//! When to ask for a certificate.

use std::time::{Duration, SystemTime};

use push::client::Backoff;

/// While there is no good certificate: as often as the stream is tried.
const URGENT: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(15) };
/// While there is one.
const CALM: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };

/// Within what part of its life a certificate is renewed: late enough to be worth it, early enough to try often, and not
/// all that were signed at once at once.
const EARLIEST: f64 = 0.5;
const LATEST: f64 = 0.8;

/// When to renew a certificate. `random` is from 0 to 1.
pub(super) fn renewal(obtained: SystemTime, not_after: SystemTime, random: f64) -> SystemTime {
    let life = not_after.duration_since(obtained).unwrap_or_default();
    obtained + life.mul_f64(EARLIEST + (LATEST - EARLIEST) * random.clamp(0.0, 1.0))
}

/// How long to wait after so many failures in a row (from 1). `life`: of the certificate there is, if it is good still;
/// then several attempts fit into what is left of it.
pub(super) fn retry(failures: u32, refused: bool, life: Option<Duration>) -> Duration {
    // Somebody has to do something first.
    let failures = if refused { u32::MAX } else { failures };
    match life {
        Some(life) => CALM.wait(failures).min(life / 20).max(CALM.first / 2),
        None => URGENT.wait(failures),
    }
}

/// A moment, not the same for a thousand proxies whose control plane came back.
pub(super) fn soon(random: f64) -> Duration {
    Duration::from_secs(1).mul_f64(random.clamp(0.0, 1.0))
}

/// What is left until then.
pub(super) fn until(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::now()).unwrap_or_default()
}

/// A time as people read it in a log: its largest two units.
pub(super) fn text(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, _) => format!("{:.1} s", time.as_secs_f64()),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_between_half_and_four_fifths_of_their_life() {
        let start = SystemTime::now();
        for (life, random, expected) in [(100, 0.0, 50), (100, 1.0, 80), (100, 0.5, 65), (86_400, 0.0, 43_200)] {
            let at = renewal(start, start + Duration::from_secs(life), random);
            assert_eq!(at.duration_since(start).unwrap().as_secs(), expected, "{life} {random}");
        }
        assert_eq!(renewal(start, start - Duration::from_secs(1), 0.5), start, "it was over when it came");
    }

    #[test]
    fn attempts_become_rarer_and_never_too_rare_for_the_time_that_is_left() {
        let day = Some(Duration::from_hours(24));
        let short = Some(Duration::from_secs(10));
        let between = |wait: Duration, from: u64, to: u64| {
            assert!((from..=to).contains(&(wait.as_millis() as u64)), "{wait:?} is not in {from}..={to} ms");
        };
        for _ in 0..100 {
            between(retry(1, false, None), 100, 200);
            between(retry(40, false, None), 7_500, 15_000);
            between(retry(1, true, None), 7_500, 15_000);
            between(retry(1, false, day), 500, 1_000);
            between(retry(3, false, day), 2_000, 4_000);
            between(retry(1, true, day), 30_000, 60_000);
            between(retry(40, true, short), 500, 500);
        }
    }

    #[test]
    fn times_are_said_in_two_units() {
        for (millis, expected) in
            [(0, "0.0 s"), (1_250, "1.2 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(text(Duration::from_millis(millis)), expected);
        }
    }
}
