//! Callers that were not let in, in the log: a few a minute with the reason, the others as a number. Anybody may call the
//! push port, as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use push::message::Hello;
use push::server::{Caller, Refusal};
use tokio::time::Instant;
use tracing::warn;

const EVERY: Duration = Duration::from_mins(1);

/// Lines that are written in that time.
const MOST: u32 = 20;

/// What was refused in this minute.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    began: Option<Instant>,
    lines: u32,
    untold: u64,
}

impl Refused {
    /// Notes that a caller was not let in. What passes by itself is no news.
    pub(super) fn note(&self, caller: &Caller, hello: &Hello, refusal: &Refusal) {
        if matches!(refusal, Refusal::Unavailable(_)) {
            return;
        }
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner).turn(Instant::now());
        if let Some(untold) = turn {
            let (node, namespace, service_account) = (&*hello.node, &*hello.namespace, hello.service_account());
            let (peer, reason) = (caller.peer, &*refusal.to_string());
            warn!(node, namespace, service_account, ?peer, reason, untold, "a proxy was refused");
        }
    }
}

impl Minute {
    /// Whether there is a line for another one, and how many there was none for before it.
    fn turn(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.duration_since(began) >= EVERY) {
            (self.began, self.lines) = (Some(now), 0);
        }
        if self.lines == MOST {
            self.untold += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_minute_are_told_and_the_others_are_counted() {
        let (mut minute, start) = (Minute::default(), Instant::now());
        let told = (0..100).filter_map(|n| minute.turn(start + Duration::from_millis(n))).collect::<Vec<_>>();
        assert_eq!(told, [0; MOST as usize]);
        assert_eq!(minute.turn(start + EVERY), Some(100 - u64::from(MOST)));
        assert_eq!(minute.turn(start + EVERY), Some(0));
    }
}
