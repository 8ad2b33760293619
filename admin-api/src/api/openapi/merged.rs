//! One document of everything: Fairway's own calls, described where they are written, and the resource API in the
//! preferred version of each kind.

use route_model::kind::Kind;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::resources::{add_kind, shared_schemas};
use crate::api::fairway::OwnCalls;
use crate::push_service::PushApi;

const DESCRIPTION: &str = "Fairway keeps Istio's resources and serves them in Kubernetes' style under `/apis` and \
`/api/v1`, so kubectl and every Kubernetes client work. Calls that are not about one resource are under \
`/api/fairway/v1`. Errors are Kubernetes `Status` objects there and RFC 9457 problem documents here. Send \
`Authorization: Bearer TOKEN` with every call.";

/// `openapi/fairway.json`
pub(crate) fn merged() -> Value {
    let own = OwnCalls::openapi().merge_from(PushApi::openapi());
    let own = serde_json::to_value(own).unwrap_or_default();
    let mut paths = own["paths"].as_object().cloned().unwrap_or_default();
    let mut schemas = own["components"]["schemas"].as_object().cloned().unwrap_or_default();
    schemas.extend(shared_schemas());
    let mut resources = Map::new();
    for kind in Kind::ALL {
        add_kind(kind, kind.info().preferred_version(), &mut resources, &mut schemas);
    }
    paths.extend(resources);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Fairway",
            "description": DESCRIPTION,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0"},
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    })
}
