//! From a set to traffic: compile, apply, report.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use proxy::{ApplyReport, BoundPorts, Proxy};
use push::client::{Held, Update};
use push::message::{Ack, Issue, Key, Report};
use route_model::compile::{Changed, Compiler, ProxyScope, SidecarScope};
use route_model::table::RouteTable;
use tokio::sync::watch;
use tracing::error;

/// What became of a set.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Every worker runs it, apart from the issues.
    InForce(Vec<Issue>),
    /// Nothing of it is in force; what ran before runs on.
    Failed(Issue),
}

/// The proxy and the compiler that feeds it.
#[derive(Debug)]
pub(crate) struct Traffic {
    proxy: Arc<Proxy>,
    report: watch::Receiver<ApplyReport>,
    scope: ProxyScope,
    sidecar: Option<SidecarScope>,
    /// `None` after a failure: the next compilation starts from nothing.
    compiler: Option<Compiler>,
}

impl Traffic {
    pub(crate) fn new(proxy: Proxy, scope: ProxyScope, sidecar: Option<SidecarScope>) -> Self {
        Self { report: proxy.report(), proxy: Arc::new(proxy), scope, sidecar, compiler: None }
    }

    /// Puts a set in force that was kept on disk.
    pub(crate) async fn start_from(&mut self, held: Arc<Held>) -> Outcome {
        self.put(held, Changed::Everything).await
    }

    pub(crate) async fn take(&mut self, update: Update) -> Outcome {
        self.put(update.held, update.changed).await
    }

    /// How the proxy is doing.
    pub(crate) fn state(&self) -> Report {
        Report { connections: self.proxy.connections() }
    }

    pub(crate) fn bound(&self) -> BoundPorts {
        self.proxy.bound()
    }

    /// Where a sidecar's traffic would come in but cannot.
    pub(crate) fn unbound(&self) -> Vec<SocketAddr> {
        self.report.borrow().unbound.clone()
    }

    /// What the set in force now comes to, whenever that may have changed: with every set, and when a port that was
    /// taken became free. May be dropped and called again without losing anything.
    pub(crate) async fn next_report(&mut self) -> Ack {
        // The sender lives in the proxy, so this cannot fail.
        let _ = self.report.changed().await;
        let ApplyReport { revision, issues, .. } = self.report.borrow_and_update().clone();
        Ack::new(revision, issues.into_iter().map(issue).collect())
    }

    pub(crate) async fn drain(&self) {
        self.proxy.drain().await;
    }

    async fn put(&mut self, held: Arc<Held>, changed: Changed) -> Outcome {
        let revision = held.set().revision;
        let table = match self.compile(held.clone(), changed).await {
            Ok(table) => table,
            Err(first) => {
                // A compiler that remembers too much is no reason to stay behind: once more, from nothing.
                error!(%revision, panic = first, "the compiler failed, trying again from nothing");
                match self.compile(held, Changed::Everything).await {
                    Ok(table) => table,
                    Err(panic) => return failed(format!("this proxy cannot compile the revision: {panic}")),
                }
            }
        };
        // On its own task, so that a panic below ends the task and not the process.
        let proxy = self.proxy.clone();
        match tokio::spawn(async move { proxy.apply(table).await }).await {
            Ok(report) => Outcome::InForce(report.issues.into_iter().map(issue).collect()),
            Err(error) => failed(format!("this proxy cannot apply the revision: {error}")),
        }
    }

    fn new_compiler(&self) -> Compiler {
        match &self.sidecar {
            None => Compiler::new(self.scope.clone()),
            Some(sidecar) => Compiler::sidecar(self.scope.clone(), sidecar.clone()),
        }
    }

    /// Compiles off the control thread: a large set takes a second, and pings must be answered meanwhile.
    async fn compile(&mut self, held: Arc<Held>, changed: Changed) -> Result<Arc<RouteTable>, String> {
        let (mut compiler, changed) = match self.compiler.take() {
            Some(compiler) => (compiler, changed),
            None => (self.new_compiler(), Changed::Everything),
        };
        let compiling = tokio::task::spawn_blocking(move || {
            // The compiler is dropped after a panic, so nobody sees it half changed.
            let compiled = catch_unwind(AssertUnwindSafe(|| compiler.update(held.set(), &changed)));
            compiled.map(|compiled| (compiler, compiled.table)).map_err(|panic| panic_message(&*panic))
        });
        let (compiler, table) = compiling.await.map_err(|error| error.to_string())??;
        self.compiler = Some(compiler);
        Ok(table)
    }
}

fn issue(issue: proxy::Issue) -> Issue {
    Issue::new(issue.resource.as_ref().map(Key::from), issue.reason, issue.message)
}

fn failed(message: String) -> Outcome {
    Outcome::Failed(Issue::new(None, "InternalError", message))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
