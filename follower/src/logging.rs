//! The process's own log, on standard error: one line an event, as text or JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a process logs.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LogArgs {
    /// Form of the log on standard error; RUST_LOG sets what is logged (default: info,sqlx=warn)
    #[arg(long, env = "FAIRWAY_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Starts logging; to be called once, first.
    pub fn init(self) {
        self.init_with("info,sqlx=warn");
    }

    /// The same with another choice of what is logged where `RUST_LOG` does not say.
    pub fn init_with(self, default: &str) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
    }
}
