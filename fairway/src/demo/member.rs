//! A service of the demo in one version, and its sidecar: a process that starts the service as its application.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use fleet::{Service, Version};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpSocket;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::part;

/// How long a sidecar that ended stays away, doubled each time it does not last.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// From then on an end is a new one.
const LASTING: Duration = Duration::from_mins(1);
/// What a sidecar gives requests under way when it is told to end, and how long it may take in all.
const DRAIN: &str = "2s";
const LONGEST_END: Duration = Duration::from_secs(8);
/// How long a log gets before it is begun anew, and how often that is looked at.
const LONGEST_LOG: u64 = 16 * 1024 * 1024;
const LOOK: Duration = Duration::from_secs(30);

/// Settings of the process that started the demo, which are not for those that it starts.
const PREFIXES: [&str; 2] = ["FAIRWAY_", "FLEET_"];
const DATABASE_URL: &str = "DATABASE_URL";

/// What an instance is called: its node id, its folder, its log.
pub(super) fn name(service: Service, version: Version) -> String {
    format!("{service}-{version}")
}

/// Where sidecars join.
#[derive(Clone, Debug)]
pub(super) struct ControlPlane {
    address: SocketAddr,
    ca: PathBuf,
}

impl ControlPlane {
    pub(super) fn new(mut push: SocketAddr, ca: PathBuf) -> Self {
        if push.ip().is_unspecified() {
            let v4 = push.is_ipv4();
            push.set_ip(if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        Self { address: push, ca }
    }
}

/// A free port of loopback that is kept free: others are not given it, and a process that asks for this very one gets it,
/// because nothing listens here.
#[derive(Debug)]
struct Reserved {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Reserved {
    fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }
}

/// What it takes to start the instance, the same for every start.
#[derive(Debug)]
pub(super) struct Member {
    service: Service,
    version: Version,
    program: PathBuf,
    /// The sidecar's data folder, with its join token.
    folder: PathBuf,
    log_path: PathBuf,
    log: File,
    /// Where the service listens, where its sidecar does for it, and for each peer of the service.
    application: Reserved,
    inbound: Reserved,
    peers: Vec<(Service, Reserved)>,
}

impl Member {
    /// Makes its folder and an empty log, and finds free ports.
    pub(super) fn prepare(service: Service, version: Version, demo: &Path, token: &str) -> io::Result<Self> {
        let name = name(service, version);
        let folder = demo.join(&name);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let token_file = folder.join(TOKEN_FILE);
        let mut private = OpenOptions::new();
        private.write(true).create(true).truncate(true).mode(0o600);
        private.open(token_file)?.write_all(token.as_bytes())?;
        let log_path = demo.join(format!("{name}.log"));
        let peers = service.calls().iter().map(|peer| Ok((*peer, Reserved::new()?)));
        Ok(Self {
            service,
            version,
            program: std::env::current_exe()?,
            folder,
            log: log(&log_path)?,
            log_path,
            application: Reserved::new()?,
            inbound: Reserved::new()?,
            peers: peers.collect::<io::Result<_>>()?,
        })
    }

    /// Runs it until it is told to end, and starts it again when it ends before.
    pub(super) async fn run(self, control_plane: ControlPlane, mut ending: watch::Receiver<bool>) {
        let name = name(self.service, self.version);
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let why = match self.start(&control_plane) {
                Ok((child, pipe)) => match self.supervise(child, pipe, &mut ending).await {
                    Some(why) => why,
                    None => return,
                },
                Err(error) => format!("cannot be started: {error}"),
            };
            if began.elapsed() >= LASTING {
                pause = PAUSE;
            }
            warn!(
                name, why, log = %self.log_path.display(), again_in = ?pause,
                "the sidecar of {} {} has ended, and the service with it", self.service, self.version
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = ended(&mut ending) => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn start(&self, control_plane: &ControlPlane) -> io::Result<(Child, Option<ChildStdin>)> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments(control_plane)).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(self.log.try_clone()?).stderr(self.log.try_clone()?);
        // Ctrl-C is for the one that started it, which then ends it in order.
        command.process_group(0);
        for (key, _) in std::env::vars_os() {
            let is_ours = key.to_str().is_some_and(|key| PREFIXES.iter().any(|prefix| key.starts_with(prefix)));
            if is_ours || key == DATABASE_URL {
                command.env_remove(key);
            }
        }
        let mut child = command.spawn()?;
        let pipe = child.stdin.take();
        debug!(name = name(self.service, self.version), pid = child.id(), "started a sidecar and its service");
        Ok((child, pipe))
    }

    /// Why it ended. `None`: it was told to. The pipe is held until it has ended; then a service that it left behind ends too.
    async fn supervise(
        &self,
        mut child: Child,
        _pipe: Option<ChildStdin>,
        ending: &mut watch::Receiver<bool>,
    ) -> Option<String> {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                status = child.wait() => return Some(match status {
                    Ok(status) => status.to_string(),
                    Err(error) => format!("cannot be waited for: {error}"),
                }),
                () = ended(ending) => break,
                _ = looks.tick() => self.bound_log(),
            }
        }
        // Not reaped yet, so the number is still its own.
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id as i32)) {
            // It may have ended by itself: then there is nobody to be told.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(LONGEST_END, child.wait()).await.is_err() {
            warn!(name = name(self.service, self.version), "a sidecar did not end in time, ending it at once");
            let _ = child.kill().await;
        }
        None
    }

    /// Sidecars write a line for each request.
    fn bound_log(&self) {
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        if length > LONGEST_LOG
            && let Err(error) = self.log.set_len(0)
        {
            warn!(log = %self.log_path.display(), %error, "cannot begin a log anew");
        }
    }

    /// The command line of the sidecar, and after it that of the service.
    fn arguments(&self, control_plane: &ControlPlane) -> Vec<OsString> {
        let (service, version) = (self.service, self.version);
        let name = name(service, version);
        let application = self.application.address;
        let mut words = Words::default();
        words.add([part::WORD, "sidecar", "run", "--wait-ready"]);
        words.add(["--control-plane", &format!("https://{}", control_plane.address)]);
        words.path("--control-plane-ca", &control_plane.ca);
        words.path("--join-token-file", &self.folder.join(TOKEN_FILE));
        words.path("--data-dir", &self.folder);
        words.add(["--node-id", &name, "--namespace", fleet::NAMESPACE, "--service-account", service.name()]);
        words.add(["--labels", &format!("app={service},version={version}")]);
        words.add(["--capture", "explicit", "--outbound-addr", "127.0.0.1:0"]);
        words.add(["--port", &format!("http={}@{}", application.port(), self.inbound.address)]);
        for (peer, listener) in &self.peers {
            words.add(["--bind-service", &format!("{peer}:80={}", listener.address)]);
        }
        words.add(["--readiness", &format!("http://{application}/healthz")]);
        words.add(["--proxy-admin-addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0"]);
        words.add(["--workers", "1", "--drain-time", DRAIN]);
        words.path("--", &self.program);
        words.add([part::WORD, "fleet", service.name(), "--version", version.name()]);
        words.add(["--listen", &application.to_string()]);
        for (peer, listener) in &self.peers {
            words.add(["--peer", &format!("{peer}={}", listener.address)]);
        }
        words.0
    }
}

const TOKEN_FILE: &str = "join.token";

/// An empty file that what is written goes to the end of, wherever that is.
fn log(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

async fn ended(ending: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to wait for.
    let _ = ending.wait_for(|ending| *ending).await;
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn add<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words.map(OsString::from));
    }

    fn path(&mut self, flag: &str, path: &Path) {
        self.0.extend([flag.into(), path.into()]);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_is_for_who_asks_for_it() {
        let reserved = Reserved::new().unwrap();
        let taken = TcpListener::bind(reserved.address).unwrap();
        drop(taken);
        TcpListener::bind(reserved.address).unwrap();
        let others: Vec<_> = (0..64).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        assert!(others.iter().all(|other| other.local_addr().unwrap() != reserved.address));
    }

    #[tokio::test]
    async fn the_service_listens_where_its_sidecar_expects_it_and_calls_it_where_that_listens() {
        let demo = tempfile::tempdir().unwrap();
        let member = Member::prepare(Service::Webapp, Version::V1, demo.path(), "a-token").unwrap();
        assert_eq!(fs::read_to_string(demo.path().join("webapp-v1/join.token")).unwrap(), "a-token");
        let control_plane = ControlPlane::new("0.0.0.0:15012".parse().unwrap(), "ca.crt".into());
        let words = member.arguments(&control_plane);
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let (sidecar, service) = words.split_at(words.iter().position(|word| *word == "--").unwrap());
        let after =
            |words: &[&str], flag: &str| words[words.iter().position(|word| *word == flag).unwrap() + 1].to_owned();
        assert_eq!(after(sidecar, "--control-plane"), "https://127.0.0.1:15012");
        let listen: SocketAddr = after(service, "--listen").parse().unwrap();
        assert!(after(sidecar, "--port").starts_with(&format!("http={}@127.0.0.1:", listen.port())));
        let stands_for = after(sidecar, "--bind-service");
        assert_eq!(stands_for.replace(":80=", "="), after(service, "--peer"));
    }
}
