//! `fairway serve --demo`, waited for as somebody who looks at it does.

use std::path::Path;
use std::time::Duration;

use crate::process::{Fairway, Start};
use testkit::eventually;

/// A demo that works, and where its page is.
#[derive(Debug)]
pub struct Demo {
    pub fairway: Fairway,
    /// `http://127.0.0.1:PORT`
    pub base: String,
}

impl Demo {
    pub async fn start() -> Self {
        Self::of(Start::serve(&[8080]).arg("--demo").run().await).await
    }

    /// Again with the folder that another one left.
    pub async fn start_again(folder: &Path) -> Self {
        Self::of(Start::serve(&[8080]).arg("--demo").data_dir(folder).run().await).await
    }

    async fn of(fairway: Fairway) -> Self {
        eventually("the demo says what is where", async || {
            let log = fairway.log();
            if log.contains("Ctrl-C stops it.") { Ok(()) } else { Err(log) }
        })
        .await;
        assert!(!fairway.log().contains("  missing  "), "a service does not answer:\n{}", fairway.log());
        let base = format!("http://{}", fairway.listener(8080).await);
        eventually("the vehicles are reported", async || {
            let answer = reqwest::get(format!("{base}/api/vehicles")).await.map_err(|error| error.to_string())?;
            let text = answer.text().await.map_err(|error| error.to_string())?;
            if text.contains("heron") {
                return Ok(());
            }
            // The rate limit is for the test itself.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err(text)
        })
        .await;
        Self { fairway, base }
    }
}
