//! What a client may do and who it is: `kubectl auth can-i` and `kubectl auth whoami`.

use axum::body::Body;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::discovery::groups;
use super::error::ApiError;
use super::path::Review;
use crate::auth::Access;

pub(super) async fn review(call: &Call, review: Review, version: &str, body: Body) -> Result<Answer, ApiError> {
    let mut object = call.document(body).await?.value;
    if !object.is_object() {
        return Err(ApiError::bad_request("the body must be an object"));
    }
    object["apiVersion"] = json!(format!("{}/{version}", review.group()));
    object["kind"] = json!(review.kind());
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["status"] = match review {
        Review::Access => access(call, &object["spec"]),
        Review::Rules => rules(call, &object["spec"]),
        Review::Subject => {
            json!({"userInfo": {"username": &*call.identity.name, "groups": groups_of(call)}})
        }
    };
    Ok(Answer::created(object))
}

fn groups_of(call: &Call) -> Vec<&str> {
    call.identity.groups.iter().map(|group| &**group).collect()
}

fn access(call: &Call, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let text = |value: &'_ Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let (verb, group, plural, namespace) = if resource.is_object() {
        (text(resource, "verb"), text(resource, "group"), text(resource, "resource"), text(resource, "namespace"))
    } else {
        (text(&spec["nonResourceAttributes"], "verb"), String::new(), String::new(), String::new())
    };
    let access = Access { verb: &verb, group: &group, resource: &plural, namespace: &namespace };
    if call.state.authorizer().allows(&call.identity, &access) {
        json!({"allowed": true})
    } else {
        json!({"allowed": false, "reason": format!("the roles of {:?} do not cover it", call.identity.name)})
    }
}

/// The groups in which everything is allowed; roles by verb and resource would be listed one by one.
fn rules(call: &Call, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    let allowed = groups().into_iter().map(|(group, _)| group).filter(|group| {
        let access = Access { verb: "*", group, resource: "*", namespace };
        call.state.authorizer().allows(&call.identity, &access)
    });
    let rules: Vec<Value> =
        allowed.map(|group| json!({"verbs": ["*"], "apiGroups": [group], "resources": ["*"]})).collect();
    json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false})
}
