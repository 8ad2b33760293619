//! Failure switches: what a service does wrong on purpose.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an instance does to each request before it works on it. All off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Fault {
    /// Wait so many milliseconds, at most 60,000.
    pub delay_ms: u32,
    /// Answer so many of a hundred requests with 500.
    pub error_percent: u8,
    /// Answer nothing at all (for a minute, which is longer than anybody waits).
    pub hang: bool,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Served,
    Failed,
}

const LONGEST: Duration = Duration::from_mins(1);

impl Fault {
    /// What is wrong with the numbers.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub(crate) fn check(self) -> Result<Self, String> {
        if Duration::from_millis(self.delay_ms.into()) > LONGEST {
            return Err(format!("delay_ms is {}; it is at most 60000", self.delay_ms));
        }
        if self.error_percent > 100 {
            return Err(format!("error_percent is {}; it is at most 100", self.error_percent));
        }
        Ok(self)
    }

    /// Holds a request up as long as it says, and draws what becomes of it.
    pub(crate) async fn strike(self) -> Fate {
        if self.hang {
            tokio::time::sleep(LONGEST).await;
            return Fate::Failed;
        }
        if self.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.delay_ms.into())).await;
        }
        let drawn = self.error_percent > 0 && fastrand::u8(0..100) < self.error_percent;
        if drawn { Fate::Failed } else { Fate::Served }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_off_and_what_is_unknown_is_refused() {
        let fault: Fault = serde_json::from_str(r#"{"delay_ms": 300}"#).unwrap();
        assert_eq!(fault, Fault { delay_ms: 300, ..Fault::default() });
        assert!(serde_json::from_str::<Fault>(r#"{"dealy_ms": 300}"#).is_err());
        assert!(Fault { delay_ms: 60_001, ..Fault::default() }.check().unwrap_err().contains("60000"));
        assert!(Fault { error_percent: 101, ..Fault::default() }.check().unwrap_err().contains("100"));
    }

    #[tokio::test]
    async fn errors_come_as_often_as_was_said() {
        for (percent, expected) in [(0, 0..=0), (100, 200..=200), (50, 50..=150)] {
            let mut failed = 0;
            for _ in 0..200 {
                let fate = Fault { error_percent: percent, ..Fault::default() }.strike().await;
                failed += u32::from(fate == Fate::Failed);
            }
            assert!(expected.contains(&failed), "{percent} %: {failed} of 200");
        }
    }
}
