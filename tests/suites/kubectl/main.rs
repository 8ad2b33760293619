//! The real kubectl against `fairway serve`: the one on PATH and every `kubectl.1.NN` beside it. Older ones than 1.27
//! only apply, get and delete.

mod declare;
mod limits;
mod look;
mod manage;

use std::fs;
use std::path::PathBuf;

use e2e::{Fairway, Kubectl, Start};
use tempfile::TempDir;

/// The oldest minor version for which everything is promised.
const FULL: u32 = 27;

/// One kubectl in a namespace of its own.
struct User {
    minor: u32,
    kubectl: Kubectl,
    namespace: String,
    files: TempDir,
}

impl User {
    /// Every kubectl that is found. Those before 1.27 are left out unless `old_too`.
    fn all(fairway: &Fairway, old_too: bool) -> Vec<Self> {
        let found = e2e::kubectl::installed();
        assert!(!found.is_empty(), "no kubectl on PATH: scripts/setup installs one");
        let mut users = Vec::new();
        for (index, (minor, program)) in found.into_iter().enumerate() {
            if minor < FULL && !old_too {
                println!("kubectl 1.{minor} is older than 1.{FULL}: skipped here");
                continue;
            }
            let kubectl = Kubectl::with(fairway, &program);
            let namespace = format!("user-{index}");
            let manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n");
            let user = Self { minor, kubectl, namespace, files: TempDir::new().expect("a folder") };
            user.ok(&["apply", "-f", &user.file("namespace.yaml", &manifest)]);
            users.push(user);
        }
        users
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        arguments.iter().copied().chain(["--namespace", &self.namespace]).collect()
    }

    /// Runs it in the user's namespace and expects success.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        println!("kubectl 1.{} {}", self.minor, arguments.join(" "));
        self.kubectl.run(&self.arguments(arguments))
    }

    /// Runs it in the user's namespace, expects failure, and answers the complaint.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        self.kubectl.fails(&self.arguments(arguments))
    }

    /// Writes a file and answers its path.
    fn file(&self, name: &str, content: &str) -> String {
        let path: PathBuf = self.files.path().join(name);
        fs::write(&path, content).expect("the file");
        path.display().to_string()
    }

    /// A VirtualService document in a file, answering `status` for `host`.
    fn virtual_service(&self, name: &str, host: &str, status: u16) -> String {
        let manifest = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n  labels:\n    app: \
             {name}\nspec:\n  hosts: [{host}]\n  gateways: [edge]\n  http:\n  - directResponse:\n      status: {status}\n"
        );
        self.file(&format!("{name}-{status}.yaml"), &manifest)
    }

    /// A Gateway for the user's hosts.
    fn gateway(&self) -> String {
        let manifest = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata:\n  name: edge\nspec:\n  selector:\n    istio: \
             ingressgateway\n  servers:\n  - port: {{number: 8080, name: http, protocol: HTTP}}\n    hosts: ['*.{}.example']\n",
            self.namespace
        );
        self.file("gateway.yaml", &manifest)
    }

    fn host(&self) -> String {
        format!("a.{}.example", self.namespace)
    }
}

/// A server and every kubectl of 1.27 or later.
async fn users() -> (Fairway, Vec<User>) {
    let fairway = Start::serve(&[8080]).run().await;
    let users = User::all(&fairway, false);
    (fairway, users)
}

/// Asserts that a text contains all of these.
#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}
