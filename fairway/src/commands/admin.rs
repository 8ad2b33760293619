//! `fairway admin`: the control plane alone.

use std::fs;
use std::path::PathBuf;

use admin_api::server::ControlPlane;
use anyhow::Context;
use follower::logging::LogArgs;
use follower::process;
use serde_json::Value;

use crate::commands::control_plane::{ControlPlaneArgs, ports};
use crate::commands::validate::default_scope;

#[derive(clap::Args)]
#[command(after_help = "Gateways join it with a token:\n  fairway join-token create > gateway.token\n  \
                        fairway gateway --control-plane https://HOST:15012 --control-plane-ca fairway-data/ca.crt \
                        --join-token-file gateway.token")]
pub(crate) struct Args {
    /// Where the database, tokens, keys and ports.json are
    #[arg(long, env = "FAIRWAY_DATA_DIR", default_value = "./fairway-data", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    args.log.init();
    process::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let shutdown = process::signalled().context("cannot listen for signals")?;
        let control_plane = ControlPlane::start(args.control_plane.options(&args.data_dir, default_scope())?).await?;
        let path = args.data_dir.join("ports.json");
        let text = format!("{:#}\n", Value::Object(ports(&control_plane.bound)));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        shutdown.await;
        control_plane.stop().await;
        Ok(())
    })
}
