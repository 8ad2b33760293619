use http::Method;
use serde_json::json;

use crate::harness::{Api, VS, virtual_service, vs};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn lists_select_and_come_in_pages() {
    let api = Api::start().await;
    for i in 0..5 {
        let mut object = virtual_service(&format!("v{i}"), &[&format!("v{i}.example.com")]);
        object["metadata"]["labels"] = json!({"even": (i % 2 == 0).to_string()});
        api.post(VS, &object).await.expect(201);
    }
    let names = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = api.get("/apis/networking.istio.io/v1beta1/virtualservices/").await.expect(200);
    assert_eq!(
        (&all["kind"], &all["apiVersion"]),
        (&json!("VirtualServiceList"), &json!("networking.istio.io/v1beta1"))
    );
    assert_eq!(names(&all).len(), 5);
    assert_eq!(all["items"][0]["apiVersion"], "networking.istio.io/v1beta1");
    assert_eq!(names(&api.get(&format!("{VS}?labelSelector=even%3Dtrue")).await.expect(200)), ["v0", "v2", "v4"]);
    assert_eq!(names(&api.get(&format!("{VS}?fieldSelector=metadata.name%3Dv3")).await.expect(200)), ["v3"]);
    api.get(&format!("{VS}?fieldSelector=spec.x%3Dv3")).await.expect(400);
    api.get(&format!("{VS}?labelSelector=a%20b")).await.expect(400);

    let first = api.get(&format!("{VS}?limit=2")).await.expect(200);
    assert_eq!((names(&first).len(), &first["metadata"]["remainingItemCount"]), (2, &json!(3)));
    api.post(VS, &virtual_service("zz", &["zz.example.com"])).await.expect(201);
    let next = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&format!("{VS}?limit=9&continue={next}")).await.expect(200);
    assert_eq!(names(&second), ["v2", "v3", "v4", "zz"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"].get("continue"), None);
    api.get(&format!("{VS}?continue=nonsense")).await.expect(400);
}

#[tokio::test]
async fn tables_and_metadata_on_demand() {
    let api = Api::start().await;
    api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let table = api.get_as(VS, TABLE).await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["cells"][2], r#"["a.example.com"]"#);
    assert_eq!(table["rows"][0]["object"]["metadata"]["namespace"], "default");
    let one = api.get_as(&format!("{}?includeObject=Object", vs("a")), TABLE).await.expect(200);
    assert_eq!(one["rows"][0]["object"]["kind"], "VirtualService");
    let metadata = api.get_as(VS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await.expect(200);
    assert_eq!((&metadata["kind"], metadata["items"][0].get("spec")), (&json!("PartialObjectMetadataList"), None));
    api.get_as(VS, "text/html").await.expect(406);
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let api = Api::start().await;
    api.get("/version/").await.expect(200);
    let groups = api.get("/apis").await.expect(200);
    assert_eq!(groups["kind"], "APIGroupList");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = api.get_as("/apis", accept).await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(aggregated.expect(200)["items"][0]["metadata"]["name"], "networking.istio.io");
    let core = api.get_as("/api/", accept).await.expect(200);
    assert_eq!(core["items"][0]["metadata"].get("name"), None);
    let list = api.get("/apis/networking.istio.io/v1").await.expect(200);
    assert!(list["resources"].as_array().unwrap().iter().any(|r| r["name"] == "virtualservices/status"));
    api.get("/apis/security.istio.io").await.expect(200);
    let unknown = api.get("/apis/apps/v1").await.expect(404);
    assert_eq!(unknown["message"], "the server could not find the requested resource");
    assert_eq!(api.get("/nothing").await.expect(404)["kind"], "Status");
    assert_eq!(api.call(Method::DELETE, "/version", &[], "").await.expect(405)["kind"], "Status");
}

#[tokio::test]
async fn openapi_as_kubectl_asks_for_it() {
    let api = Api::start().await;
    let v2 = api.get_as("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").await;
    assert_eq!(v2.status, 200);
    assert_eq!(v2.text, "");
    assert_eq!(v2.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let index = api.get("/openapi/v3?timeout=32s").await.expect(200);
    let url = index["paths"]["apis/networking.istio.io/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = api.get(url).await;
    assert_eq!(document.headers["cache-control"], "public, immutable");
    let schemas = &document.expect(200)["components"]["schemas"];
    assert!(schemas["io.istio.networking.v1.VirtualService"].is_object());
    let merged = api.get("/openapi/fairway.json").await.expect(200);
    assert!(merged["paths"]["/api/fairway/v1/changes"]["post"].is_object());
    assert!(merged["paths"]["/apis/networking.istio.io/v1/namespaces/{namespace}/virtualservices"].is_object());
}

#[tokio::test]
async fn reviews_answer_who_may_what() {
    let api = Api::start().await;
    let access =
        json!({"spec": {"resourceAttributes": {"verb": "*", "resource": "*", "group": "networking.istio.io"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(api.post(path, &access).await.expect(201)["status"]["allowed"], true);
    let rules = api.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &json!({})).await.expect(201);
    assert!(rules["status"]["resourceRules"].as_array().is_some_and(|rules| !rules.is_empty()));
    let subject = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
    assert_eq!(subject["status"]["userInfo"]["username"], "admin");
    api.get(path).await.expect(405);
}
