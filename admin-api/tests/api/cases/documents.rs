use crate::harness::Api;

/// `openapi/fairway.json` is what the server serves. `UPDATE=1` writes it.
#[tokio::test]
async fn the_checked_in_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/fairway.json");
    let document = Api::start().await.get("/openapi/fairway.json").await.expect(200);
    let mut text = serde_json::to_string_pretty(&document).unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == text, "openapi/fairway.json is out of date: run the tests once with UPDATE=1 and commit it");
}

/// What generators of clients stumble over.
#[tokio::test]
async fn every_operation_has_an_id_of_its_own_and_says_what_it_answers() {
    let document = Api::start().await.get("/openapi/fairway.json").await.expect(200);
    let mut ids = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no id"));
            assert!(ids.insert(id), "{method} {path}: {id} is the id of two operations");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{method} {path} {status} says nothing");
            }
        }
    }
}

#[tokio::test]
async fn the_explorer_loads_nothing_from_elsewhere() {
    let api = Api::start().await;
    let page = api.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    for own in ["/docs/explorer.js", "/docs/explorer.css", "/docs/openapi.json"] {
        let part = api.get(own).await;
        assert_eq!(part.status, 200, "{own}");
        assert!(page.text.contains(own) || api.get("/docs/explorer.js").await.text.contains(own), "{own}");
    }
    assert!(!page.text.contains("://"), "{}", page.text);
}
