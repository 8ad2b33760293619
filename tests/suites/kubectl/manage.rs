//! Managing: edit, patch, replace, label, annotate, namespaces, secrets, what one may do.

use crate::{contains, users};

#[tokio::test]
async fn edit_patch_replace_label_annotate() {
    let (_fairway, users) = users().await;
    for user in users {
        user.ok(&["apply", "-f", &user.virtual_service("a", &user.host(), 200)]);
        let status = ["get", "vs", "a", "-o", "jsonpath={.spec.http[0].directResponse.status}"];

        let mut edit = user.kubectl.command();
        edit.env("KUBE_EDITOR", "sed -i 's/status: 200/status: 210/'").args(user.arguments(&["edit", "vs", "a"]));
        let edited = edit.output().expect("kubectl runs");
        assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
        assert_eq!(user.ok(&status), "210");

        let merge = r#"{"spec":{"http":[{"directResponse":{"status":211}}]}}"#;
        contains(&user.ok(&["patch", "vs", "a", "--type=merge", "-p", merge]), &["patched"]);
        assert_eq!(user.ok(&status), "211");
        contains(&user.ok(&["patch", "vs", "a", "--type=merge", "-p", merge]), &["(no change)"]);
        let json = r#"[{"op":"replace","path":"/spec/http/0/directResponse/status","value":212}]"#;
        user.ok(&["patch", "vs", "a", "--type=json", "-p", json]);
        assert_eq!(user.ok(&status), "212");
        contains(
            &user.fails(&["patch", "vs", "a", "-p", merge]),
            &["is not supported", "application/merge-patch+json"],
        );
        let test = r#"[{"op":"test","path":"/spec/http/0/directResponse/status","value":1}]"#;
        user.fails(&["patch", "vs", "a", "--type=json", "-p", test]);

        let current = user.ok(&["get", "vs", "a", "-o", "yaml"]);
        let replacement = user.file("replacement.yaml", &current.replace("status: 212", "status: 213"));
        contains(&user.ok(&["replace", "-f", &replacement]), &["replaced"]);
        assert_eq!(user.ok(&status), "213");
        contains(&user.fails(&["replace", "-f", &replacement]), &["Conflict", "the object has been modified"]);

        user.ok(&["label", "vs", "a", "team=x"]);
        assert_eq!(user.ok(&["get", "vs", "-l", "team=x", "-o", "name"]).lines().count(), 1);
        user.ok(&["label", "vs", "a", "team-"]);
        assert_eq!(user.ok(&["get", "vs", "-l", "team=x", "-o", "name"]), "");
        user.ok(&["annotate", "vs", "a", "note=hello"]);
        assert_eq!(user.ok(&["get", "vs", "a", "-o", "jsonpath={.metadata.annotations.note}"]), "hello");
        contains(&user.fails(&["label", "vs", "a", "bad=not ok"]), &["invalid"]);
    }
}

#[tokio::test]
async fn what_one_may_do() {
    let (_fairway, users) = users().await;
    for user in users {
        assert_eq!(user.ok(&["auth", "can-i", "create", "virtualservices"]), "yes\n");
        assert_eq!(user.ok(&["auth", "can-i", "*", "*"]), "yes\n");
        contains(&user.ok(&["auth", "can-i", "--list"]), &["networking.istio.io"]);
        contains(&user.ok(&["auth", "whoami"]), &["Username", "admin"]);
        let impersonated = user.fails(&["get", "vs", "--as", "bob"]);
        contains(&impersonated, &["impersonation is not supported"]);
        let stranger = user.fails(&["get", "vs", "--token", "wrong"]);
        contains(&stranger, &["logged in"]);
    }
}

#[tokio::test]
async fn namespaces_and_tls_secrets() {
    let (_fairway, users) = users().await;
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).expect("a certificate");
    for user in users {
        let shop = format!("shop-{}", user.namespace);
        contains(&user.ok(&["create", "namespace", &shop]), &["created"]);
        contains(&user.ok(&["get", "namespaces"]), &["default", "istio-system", &shop, "Active"]);
        contains(&user.ok(&["describe", "namespace", &shop]), &["Active"]);

        let certificate = user.file("tls.crt", &made.cert.pem());
        let key = user.file("tls.key", &made.signing_key.serialize_pem());
        let create = ["create", "secret", "tls", "site", "--cert", &certificate, "--key", &key];
        contains(&user.ok(&create), &["created"]);
        contains(&user.ok(&["get", "secrets"]), &["site", "kubernetes.io/tls", "2"]);
        user.ok(&["create", "secret", "generic", "plain", "--from-literal=a=b"]);
        assert_eq!(user.ok(&["get", "secret", "plain", "-o", "jsonpath={.data.a}"]), "Yg==");

        // A pair that does not match, sent without kubectl's own check.
        let other = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let indent = |pem: &str| pem.trim().replace('\n', "\n    ");
        let manifest = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: wrong}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  \
             tls.key: |\n    {}\n",
            indent(&made.cert.pem()),
            indent(&other)
        );
        let refused = user.fails(&["apply", "-f", &user.file("wrong.yaml", &manifest)]);
        contains(&refused, &["does not belong to the first certificate"]);
        assert!(!refused.contains("PRIVATE KEY"), "{refused}");

        contains(&user.ok(&["delete", "namespace", &shop]), &["deleted"]);
        contains(&user.fails(&["delete", "namespace", "default"]), &["may not be deleted"]);
    }
}
