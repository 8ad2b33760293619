//! `fairway serve --demo`, waited for as somebody who looks at it does.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testkit::eventually;

use crate::process::{Fairway, Start};

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
        let base = format!("http://{}", fairway.listener(8080).await);
        let works = async || {
            let services = get(&format!("{base}/api/services")).await?;
            let answer = |service: &&Value| service["state"].is_object();
            let answers = services.as_array().ok_or(services.to_string())?.iter().filter(answer).count();
            let vehicles = get(&format!("{base}/api/vehicles")).await?;
            let reported = vehicles["vehicles"].as_array().map_or(0, Vec::len);
            if (answers, reported) == (9, 12) { Ok(()) } else { Err(format!("{services}\n{vehicles}")) }
        };
        eventually("all services answer, and all vehicles are reported", async || {
            let result = works().await;
            if result.is_err() {
                // The rate limit is for tests as well.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            result
        })
        .await;
        Self { fairway, base }
    }
}

async fn get(url: &str) -> Result<Value, String> {
    let answer = reqwest::get(url).await.map_err(|error| error.to_string())?;
    let text = answer.text().await.map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|_| text)
}
