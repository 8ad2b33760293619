//! `fairway serve`: control plane and gateway in one process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use admin_api::server::{Bound, ControlPlane};
use anyhow::Context;
use follower::logging::LogArgs;
use follower::{Follower, Transport, process};
use tokio::sync::oneshot;

use crate::client::{Client, ServerArgs};
use crate::commands::control_plane::{ControlPlaneArgs, ports};
use crate::demo;

#[derive(clap::Args)]
#[command(after_help = "fairway serve --demo\n\
                        DATABASE_URL=postgres://fairway@db/fairway fairway serve --master-key-file key")]
pub(crate) struct Args {
    /// Where the database, tokens, keys and ports.json are
    #[arg(long, env = "FAIRWAY_DATA_DIR", default_value = "./fairway-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Start an application of seven services in this process, and load the resources that lead to it
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
    args.log.init();
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

    let welcome = async {
        if args.demo {
            demo(&args.data_dir, bound).await?;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let mut ended = None;
    tokio::select! {
        () = shutdown => {}
        result = &mut gateway => ended = Some(result),
        result = welcome => result?,
    }
    let _ = stop.send(());
    let result = match ended {
        Some(result) => result,
        None => gateway.await,
    };
    control_plane.stop().await;
    result.context("the gateway panicked")?;
    Ok(())
}

async fn demo(data_dir: &Path, bound: Bound) -> anyhow::Result<()> {
    let server = ServerArgs {
        data_dir: data_dir.to_owned(),
        server: Some(format!("http://{}", bound.admin)),
        token_file: None,
        ca_file: None,
    };
    let started = demo::start(&Client::connect(&server)?, data_dir).await?;
    let folder = data_dir.display();
    let gateway = started.public.as_deref();
    println!("Fairway {} is running with the demo.", env!("CARGO_PKG_VERSION"));
    match gateway {
        Some(address) => println!("  page     http://{address}/"),
        None => println!("  page     none: port 8080 could not be bound, see `fairway get proxies -o yaml`"),
    }
    println!(
        "  API      http://{} and https://{}, described at http://{}/docs",
        bound.admin, bound.admin_tls, bound.admin
    );
    println!("  data     {folder} (the admin token is in {folder}/admin.token)");
    if started.internal.is_none() {
        println!("Port 8090 could not be bound, so the services call each other directly: no canary, no retries.");
    }
    println!("Try, in another terminal:");
    println!("  curl http://{}/api/vehicles/heron", gateway.unwrap_or("127.0.0.1:8080"));
    println!("  {} get vs -A", program());
    println!("  {} explain --url http://127.0.0.1:8080/api/vehicles", program());
    println!("Ctrl-C stops it.");
    Ok(())
}

/// How this binary was called, so that the commands to try can be pasted.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "fairway".to_owned())
}
