//! The real kubectl against a Fairway process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::process::{Fairway, TOKEN, binary};

/// A kubectl binary with a home folder and a kubeconfig of its own, so that nothing is cached between tests.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    home: TempDir,
    config: PathBuf,
}

impl Kubectl {
    /// The kubectl on PATH.
    pub fn new(fairway: &Fairway) -> Self {
        Self::with(fairway, Path::new("kubectl"))
    }

    /// A certain binary.
    pub fn with(fairway: &Fairway, program: &Path) -> Self {
        let home = TempDir::new().expect("a home folder");
        let made = Command::new(binary("fairway"))
            .args(["kubeconfig", "--data-dir"])
            .arg(&fairway.data_dir)
            .env("FAIRWAY_ADMIN_TOKEN", TOKEN)
            .output()
            .expect("fairway kubeconfig runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = home.path().join("config");
        fs::write(&config, &made.stdout).expect("the kubeconfig");
        Self { program: program.to_owned(), home, config }
    }

    /// A command that is ready for its arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.config).env("HOME", self.home.path());
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("kubectl runs")
    }

    /// Runs it, expects success, and answers what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?} failed:\n{stdout}\n{stderr}");
        stdout
    }

    /// Runs it, expects failure, and answers what it complained.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "kubectl {arguments:?} was expected to fail and printed\n{stderr}");
        stderr
    }
}

/// The kubectl on PATH and every `kubectl.1.NN` beside the real file behind it, with the minor version of each.
pub fn installed() -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let Some(on_path) = std::env::split_paths(&paths).map(|folder| folder.join("kubectl")).find(|file| file.exists())
    else {
        return found;
    };
    if let Some(minor) = minor_version(&on_path) {
        found.push((minor, on_path.clone()));
    }
    let real = fs::canonicalize(&on_path).unwrap_or(on_path);
    let folder = real.parent().map(Path::to_owned).unwrap_or_default();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(minor) = name.strip_prefix("kubectl.1.").and_then(|minor| minor.parse().ok()) {
            found.push((minor, entry.path()));
        }
    }
    found.sort();
    found
}

fn minor_version(program: &Path) -> Option<u32> {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let minor = version["clientVersion"]["minor"].as_str()?;
    minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}
