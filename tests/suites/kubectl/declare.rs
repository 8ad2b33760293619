//! Declaring: apply from the client and from the server side, diff, delete.

use e2e::Start;

use crate::{User, contains, users};

#[tokio::test]
async fn apply_get_delete_with_every_kubectl() {
    let fairway = Start::serve(&[8080]).run().await;
    for user in User::all(&fairway, true) {
        let first = user.virtual_service("reviews", &user.host(), 200);
        let second = user.virtual_service("reviews", &user.host(), 201);
        contains(&user.ok(&["apply", "-f", &first]), &["created"]);
        contains(&user.ok(&["apply", "-f", &first]), &["unchanged"]);
        contains(&user.ok(&["apply", "-f", &second]), &["configured"]);
        contains(&user.ok(&["get", "virtualservices"]), &["NAME", "reviews", &user.host()]);
        contains(&user.ok(&["get", "vs", "reviews", "-o", "yaml"]), &["status: 201"]);
        contains(&user.ok(&["delete", "vs", "reviews"]), &["deleted"]);
        contains(&user.fails(&["get", "vs", "reviews"]), &["NotFound", r#""reviews" not found"#]);
    }
}

#[tokio::test]
async fn apply_from_the_server_side_with_conflicts() {
    let (_fairway, users) = users().await;
    for user in users {
        let first = user.virtual_service("reviews", &user.host(), 200);
        let second = user.virtual_service("reviews", &user.host(), 201);
        contains(&user.ok(&["apply", "--server-side", "--field-manager=ci", "-f", &first]), &["serverside-applied"]);
        let conflict = user.fails(&["apply", "--server-side", "-f", &second]);
        contains(
            &conflict,
            &["Apply failed with 1 conflict", r#"conflict with "ci""#, ".spec.http", "--force-conflicts"],
        );
        user.ok(&["apply", "--server-side", "--force-conflicts", "-f", &second]);
        let version = ["get", "vs", "reviews", "-o", "jsonpath={.metadata.resourceVersion}"];
        let before = user.ok(&version);
        user.ok(&["apply", "--server-side", "-f", &second]);
        assert_eq!(user.ok(&version), before, "applying the same again changes nothing");
        let managed = user.ok(&["get", "vs", "reviews", "--show-managed-fields", "-o", "yaml"]);
        contains(&managed, &["manager: ci", "manager: kubectl", "f:http"]);
        // From the client side to the server side, with a changed file.
        user.ok(&["apply", "-f", &user.virtual_service("moved", &user.host(), 200)]);
        user.ok(&["apply", "--server-side", "-f", &user.virtual_service("moved", &user.host(), 202)]);
        contains(&user.ok(&["get", "vs", "moved", "-o", "yaml"]), &["status: 202"]);
    }
}

#[tokio::test]
async fn diff_and_dry_run_show_and_do_not_do() {
    let (_fairway, users) = users().await;
    for user in users {
        let first = user.virtual_service("reviews", &user.host(), 200);
        let second = user.virtual_service("reviews", &user.host(), 201);
        contains(&user.ok(&["create", "--dry-run=server", "-f", &first]), &["created (server dry run)"]);
        contains(&user.fails(&["get", "vs", "reviews"]), &["NotFound"]);
        user.ok(&["create", "-f", &first]);
        contains(&user.fails(&["create", "-f", &first]), &["AlreadyExists"]);
        user.ok(&["apply", "-f", &first]);
        user.ok(&["wait", "--for=jsonpath={.status.observedGeneration}=1", "vs/reviews", "--timeout=30s"]);
        assert_eq!(user.ok(&["diff", "-f", &first]), "");
        let changed = user.kubectl.output(&user.arguments(&["diff", "-f", &second]));
        assert_eq!(changed.status.code(), Some(1), "{}", String::from_utf8_lossy(&changed.stderr));
        contains(&String::from_utf8_lossy(&changed.stdout), &["-      status: 200", "+      status: 201"]);
        contains(&user.ok(&["apply", "--dry-run=server", "-f", &second]), &["configured (server dry run)"]);
        contains(&user.ok(&["get", "vs", "reviews", "-o", "yaml"]), &["status: 200"]);
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_field_by_field() {
    let (_fairway, users) = users().await;
    for user in users {
        let manifest = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec:\n  hosts: ['a b']\n  http: [{}]\n";
        let wrong = user.fails(&["apply", "-f", &user.file("wrong.yaml", manifest)]);
        contains(
            &wrong,
            &[r#"The VirtualService "bad" is invalid"#, "* spec.hosts[0]: Invalid value", "* spec.http[0]: "],
        );
        assert!(!wrong.contains("Invalid value: Invalid value"), "{wrong}");
        let unknown = manifest.replace("hosts:", "hostz:");
        let unknown = user.fails(&["apply", "-f", &user.file("unknown.yaml", &unknown)]);
        contains(&unknown, &[r#"strict decoding error: unknown field "spec.hostz""#]);
        let manifest = user.virtual_service("lenient", &user.host(), 200);
        let lenient = std::fs::read_to_string(&manifest).expect("the file").replace("spec:", "spec:\n  hostz: [x]");
        let path = user.file("lenient.yaml", &lenient);
        let output = user.kubectl.output(&user.arguments(&["apply", "--validate=warn", "-f", &path]));
        assert!(output.status.success());
        contains(&String::from_utf8_lossy(&output.stderr), &[r#"Warning: unknown field "spec.hostz""#]);
    }
}

#[tokio::test]
async fn deletion_by_file_label_and_all() {
    let (_fairway, users) = users().await;
    for user in users {
        let names = ["a", "b", "c", "d"];
        let files = names.map(|name| user.virtual_service(name, &format!("{name}.{}.example", user.namespace), 200));
        for file in &files {
            user.ok(&["apply", "-f", file]);
        }
        contains(&user.ok(&["delete", "-f", &files[0]]), &[r#""a" deleted"#]);
        contains(&user.ok(&["delete", "vs", "-l", "app=b"]), &[r#""b" deleted"#]);
        let all = user.ok(&["delete", "vs", "--all"]);
        contains(&all, &[r#""c" deleted"#, r#""d" deleted"#]);
        assert_eq!(user.ok(&["get", "vs", "-o", "name"]), "");
        contains(&user.fails(&["delete", "vs", "a"]), &["NotFound"]);
    }
}
