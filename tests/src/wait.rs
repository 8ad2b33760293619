//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long a condition may take to come true. Generous: a loaded machine is slow, not wrong.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Polls until `condition` answers `Ok`; panics with its last error at the deadline.
pub async fn eventually<T, E, F, Fut>(what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Debug,
{
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(error) if start.elapsed() > DEADLINE => {
                panic!("{what}: not within {DEADLINE:?}; the last attempt said: {error:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
