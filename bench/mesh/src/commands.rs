//! What the benchmark asks for, and the answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::fleet::Fleet;
use crate::proxy::now;

/// How often it is looked whether something is reached. When each proxy reached it is noted as it happens.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Command {
    /// Gets certificates and connects.
    Join,
    /// Waits until every proxy acknowledged a revision, but no longer than so many seconds; answers when each did, in
    /// nanoseconds of the monotonic clock.
    Await {
        revision: u64,
        seconds: f64,
    },
    /// Cuts all connections at once.
    Cut,
    /// Forgets what was seen.
    Clear,
    Counts,
}

/// Serves until the standard input ends.
pub(crate) async fn serve(fleet: Arc<Fleet>) -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut answers = tokio::io::stdout();
    while let Some(line) = lines.next_line().await? {
        let answer = run(&fleet, serde_json::from_str(&line)?).await?;
        answers.write_all(format!("{answer}\n").as_bytes()).await?;
        answers.flush().await?;
    }
    Ok(())
}

async fn run(fleet: &Arc<Fleet>, command: Command) -> anyhow::Result<Value> {
    Ok(match command {
        Command::Join => {
            fleet.join().await?;
            json!({})
        }
        Command::Await { revision, seconds } => {
            let end = Instant::now() + Duration::from_secs_f64(seconds);
            loop {
                let acked: Vec<u64> = fleet.proxies.iter().filter_map(|proxy| proxy.acked(revision)).collect();
                if acked.len() == fleet.proxies.len() || Instant::now() >= end {
                    return Ok(json!({"acked": acked}));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Command::Cut => {
            let at = now();
            fleet.cut();
            json!({"at": at})
        }
        Command::Clear => {
            fleet.clear();
            json!({})
        }
        Command::Counts => serde_json::to_value(fleet.counts())?,
    })
}
