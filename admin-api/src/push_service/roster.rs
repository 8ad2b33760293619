//! What is known of every proxy: connected here, to another replica, or gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use push::message::{Hello, Issue};
use push::server::{Caller, Event, LEFT, Peer, Scope, SessionId};
use push::workload::Workload;
use route_model::compile::ProxyScope;
use route_model::compile::names::qualify_host;
use route_model::meta::{ResourceKey, Revision};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::store::ProxyState;

/// A proxy as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyView {
    /// The node id that the proxy chose.
    pub id: String,
    pub connected: bool,
    /// The newest revision that the proxy runs.
    pub acked_revision: u64,
    /// The newest revision there is, which it is to run.
    pub wanted_revision: u64,
    /// For how long it has not run all that is meant for it, in milliseconds. Missing while it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_milliseconds: Option<u64>,
    /// For how long its process has been running. Missing while it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// The newest revision that was sent to it.
    pub sent_revision: u64,
    /// What of the acknowledged revision the proxy could not put in force.
    pub issues: Vec<IssueView>,
    /// The control plane that the proxy is, or was last, connected to.
    pub replica: String,
    #[serde(flatten)]
    pub info: ProxyInfo,
}

/// What a proxy says of itself and how it is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyInfo {
    pub role: String,
    pub namespace: String,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    pub build: String,
    pub model_version: u32,
    /// Kinds of which it would be sent resources if its build were newer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held_back: Vec<String>,
    /// `in-process`, or the address it comes from.
    pub address: String,
    /// RFC 3339: since when it is connected, or not.
    pub since: String,
    /// RFC 3339: when its process started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// RFC 3339: since when it lacks something that is meant for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_since: Option<String>,
    /// Connections of its clients that are open, as it said in the last ten seconds or so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// What went wrong last: a revision that it refused, something that it could not put in force, a connection that
    /// broke. It stays when all is well again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// Why the last connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnected: Option<String>,
    /// The newest revision of which it runs nothing, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedView>,
    /// The join token that it came with first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_token: Option<String>,
    /// The SPIFFE id in the certificate that it came with; without one it is the token that lets it be here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// RFC 3339: when that certificate expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// What a sidecar registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadView>,
}

/// Something that went wrong with a proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// RFC 3339
    pub at: String,
    pub message: String,
}

/// The workload beside a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadView {
    pub address: String,
    pub ports: Vec<WorkloadPortView>,
    /// The hosts of the services that it declares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// Its WorkloadGroup.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Whether it is an endpoint now, while its sidecar is connected.
    pub ready: bool,
    /// Why it is not ready, as its sidecar says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why it is not shown as it registered: names that are taken, a group that is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadPortView {
    pub name: String,
    /// In upper case.
    pub protocol: String,
    /// The service's port.
    pub number: u32,
    /// Where the address takes it.
    pub target: u32,
}

impl WorkloadView {
    fn of(workload: &Workload, namespace: &str) -> Self {
        let ports = workload.ports.iter().map(|port| WorkloadPortView {
            name: port.name.clone(),
            protocol: port.protocol(),
            number: port.number,
            target: port.target(),
        });
        let services = workload.services.iter().map(|service| qualify_host(&service.host, namespace).to_string());
        Self {
            address: workload.address.clone(),
            ports: ports.collect(),
            services: services.collect(),
            group: workload.group.clone(),
            ready: workload.ready,
            reason: String::new(),
            problems: Vec::new(),
        }
    }
}

impl ProxyInfo {
    fn went_wrong(&mut self, message: impl ToString) {
        self.last_error = Some(LastError { at: now(), message: message.to_string() });
    }

    /// `None` when this build does not know the proxy's role.
    pub(super) fn scope(&self) -> Option<ProxyScope> {
        let role = push::message::role_of_name(&self.role)?;
        Some(ProxyScope { role, namespace: self.namespace.as_str().into(), labels: self.labels.clone() })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedView {
    pub revision: u64,
    pub issues: Vec<IssueView>,
}

/// Something that a proxy could not put in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssueView {
    /// Missing when the issue is about no resource in particular.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceName>,
    /// CamelCase: `PortInUse`, `CertificateKeyMismatch` …
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceName {
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub namespace: String,
    pub name: String,
}

/// The issues with the resources that this build knows.
fn issues_by_resource<'i>(
    issues: &'i [IssueView],
    refused: Option<&'i RefusedView>,
) -> impl Iterator<Item = (ResourceKey, IssueView)> {
    let refused = refused.into_iter().flat_map(|refused| &refused.issues);
    issues.iter().chain(refused).filter_map(|issue| {
        let ResourceName { kind, namespace, name } = issue.resource.clone()?;
        Some((push::message::Key { kind, namespace, name }.resource_key()?, issue.clone()))
    })
}

/// Revisions that bring nothing to a proxy's scope are in force without being sent.
fn in_force(scope: &Scope, acked: Revision) -> Revision {
    if acked > Revision(0) { scope.effective(acked) } else { acked }
}

/// What a proxy of another replica runs.
fn running(view: &ProxyView) -> Running {
    Running {
        node: view.id.as_str().into(),
        connected: view.connected,
        acked: Revision(view.acked_revision),
        issues: issues_by_resource(&view.issues, view.info.refused.as_ref()).collect(),
        followed: Followed::Elsewhere(view.info.scope(), view.info.model_version),
    }
}

/// By what right a proxy is connected.
#[derive(Debug)]
pub(super) struct Standing {
    /// The id of the token that it joined with.
    pub(super) join_token: Option<String>,
    /// What its certificate names, which counts more than the token, and when that expires.
    pub(super) identity: Option<(String, SystemTime)>,
}

/// A connected proxy, and why it is asked for.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) node: String,
    pub(super) session: SessionId,
    /// Of its join token, or its SPIFFE id.
    pub(super) id: String,
}

/// The proxies of this replica, and what others wrote down about theirs.
#[derive(Debug)]
pub(super) struct Roster {
    replica: String,
    state: Mutex<State>,
    changed: Notify,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By node.
    local: BTreeMap<String, Local>,
    nodes: HashMap<SessionId, String>,
    remote: BTreeMap<String, ProxyView>,
}

#[derive(Debug)]
struct Local {
    node: Arc<str>,
    session: SessionId,
    /// `None` once the proxy has left.
    scope: Option<Arc<Scope>>,
    /// The newest revision that was acknowledged, or in force when the proxy left.
    acked: Revision,
    sent: Revision,
    issues: Vec<IssueView>,
    info: ProxyInfo,
    /// Counts the changes of the issues and of the info.
    changes: u64,
}

/// What a proxy runs, without what is only shown.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) node: Arc<str>,
    pub(super) connected: bool,
    acked: Revision,
    pub(super) issues: Vec<(ResourceKey, IssueView)>,
    pub(super) followed: Followed,
}

/// Which scope a proxy follows.
#[derive(Debug)]
pub(super) enum Followed {
    /// It is connected here.
    Here(Arc<Scope>),
    /// It is not; `None` when this build does not know its role.
    Elsewhere(Option<ProxyScope>, u32),
}

impl Running {
    /// The newest revision that it runs.
    pub(super) fn acked(&self) -> Revision {
        match &self.followed {
            Followed::Here(scope) => in_force(scope, self.acked),
            Followed::Elsewhere(..) => self.acked,
        }
    }
}

/// What was written down of a proxy: another mark means that it is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    session: SessionId,
    connected: bool,
    acked: Revision,
    sent: Revision,
    behind_since: Option<SystemTime>,
    changes: u64,
}

impl Roster {
    pub(super) fn new(replica: String) -> Self {
        Self { replica, state: Mutex::default(), changed: Notify::new(), arrived: Notify::new() }
    }

    pub(super) fn replica(&self) -> &str {
        &self.replica
    }

    /// Resolves after something changed; for one waiter.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Says that views may have changed: revisions came into force without being sent.
    pub(super) fn touch(&self) {
        self.changed.notify_one();
    }

    /// Resolves after a proxy connected here; for one waiter.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Whether a connected proxy, here or elsewhere, has this node id and is of another service account.
    pub(super) fn is_another(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        let state = self.lock();
        let holder = match state.local.get(node).filter(|local| local.scope.is_some()) {
            Some(local) => Some(&local.info),
            None => state.remote.get(node).filter(|remote| remote.connected).map(|remote| &remote.info),
        };
        holder.is_some_and(|holder| holder.namespace != namespace || holder.service_account != service_account)
    }

    /// The node whose proxy a session is of, while that is connected here.
    pub(super) fn node_of(&self, session: SessionId) -> Option<String> {
        self.lock().nodes.get(&session).cloned()
    }

    /// The sessions that a join token opened here for which `holds` is false.
    pub(super) fn without_token(&self, holds: impl Fn(&str) -> bool) -> Vec<Member> {
        let state = self.lock();
        let connected = state.local.iter().filter(|(_, local)| local.scope.is_some());
        let suspects = connected.filter_map(|(node, local)| {
            let token = local.info.join_token.as_ref().filter(|token| !holds(token))?;
            if local.info.identity.is_some() {
                return None;
            }
            Some(Member { node: node.clone(), session: local.session, id: token.clone() })
        });
        suspects.collect()
    }

    /// The sessions of proxies here for whose namespace and service account `pick` gives an identity.
    pub(super) fn with_identity(&self, pick: impl Fn(&str, &str) -> Option<String>) -> Vec<Member> {
        let state = self.lock();
        let connected = state.local.iter().filter(|(_, local)| local.scope.is_some());
        let picked = connected.filter_map(|(node, local)| {
            let id = pick(&local.info.namespace, &local.info.service_account)?;
            Some(Member { node: node.clone(), session: local.session, id })
        });
        picked.collect()
    }

    /// How many proxies are connected here.
    pub(super) fn connected(&self) -> usize {
        self.lock().local.values().filter(|local| local.scope.is_some()).count()
    }

    /// A proxy that is about to be let in for the first time.
    pub(super) fn joining(&self, hello: &Hello, peer: Peer, join_token: Option<String>) -> ProxyState {
        let info = info(hello, peer, Standing { join_token, identity: None });
        state(Local::new(&hello.node, SessionId(0), None, info).view(&self.replica))
    }

    /// `standing` says by what right a proxy is here that connected.
    pub(super) fn observe(&self, session: SessionId, event: Event, standing: impl FnOnce(&Caller, &Hello) -> Standing) {
        let state = &mut *self.lock();
        if let Event::Reported(report) = event {
            // No news for anybody but who asks, so nobody is woken.
            let local = state.nodes.get(&session).and_then(|node| state.local.get_mut(node));
            if let Some(local) = local.filter(|local| local.session == session) {
                local.info.connections = Some(report.connections);
            }
            return;
        }
        if let Event::Connected { hello, caller, scope } = event {
            let peer = caller.peer;
            info!(node = hello.node, peer = %address(peer), "proxy connected");
            let mut info = info(&hello, peer, standing(&caller, &hello));
            info.last_error = state.local.get(&hello.node).and_then(|before| before.info.last_error.clone());
            let local = Local::new(&hello.node, session, Some(scope), info);
            let held_back = local.held_back();
            if !held_back.is_empty() {
                warn!(
                    node = hello.node,
                    ?held_back,
                    build = hello.build,
                    "a proxy is too old for some kinds and is not sent them"
                );
            }
            state.nodes.insert(session, hello.node.clone());
            state.local.insert(hello.node.clone(), local);
            self.arrived.notify_one();
        } else {
            let node = match event {
                Event::Disconnected { .. } => state.nodes.remove(&session),
                _ => state.nodes.get(&session).cloned(),
            };
            // A session that was replaced has no say any more.
            let local = node.and_then(|node| state.local.get_mut(&node).map(|local| (node, local)));
            if let Some((node, local)) = local.filter(|(_, local)| local.session == session) {
                local.take(&node, event);
            }
        }
        self.changed.notify_one();
    }

    /// What other replicas know. A proxy that is connected here is not theirs.
    pub(super) fn remote(&self, states: Vec<ProxyState>) {
        let remote: BTreeMap<_, _> = states
            .into_iter()
            .filter(|state| state.replica != self.replica)
            .map(|state| (state.node.clone(), view_of(state)))
            .collect();
        let state = &mut *self.lock();
        // Who left here and is connected elsewhere now is theirs.
        state
            .local
            .retain(|node, local| local.scope.is_some() || !remote.get(node).is_some_and(|remote| remote.connected));
        if state.remote != remote {
            state.remote = remote;
            self.changed.notify_one();
        }
    }

    /// Whether a proxy is connected here, or was and is nowhere else now.
    pub(super) fn knows(&self, node: &str) -> bool {
        self.lock().local.contains_key(node)
    }

    /// All proxies, by node.
    pub(super) fn views(&self) -> Vec<ProxyView> {
        let state = self.lock();
        let mut views: BTreeMap<&String, ProxyView> =
            state.remote.iter().map(|(node, view)| (node, view.clone())).collect();
        views.extend(state.local.iter().map(|(node, local)| (node, local.view(&self.replica))));
        views.into_values().collect()
    }

    /// What all proxies run, by node.
    pub(super) fn running(&self) -> Vec<Running> {
        let state = self.lock();
        let remote = state.remote.iter().filter(|(node, _)| !state.local.contains_key(*node));
        let mut running: Vec<Running> = remote.map(|(_, view)| running(view)).collect();
        running.extend(state.local.values().map(Local::running));
        drop(state);
        running.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        running
    }

    /// What this replica writes down for the others: the proxies of which `written` is not up to date.
    pub(super) fn states(&self, written: impl Fn(&str) -> Option<Mark>) -> Vec<(Mark, ProxyState)> {
        let state = self.lock();
        let news = state.local.iter().filter_map(|(node, local)| {
            let mark = local.mark();
            (written(node) != Some(mark)).then(|| (mark, self::state(local.view(&self.replica))))
        });
        news.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    fn new(node: &str, session: SessionId, scope: Option<Arc<Scope>>, info: ProxyInfo) -> Self {
        let (node, zero) = (node.into(), Revision(0));
        Self { node, session, scope, acked: zero, sent: zero, issues: Vec::new(), info, changes: 0 }
    }

    fn take(&mut self, node: &str, event: Event) {
        let only_acks = matches!(&event, Event::Sent { .. } | Event::Reported(_))
            || matches!(&event, Event::Acked { issues, .. } if issues.is_empty() && self.has_no_issues());
        self.changes += u64::from(!only_acks);
        match event {
            Event::Connected { .. } | Event::Reported(_) => {}
            Event::Sent { revision } => self.sent = revision,
            Event::Acked { revision, issues } => {
                for issue in &issues {
                    warn!(node, %revision, %issue, "a proxy could not put everything in force");
                }
                if let Some(issue) = issues.first() {
                    self.info.went_wrong(format!("revision {revision}: {issue}"));
                }
                self.acked = revision;
                self.sent = self.sent.max(revision);
                self.issues = issues.into_iter().map(issue_view).collect();
                self.info.refused = None;
            }
            Event::Nacked { revision, issues } => {
                for issue in &issues {
                    warn!(node, %revision, %issue, "a proxy refused a revision");
                }
                let first = issues.first().map(ToString::to_string).unwrap_or_default();
                self.info.went_wrong(format!("revision {revision} refused: {first}"));
                let issues = issues.into_iter().map(issue_view).collect();
                self.info.refused = Some(RefusedView { revision: revision.0, issues });
            }
            Event::Ready { ready, reason } => {
                if let Some(workload) = &mut self.info.workload {
                    workload.ready = ready;
                    workload.reason = if ready { String::new() } else { reason };
                }
            }
            Event::Disconnected { reason } => {
                info!(node, reason, "proxy disconnected");
                self.acked = self.in_force();
                self.scope = None;
                self.info.since = now();
                self.info.connections = None;
                if reason != LEFT {
                    self.info.went_wrong(format!("disconnected: {reason}"));
                }
                self.info.disconnected = Some(reason);
            }
        }
    }

    fn in_force(&self) -> Revision {
        self.scope.as_ref().map_or(self.acked, |scope| in_force(scope, self.acked))
    }

    fn has_no_issues(&self) -> bool {
        self.issues.is_empty() && self.info.refused.is_none()
    }

    fn mark(&self) -> Mark {
        Mark {
            session: self.session,
            connected: self.scope.is_some(),
            acked: self.in_force(),
            sent: self.sent,
            behind_since: self.scope.as_ref().and_then(|scope| scope.behind_since(self.acked)),
            changes: self.changes,
        }
    }

    fn running(&self) -> Running {
        let followed = match &self.scope {
            Some(scope) => Followed::Here(scope.clone()),
            None => Followed::Elsewhere(self.info.scope(), self.info.model_version),
        };
        Running {
            node: self.node.clone(),
            connected: self.scope.is_some(),
            acked: self.acked,
            issues: issues_by_resource(&self.issues, self.info.refused.as_ref()).collect(),
            followed,
        }
    }

    fn view(&self, replica: &str) -> ProxyView {
        ProxyView {
            id: self.node.to_string(),
            connected: self.scope.is_some(),
            acked_revision: self.in_force().0,
            wanted_revision: 0,
            lag_milliseconds: None,
            uptime_seconds: None,
            sent_revision: self.sent.0,
            issues: self.issues.clone(),
            replica: replica.to_owned(),
            info: ProxyInfo { held_back: self.held_back(), behind_since: self.behind_since(), ..self.info.clone() },
        }
    }

    fn behind_since(&self) -> Option<String> {
        let scope = self.scope.as_ref()?;
        if self.acked == Revision(0) {
            return Some(self.info.since.clone());
        }
        scope.behind_since(self.acked).and_then(rfc3339)
    }

    fn held_back(&self) -> Vec<String> {
        self.scope.iter().flat_map(|scope| scope.held_back()).collect()
    }
}

fn info(hello: &Hello, peer: Peer, standing: Standing) -> ProxyInfo {
    ProxyInfo {
        role: hello.role.clone(),
        namespace: hello.namespace.clone(),
        service_account: hello.service_account().to_owned(),
        labels: hello.labels.clone().into_iter().collect(),
        build: hello.build.clone(),
        model_version: hello.model_version,
        held_back: Vec::new(),
        address: address(peer),
        since: now(),
        started: started(hello),
        behind_since: None,
        connections: None,
        last_error: None,
        disconnected: None,
        refused: None,
        join_token: standing.join_token,
        certificate_expires: standing.identity.as_ref().and_then(|(_, expires)| rfc3339(*expires)),
        identity: standing.identity.map(|(id, _)| id),
        workload: hello.workload.as_ref().map(|workload| WorkloadView::of(workload, &hello.namespace)),
    }
}

fn address(peer: Peer) -> String {
    match peer {
        Peer::InProcess => "in-process".to_owned(),
        Peer::Remote(address) => address.to_string(),
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn rfc3339(time: SystemTime) -> Option<String> {
    Some(Timestamp::try_from(time).ok()?.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// By this clock, whatever the proxy's says.
fn started(hello: &Hello) -> Option<String> {
    let uptime = Some(hello.uptime).filter(|uptime| *uptime > 0)?;
    let started = SystemTime::now().checked_sub(Duration::from_millis(uptime))?;
    Some(Timestamp::try_from(started).ok()?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

impl ProxyView {
    /// Says how long it has been running, and how far it is behind `wanted`, the newest revision.
    pub(super) fn measured(mut self, wanted: Revision) -> Self {
        self.wanted_revision = wanted.0.max(self.acked_revision);
        if self.connected {
            let now = Timestamp::now();
            let passed = |since: &Option<String>| {
                let since: Timestamp = since.as_ref()?.parse().ok()?;
                u64::try_from(now.duration_since(since).as_millis()).ok()
            };
            self.lag_milliseconds = Some(passed(&self.info.behind_since).unwrap_or_default());
            self.uptime_seconds = passed(&self.info.started).map(|milliseconds| milliseconds / 1000);
        }
        self
    }
}

fn issue_view(issue: Issue) -> IssueView {
    let resource = issue.key.map(|key| ResourceName { kind: key.kind, namespace: key.namespace, name: key.name });
    IssueView { resource, reason: issue.reason, message: issue.message }
}

fn state(view: ProxyView) -> ProxyState {
    ProxyState {
        node: view.id,
        replica: view.replica,
        connected: view.connected,
        acked: Revision(view.acked_revision),
        sent: Revision(view.sent_revision),
        issues: serde_json::json!(view.issues),
        info: serde_json::json!(view.info),
        // The store says when.
        seen: Timestamp::UNIX_EPOCH,
    }
}

fn view_of(state: ProxyState) -> ProxyView {
    ProxyView {
        id: state.node,
        connected: state.connected,
        acked_revision: state.acked.0,
        wanted_revision: 0,
        lag_milliseconds: None,
        uptime_seconds: None,
        sent_revision: state.sent.0,
        // What another version wrote and this one cannot read is left out.
        issues: serde_json::from_value(state.issues).unwrap_or_default(),
        replica: state.replica,
        info: serde_json::from_value(state.info).unwrap_or_default(),
    }
}

/// The node and its join token, of a proxy that came with one.
pub(super) fn membership(state: &ProxyState) -> Option<(String, String)> {
    Some((state.node.clone(), state.join_token()?.to_owned()))
}
