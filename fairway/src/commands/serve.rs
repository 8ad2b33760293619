//! `fairway serve`: control plane and gateway in one process.

use std::path::PathBuf;
use std::sync::Arc;

use admin_api::server::ControlPlane;
use anyhow::Context;
use follower::logging::LogArgs;
use follower::{Follower, Transport, process};
use tokio::sync::oneshot;

use crate::commands::control_plane::{ControlPlaneArgs, ports};
use crate::demo;

#[derive(clap::Args)]
#[command(after_help = "fairway serve --demo\n\
                        DATABASE_URL=postgres://fairway@db/fairway fairway serve --master-key-file key")]
pub(crate) struct Args {
    /// Where the database, tokens, keys and ports.json are
    #[arg(long, env = "FAIRWAY_DATA_DIR", default_value = "./fairway-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Start an application of seven services, each behind a sidecar, and load the resources that lead to it
    #[arg(long)]
    demo: bool,
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten, next_help_heading = "Gateway")]
    gateway: gateway::GatewayArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if args.demo {
        // Ten proxies that come and go would hide what is said about the demo.
        args.log.init_with("warn");
    } else {
        args.log.init();
    }
    process::raise_file_limit();
    // Traffic has threads of its own; these two carry the API, the store and the push.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let shutdown = process::signalled().context("cannot listen for signals")?;
    let options = args.control_plane.options(&args.data_dir, args.gateway.scope())?;
    let control_plane = ControlPlane::start(options).await?;
    let bound = control_plane.bound;

    let gateway_options = args.gateway.into_options(args.data_dir.clone(), ports(&bound));
    let transport = Transport { connect: Arc::new(control_plane.local_transport()), token: None, credential: None };
    let (stop, stopped) = oneshot::channel::<()>();
    let gateway = Follower::start(gateway_options, transport)?;
    let mut gateway = tokio::spawn(gateway.run(async {
        // An error means that the sender is gone: stop as well.
        let _ = stopped.await;
    }));

    let (end_demo, demo_ended) = oneshot::channel::<()>();
    let mut demo = std::pin::pin!(async {
        if args.demo {
            demo::run(&args.data_dir, bound, demo_ended).await
        } else {
            // It has nothing to end.
            let _ = demo_ended.await;
            Ok(())
        }
    });
    let mut ended = None;
    tokio::select! {
        () = shutdown => {}
        result = &mut gateway => ended = Some(result),
        // Before it is told to end it only fails.
        Err(error) = &mut demo => return Err(error),
    }
    // The services first: what they are asked by way of the gateway still gets out.
    let _ = end_demo.send(());
    demo.await?;
    let _ = stop.send(());
    let result = match ended {
        Some(result) => result,
        None => gateway.await,
    };
    control_plane.stop().await;
    result.context("the gateway panicked")?;
    Ok(())
}
