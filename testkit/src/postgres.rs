//! A throw-away Postgres: its own data folder, a free port on loopback, gone when it is dropped or the test dies.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const START_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// `initdb` and `postgres` refuse to run as root; this user is made by Debian's package.
const UNPRIVILEGED: &str = "postgres";

/// Stops the server when standard input closes: when this process asks for it, and when it dies.
const RUN_UNTIL_EOF: &str = r#"postgres=$1; shift
"$postgres" "$@" </dev/null & server=$!
cat >/dev/null; kill -QUIT "$server"; wait "$server""#;

/// A running (or stopped) server.
#[derive(Debug)]
pub struct Postgres {
    programs: Programs,
    dir: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

impl Postgres {
    /// Starts a new, empty server.
    ///
    /// # Panics
    /// When Postgres is not installed or does not start.
    pub fn start() -> Self {
        let programs = Programs::find().unwrap_or_else(|| {
            panic!("Postgres is not installed (no initdb in PATH or /usr/lib/postgresql/*/bin): run scripts/setup")
        });
        let dir = tempfile::Builder::new().prefix("fairway-postgres-").tempdir().expect("a temporary folder");
        programs.give_to_user(dir.path()).expect("the folder is handed to the user of Postgres");
        let template = programs.template().unwrap_or_else(|error| panic!("initdb: {error}"));
        let copied = programs.command("cp").arg("-a").arg(template).arg(dir.path().join("data")).status();
        assert!(copied.is_ok_and(|status| status.success()), "the data folder is copied");
        let port = free_port();
        let mut postgres = Self { programs, dir, port, server: None };
        postgres.resume();
        postgres
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same server, another of its databases.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops it as a crash would: connections break, what was committed stays.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        drop(server.stdin.take());
        let _ = server.wait();
    }

    /// Starts it again on the same port with the same data.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn resume(&mut self) {
        if self.server.is_some() {
            return;
        }
        let log = File::create(self.dir.path().join("log")).expect("a log file");
        let mut command = self.programs.command("sh");
        command.args(["-c", RUN_UNTIL_EOF, "sh"]).arg(self.programs.bin.join("postgres"));
        command.arg("-D").arg(self.dir.path().join("data"));
        command.arg("-k").arg(self.dir.path()).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        for setting in ["fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=60"] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("Postgres is started"));
        let deadline = Instant::now() + START_WITHIN;
        while !self.answers() {
            assert!(Instant::now() < deadline, "Postgres does not answer: {}", self.log());
            thread::sleep(POLL);
        }
    }

    /// What the server has written to its log since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        let mut command = Command::new(self.programs.bin.join("pg_isready"));
        command.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where Postgres is installed and whom it runs as.
#[derive(Debug)]
struct Programs {
    bin: PathBuf,
    /// The user and group to change to, when this process is root.
    user: Option<(u32, u32)>,
}

impl Programs {
    fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path).find_map(|dir| {
            // PATH often holds a link into the folder where all of the programs are.
            let initdb = fs::canonicalize(dir.join("initdb")).ok()?;
            let bin = initdb.parent()?.to_owned();
            bin.join("postgres").is_file().then_some(bin)
        });
        let bin = in_path.or_else(newest_debian_install)?;
        let is_root = id(&["-u"])? == 0;
        let user = if is_root { Some((id(&["-u", UNPRIVILEGED])?, id(&["-g", UNPRIVILEGED])?)) } else { None };
        Some(Self { bin, user })
    }

    /// A command that runs as the unprivileged user.
    fn command(&self, program: &str) -> Command {
        let Some((user, group)) = self.user else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={group}")]).args(["--clear-groups", program]);
        command
    }

    fn give_to_user(&self, dir: &Path) -> io::Result<()> {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        match self.user {
            Some((user, group)) => chown(dir, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// A data folder as `initdb` leaves it, made once a machine: copying takes a tenth of the time.
    fn template(&self) -> io::Result<PathBuf> {
        let mut name = OsString::from("fairway-initdb");
        for part in self.bin.components().skip(1) {
            name.push("-");
            name.push(part);
        }
        let home = std::env::temp_dir().join(name).join(self.user.map_or(0, |(user, _)| user).to_string());
        let done = home.join("data");
        fs::create_dir_all(&home)?;
        let lock = File::create(home.with_extension("lock"))?;
        lock.lock()?;
        if done.is_dir() {
            return Ok(done);
        }
        self.give_to_user(&home)?;
        let started = home.join("new");
        if started.exists() {
            fs::remove_dir_all(&started)?;
        }
        let initdb = self.bin.join("initdb");
        let mut command = self.command(&initdb.to_string_lossy());
        command.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=trust", "--username=postgres", "-D"]);
        let output = command.arg(&started).output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        fs::rename(&started, &done)?;
        Ok(done)
    }
}

/// Debian keeps the programs of each version apart.
fn newest_debian_install() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path());
    let installed = versions.filter(|version| version.join("bin/initdb").is_file());
    let number = |version: &PathBuf| version.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok());
    installed.max_by_key(number).map(|version| version.join("bin"))
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Free now; another process may take it before Postgres does, which is rare enough for a test.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port on loopback");
    listener.local_addr().expect("a bound socket has an address").port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_stops_and_keeps_its_port() {
        let mut postgres = Postgres::start();
        assert!(postgres.answers());
        postgres.stop();
        assert!(!postgres.answers());
        postgres.resume();
        assert!(postgres.answers());
    }
}
