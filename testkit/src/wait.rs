//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a condition may take to come true. Generous: a loaded machine is slow, not wrong.
pub const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(5);

/// What a condition answers: `true`, something found, or why not yet.
pub trait Verdict {
    type Found;

    /// What was found, or what to say of the last attempt when the time is over.
    fn verdict(self) -> Result<Self::Found, String>;
}

impl Verdict for bool {
    type Found = ();

    fn verdict(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("no".to_owned()) }
    }
}

impl<T> Verdict for Option<T> {
    type Found = T;

    fn verdict(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Debug> Verdict for Result<T, E> {
    type Found = T;

    fn verdict(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Polls until the condition holds and answers what it found.
///
/// # Panics
/// At the deadline, with what the last attempt said.
pub async fn eventually<V: Verdict>(what: &str, mut condition: impl AsyncFnMut() -> V) -> V::Found {
    let start = Instant::now();
    loop {
        match condition().await.verdict() {
            Ok(found) => return found,
            Err(said) => {
                assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}; the last attempt said: {said}");
            }
        }
        sleep(POLL).await;
    }
}
