//! Starting: from options to bound ports and running tasks.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::info;

use super::listen::{self, Listen};
use super::ports::Issued;
use super::{Bound, ControlPlane, Options, StartError};
use crate::api::ApiState;
use crate::auth::{self, Authenticator};
use crate::ca::{self, Ca, ServerKey};
use crate::push_service::PushService;
use crate::store::seal::MasterKey;
use crate::store::{PostgresOptions, PostgresStore, Snapshot, SqliteOptions, SqliteStore, Store, Upkeep};

/// Which database, and the key that its secrets are sealed under.
#[derive(Clone, Debug)]
pub enum Database {
    /// One file in the data folder, for one process. The key is made beside it if none is given.
    Sqlite { master_key: Option<MasterKeySource> },
    /// `postgres://…`, for several replicas.
    Postgres { url: String, master_key: Option<MasterKeySource> },
}

/// Where the master key comes from.
#[derive(Clone)]
pub enum MasterKeySource {
    File(PathBuf),
    /// The key itself, base64 or hex (`FAIRWAY_MASTER_KEY`).
    Text(String),
}

impl std::fmt::Debug for MasterKeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(…)"),
        }
    }
}

impl MasterKeySource {
    fn read(&self) -> Result<MasterKey, StartError> {
        let key = match self {
            Self::File(path) => MasterKey::from_file(path),
            Self::Text(text) => MasterKey::parse(text, "FAIRWAY_MASTER_KEY"),
        };
        Ok(key.map_err(crate::store::StoreError::from)?)
    }
}

pub(super) async fn start(options: Options) -> Result<ControlPlane, StartError> {
    if !options.admin_addr.ip().is_loopback() {
        return Err(StartError::PlainNotLoopback(options.admin_addr));
    }
    if !(ca::MIN_CERT_TTL..=ca::MAX_CERT_TTL).contains(&options.cert_ttl) {
        return Err(StartError::CertTtl);
    }
    // Ports first: a taken one is told before anything is written.
    let admin = listen::bind("--admin-addr", options.admin_addr).await?;
    let admin_tls = listen::bind("--admin-tls-addr", options.admin_tls_addr).await?;
    let push = listen::bind("--push-addr", options.push_addr).await?;
    let address = |listener: &tokio::net::TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
    let bound = Bound {
        admin: address(&admin, options.admin_addr),
        admin_tls: address(&admin_tls, options.admin_tls_addr),
        push: address(&push, options.push_addr),
    };

    make_data_dir(&options.data_dir)?;
    let store = open_store(&options).await?;
    crate::api::ensure_initial_namespaces(&*store).await?;
    let snapshot = Snapshot::load(store.clone()).await?;
    let given = options.ca.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    let ca = Arc::new(Ca::open(store.clone(), given).await?);
    let authority = ca.current();
    write_file(&options.data_dir, "ca.crt", authority.root_pem().as_bytes(), 0o644)?;
    let token = admin_token(&options)?;

    let names = ca::server_names(&[bound.admin_tls.ip(), bound.push.ip()], &options.server_names);
    let key = |flag, certificate| ServerKey::new(certificate).map_err(|error| StartError::Tls { flag, error });
    let push_key = key("--push-addr", authority.issue_server(&names)?)?;
    let mut issued = Issued { keys: vec![push_key.clone()], names, data_dir: options.data_dir.clone() };
    let wrong = |error| StartError::Tls { flag: "--push-addr", error };
    let push_tls = crate::push_service::tls(push_key).map_err(wrong)?;
    let admin_key = if let Some((certificate, private_key)) = &options.admin_certificate {
        key("--admin-cert", ca::read_server_certificate(certificate, private_key)?)?
    } else {
        let own = key("--admin-cert", authority.issue_server(&issued.names)?)?;
        issued.keys.push(own.clone());
        own
    };
    let admin_tls_acceptor = tls("--admin-cert", admin_key, &[b"h2", b"http/1.1"])?;

    let (shutdown, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let service = PushService::new(snapshot.clone(), ca.clone(), options.cert_ttl);
    let api = ApiState::new(snapshot.clone(), options.gateway.clone(), service.acks());
    let router = router(api.clone(), &service, Authenticator::new(&token));
    let mut spawn = |listener, tls| {
        let listen = Listen { listener, tls, router: router.clone(), max_connections: listen::MAX_CONNECTIONS };
        tasks.spawn(listen::serve(listen, stopping.clone()));
    };
    spawn(admin, None);
    spawn(admin_tls, Some(admin_tls_acceptor));
    tasks.spawn(until_shutdown(snapshot.clone().run(), stopping.clone()));
    tasks.spawn(until_shutdown(api.keep_status(), stopping.clone()));
    tasks.spawn(until_shutdown(Upkeep::default().run(snapshot.clone()), stopping.clone()));
    tasks.spawn(until_shutdown(issued.follow(ca), stopping.clone()));
    tasks.spawn(service.clone().serve(push, push_tls, stopping));
    info!(admin = %bound.admin, admin_tls = %bound.admin_tls, push = %bound.push, store = store.location(), "control plane started");
    Ok(ControlPlane { bound, snapshot, api, push: service, shutdown, tasks })
}

fn router(api: ApiState, service: &Arc<PushService>, authenticator: Authenticator) -> Router {
    let health = || async { "ok" };
    Router::new()
        .merge(service.router())
        .fallback_service(crate::api::router(api))
        .layer(axum::middleware::from_fn_with_state(authenticator, auth::require_identity))
        .route("/healthz", get(health))
        .route("/livez", get(health))
        .route("/readyz", get(health))
}

/// Runs `work` until the shutdown begins.
async fn until_shutdown(work: impl Future<Output = ()>, mut stopping: watch::Receiver<bool>) {
    tokio::select! {
        () = work => {}
        () = listen::stopped(&mut stopping) => {}
    }
}

async fn open_store(options: &Options) -> Result<Arc<dyn Store>, StartError> {
    Ok(match &options.database {
        Database::Sqlite { master_key } => {
            let file = options.data_dir.join("fairway.db");
            let key = match master_key {
                Some(source) => source.read()?,
                None => MasterKey::from_file_or_new(&options.data_dir.join("master.key"), &file)
                    .map_err(crate::store::StoreError::from)?,
            };
            Arc::new(SqliteStore::open(SqliteOptions::new(file), key).await?)
        }
        Database::Postgres { url, master_key } => {
            let key = master_key.as_ref().ok_or(StartError::MasterKeyRequired)?.read()?;
            Arc::new(PostgresStore::open(PostgresOptions::new(url), key).await?)
        }
    })
}

/// The token of the first admin: given, or kept in the data folder, or made there now.
fn admin_token(options: &Options) -> Result<String, StartError> {
    if let Some(token) = &options.admin_token {
        return Ok(token.clone());
    }
    let path = options.data_dir.join("admin.token");
    match fs::read_to_string(&path) {
        Ok(token) if !token.trim().is_empty() => Ok(token.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StartError::DataDir { path, error }),
        Ok(_) | Err(_) => {
            let token = auth::generate_token().map_err(|_| StartError::Random)?;
            write_file(&options.data_dir, "admin.token", format!("{token}\n").as_bytes(), 0o600)?;
            Ok(token)
        }
    }
}

fn make_data_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| StartError::DataDir { path: path.to_owned(), error })
}

/// Writes a small file of the data folder whole or not at all.
pub(super) fn write_file(folder: &Path, name: &str, content: &[u8], mode: u32) -> Result<(), StartError> {
    let (path, temporary) = (folder.join(name), folder.join(format!(".{name}.new")));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| StartError::DataDir { path: path.clone(), error })
}

pub(super) fn tls(flag: &'static str, key: Arc<ServerKey>, alpn: &[&[u8]]) -> Result<TlsAcceptor, StartError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let wrong = |error| StartError::Tls { flag, error };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_cert_resolver(key);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}
