//! A browser loads a page through the gateway.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::resources::to;
use e2e::{Authority, Demo, Origin, Resources, Start, eventually};
use rcgen::PublicKeyData as _;

/// Writes into the page what the browser made of it: how it was spoken to, and how large the image is.
const PAGE: &str = r#"<!doctype html>
<html>
<head><title>The shop</title><link rel="stylesheet" href="/style.css"><script src="/app.js" defer></script></head>
<body><h1>The shop</h1><img id="logo" src="/logo.svg"><p id="says">nothing yet</p></body>
</html>
"#;
const STYLE: &str = "h1 { letter-spacing: 7px }";
const LOGO: &str =
    r#"<svg xmlns="http://www.w3.org/2000/svg" width="32" height="24"><rect width="32" height="24"/></svg>"#;
const SCRIPT: &str = r"
addEventListener('load', async () => {
  const logo = document.getElementById('logo');
  const entries = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  const protocols = new Set(entries.map(entry => entry.nextHopProtocol));
  const posted = await fetch('/echo', {method: 'POST', body: 'hello'}).then(answer => answer.json());
  const spacing = getComputedStyle(document.querySelector('h1')).letterSpacing;
  document.getElementById('says').textContent =
    `${entries.length} by ${[...protocols]}, logo ${logo.naturalWidth}x${logo.naturalHeight}, ` +
    `spacing ${spacing}, ${posted.method} ${posted.body}`;
});
";

#[tokio::test]
async fn a_browser_shows_a_page_with_all_that_belongs_to_it() {
    let pages: &[(&str, &str, &[u8])] = &[
        ("/", "text/html; charset=utf-8", PAGE.as_bytes()),
        ("/style.css", "text/css", STYLE.as_bytes()),
        ("/app.js", "text/javascript", SCRIPT.as_bytes()),
        ("/logo.svg", "image/svg+xml", LOGO.as_bytes()),
    ];
    let (shop, echo) = (Origin::pages(pages, None).await, Origin::start("echo").await);
    let (certificate, key) = Authority::default().certificate("shop.test");
    let fairway = Start::serve(&[8443]).run().await;
    let rules = format!("- {{match: [{{uri: {{exact: /echo}}}}], {}}}\n- {{{}}}\n", to("echo"), to("shop"));
    let resources = Resources::default()
        .tls_secret("pair", &certificate.pem(), &key.serialize_pem())
        .https_gateway("secure", 8443, "pair")
        .service("shop", shop.port())
        .service("echo", echo.port())
        .routes("secure", &rules);
    fairway.api().apply(&resources).await;
    let gateway = fairway.listener(8443).await;

    // This key alone is believed, and this name alone exists.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    let page = dump(&[
        format!("--ignore-certificate-errors-spki-list={}", STANDARD.encode(digest)),
        format!("--host-resolver-rules=MAP shop.test:443 {gateway}, MAP * ~NOTFOUND"),
        "https://shop.test/".to_owned(),
    ])
    .await;
    assert!(page.contains("<title>The shop</title>"), "{page}");
    assert!(page.contains("4 by h2, logo 32x24, spacing 7px, POST hello"), "{page}");
    assert_eq!(echo.requests(), 1);
    eventually("the access log has every part", async || {
        let log = fairway.log();
        let parts = ["GET / HTTP/2", "GET /style.css HTTP/2", "GET /app.js HTTP/2", "GET /logo.svg HTTP/2"];
        if parts.iter().all(|part| log.contains(part)) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn the_demos_page_draws_its_map_and_shows_who_drives() {
    let Demo { base, fairway: _fairway } = Demo::start().await;
    // Nothing but the gateway exists for it: the page needs nothing else.
    let page = dump(&[
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
        format!("{base}/#heron/services"),
    ])
    .await;
    assert_eq!(page.matches(r#"class="road "#).count(), 18, "{page}");
    assert_eq!(page.matches(r#"data-vehicle=""#).count(), 12, "{page}");
    assert!(page.contains(r#"data-state="live""#), "{page}");
    assert!(page.contains("<h2>Heron</h2>") && page.contains("Van AV 236"), "{page}");
    assert!(page.contains("E. Fraser") || page.contains("Eilidh Fraser"), "{page}");
    assert_eq!(page.matches(r#"<tr data-key=""#).count(), 9, "{page}");
    assert!(page.contains(r#"src="blob:"#), "the picture is there: {page}");
}

/// The page as the browser has it once its scripts have run.
async fn dump(arguments: &[String]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    // The sandbox needs privileges of its own, which machines that run tests rarely give; the page is the test's.
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    browser.args(["--disable-background-networking", "--disable-component-update", "--disable-default-apps"]);
    browser.args(["--disable-sync", "--virtual-time-budget=20000", "--timeout=30000", "--dump-dom"]);
    browser.arg(format!("--user-data-dir={}", profile.path().display())).env("HOME", profile.path());
    browser.args(arguments).stdin(Stdio::null());
    let mut browser = tokio::process::Command::from(browser);
    let output = browser.kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_mins(1), output).await.expect("the browser ends in time");
    let output = output.expect("chromium is installed; scripts/setup does that");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
