//! The Python client for Kubernetes, its dynamic and its typed parts, against `fairway serve`.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Kubectl, Start};

/// The interpreter of the environment that `scripts/setup` makes in the target folder.
fn python() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("TARGET/PROFILE/deps");
    let beside_sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let found = [target, &beside_sources].map(|folder| folder.join("python/bin/python"));
    let found = found.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("the Python environment is missing: run scripts/setup"))
}

#[tokio::test]
async fn a_script_lists_creates_patches_and_watches() {
    let fairway = Start::serve(&[8080]).run().await;
    let config = Kubectl::new(&fairway).run(&["config", "view", "--raw"]);
    let file = fairway.data_dir.join("kubeconfig");
    std::fs::write(&file, config).expect("the kubeconfig");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/suites/python/client.py");
    let output = Command::new(python()).arg(script).arg(&file).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
