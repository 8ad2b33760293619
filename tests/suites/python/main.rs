//! The Python client for Kubernetes, its dynamic and its typed parts, against `fairway serve`.

use std::process::Command;

use e2e::{Kubectl, Start, python};

#[tokio::test]
async fn a_script_lists_creates_patches_and_watches() {
    let fairway = Start::serve(&[8080]).run().await;
    let config = Kubectl::new(&fairway).run(&["config", "view", "--raw"]);
    let file = fairway.data_dir.join("kubeconfig");
    std::fs::write(&file, config).expect("the kubeconfig");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/suites/python/client.py");
    let output = Command::new(python::interpreter()).arg(script).arg(&file).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
