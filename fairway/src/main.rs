//! The one binary people start. Each command is a file in `commands/`; this one only chooses.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod client;
mod commands;
mod demo;
mod documents;
mod output;

use commands::{
    admin, apply, ca, completions, delete, describe, explain, gateway, get, identity, join_token, kubeconfig, serve,
    validate, version,
};

/// jemalloc keeps the memory of a long-running proxy flat where the system's allocator fragments.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(
    name = "fairway",
    about = "A gateway driven by Istio's resources, kept as rows in a database, without Kubernetes",
    long_about = "Fairway serves HTTP at the edge as Istio's Gateway, VirtualService, DestinationRule and ServiceEntry \
                  resources say. It keeps them in SQLite or Postgres, takes them by REST and kubectl, and reloads \
                  without dropping a request.",
    after_help = "Start everything on this machine:  fairway serve --demo\n\
                  Send it a route:                   fairway apply -f route.yaml\n\
                  See what it serves:                fairway get vs -A\n\
                  Ask why a request goes where:      fairway explain --url http://shop.example/cart\n\
                  Ask what is in force for it:       fairway describe route shop/cart\n\
                  Use kubectl:                       fairway kubeconfig > kc && kubectl --kubeconfig kc get vs -A",
    version = version::TEXT,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in one process: control plane and gateway, on SQLite unless told otherwise
    Serve(Box<serve::Args>),
    /// Run the control plane alone: store, REST API, push
    Admin(Box<admin::Args>),
    /// Run a gateway that takes its routes from a control plane elsewhere
    Gateway(Box<gateway::Args>),
    /// Run a sidecar of an application, or lead the traffic of this host through one
    #[command(after_help = mesh_sidecar::EXAMPLES)]
    Sidecar {
        #[command(subcommand)]
        command: mesh_sidecar::Command,
    },
    /// Create or change resources from YAML or JSON files, all in one transaction
    Apply(apply::Args),
    /// Show resources, or the proxies that are connected
    Get(get::Args),
    /// Delete resources by kind and name, or those named in files
    Delete(delete::Args),
    /// Check files without a server: field errors, dangling references, exit code 1 if any is wrong
    Validate(validate::Args),
    /// Tell which route takes a request, which ones it missed and why
    Explain(explain::Args),
    /// Tell what is in force for a rule, and which field of which resource says so
    #[command(subcommand)]
    Describe(describe::Command),
    /// Print a kubeconfig with the server's address, its CA and the admin token
    Kubeconfig(kubeconfig::Args),
    /// Make and list the tokens by which proxies join
    #[command(subcommand)]
    JoinToken(join_token::Command),
    /// Show the CA that certifies proxies, and replace its root
    #[command(subcommand)]
    Ca(ca::Command),
    /// Deny identities of proxies, and allow them again
    #[command(subcommand)]
    Identity(identity::Command),
    /// Run a service of the demo
    #[command(hide = true)]
    Fleet(fleet::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the version of this binary, and of the server if one answers
    Version(version::Args),
}

fn main() -> ExitCode {
    let words = demo::as_part(std::env::args_os().collect());
    let is_sidecar = words.get(1).is_some_and(|word| word == "sidecar");
    let words = if is_sidecar { mesh_sidecar::with_run(words, 2) } else { words };
    run(Cli::parse_from(words).command).unwrap_or_else(|error| follower::process::exit_code(Err(error)))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        // Ends as its application does.
        Command::Sidecar { command } => return Ok(mesh_sidecar::run(command)),
        Command::Fleet(args) => return Ok(fleet::run(args)),
        Command::Serve(args) => serve::run(*args),
        Command::Admin(args) => admin::run(*args),
        Command::Gateway(args) => gateway::run(*args),
        Command::Apply(args) => client_runtime()?.block_on(apply::run(args)),
        Command::Get(args) => client_runtime()?.block_on(get::run(args)),
        Command::Delete(args) => client_runtime()?.block_on(delete::run(args)),
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => client_runtime()?.block_on(explain::run(args)),
        Command::Describe(command) => client_runtime()?.block_on(describe::run(command)),
        Command::Kubeconfig(args) => kubeconfig::run(&args),
        Command::JoinToken(command) => client_runtime()?.block_on(join_token::run(command)),
        Command::Ca(command) => client_runtime()?.block_on(ca::run(command)),
        Command::Identity(command) => client_runtime()?.block_on(identity::run(command)),
        Command::Completions(args) => {
            completions::run(&args, &mut Cli::command());
            Ok(())
        }
        Command::Version(args) => client_runtime()?.block_on(version::run(args)),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Client commands make a few requests and end: one thread is enough.
fn client_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
