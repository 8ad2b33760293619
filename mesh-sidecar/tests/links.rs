//! The small binary stays small: what it links.

use std::process::Command;

#[test]
fn the_sidecar_links_no_database_no_rest_framework_and_no_second_tls() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "mesh-sidecar",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "-f",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("cargo tree prints text");
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.contains(&"proxy") && crates.contains(&"push"), "{tree}");
    let unwanted = [
        "sqlx",
        "axum",
        "utoipa",
        "admin-api",
        "gateway",
        "libsqlite3-sys",
        "ring",
        "openssl",
        "native-tls",
        "reqwest",
    ];
    // Knows where a system keeps its certificate authorities; there is no TLS in it.
    let crates: Vec<&str> = crates.into_iter().filter(|name| *name != "openssl-probe").collect();
    for name in unwanted {
        let found = crates.iter().any(|linked| *linked == name || linked.starts_with(&format!("{name}-")));
        assert!(!found, "fairway-sidecar links {name}");
    }
}
