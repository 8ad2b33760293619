//! api-gateway: one API over all services. What a service does not answer is left out, and it is said why.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::Method;
use serde_json::{Map, Value, json};

use crate::instance::Instance;
use crate::peers::{Answer, CallError, Peers};
use crate::problem::Problem;
use crate::service::{Service, Version};
use crate::trace::Trace;
use crate::vehicles;
use crate::webapp::passed_on;

#[derive(Clone, Debug)]
struct ApiGateway {
    instance: Arc<Instance>,
    peers: Peers,
}

pub(crate) fn router(instance: &Arc<Instance>, peers: Peers) -> Router {
    let state = ApiGateway { instance: Arc::clone(instance), peers };
    let work = Router::new()
        .route("/vehicles", get(list))
        .route("/vehicles/{id}", get(one))
        .route("/photos/{id}", get(photo))
        .with_state(state.clone());
    let reliable = Router::new()
        .route("/services", get(services))
        .route("/services/{service}/{version}/fault", post(switch))
        .with_state(state);
    instance.serve(work, reliable)
}

/// An answer that is put together of several services', with what each of them had to say.
#[derive(Debug, Default)]
struct Together {
    answered: Vec<Value>,
    problems: Vec<Value>,
}

impl Together {
    fn add(&mut self, peer: Service, answer: Result<Answer, CallError>) -> Option<Value> {
        let ms = answer.as_ref().ok().map(|answer| answer.took.as_millis() as u64);
        let version = answer.as_ref().ok().and_then(Answer::version).map(str::to_owned);
        match answer.and_then(|answer| answer.json(peer)) {
            Ok(json) => {
                self.answered.push(json!({"service": peer.name(), "version": version, "ms": ms}));
                Some(json)
            }
            Err(error) => {
                self.problems.push(json!({"service": peer.name(), "message": error.to_string()}));
                None
            }
        }
    }

    fn finish(self, mut answer: Map<String, Value>) -> Json<Value> {
        answer.insert("answered".to_owned(), self.answered.into());
        answer.insert("problems".to_owned(), self.problems.into());
        Json(answer.into())
    }
}

/// All vehicles with their positions, without which there is no answer, and their speeds.
async fn list(State(api): State<ApiGateway>, trace: Trace) -> Result<Json<Value>, Problem> {
    let (positions, speeds) = tokio::join!(
        api.peers.get(Service::PositionTracker, "/vehicles", &trace),
        api.peers.get(Service::VehicleTelemetry, "/vehicles", &trace)
    );
    let mut together = Together::default();
    let mut answer = together.add(Service::PositionTracker, Ok(positions?)).unwrap_or_default();
    let speeds = together.add(Service::VehicleTelemetry, speeds).unwrap_or_default();
    for vehicle in answer["vehicles"].as_array_mut().into_iter().flatten() {
        let id = vehicle["vehicle"].as_str().unwrap_or_default().to_owned();
        let known = vehicles::find(&id);
        vehicle["kind"] = known.map(|known| known.kind.name()).into();
        vehicle["plate"] = known.map(|known| known.plate).into();
        vehicle["speed_kmh"] = speeds[&id]["speed_kmh"].clone();
        vehicle["battery_percent"] = speeds[&id]["battery_percent"].clone();
    }
    let Value::Object(answer) = answer else { return Err(Problem::not_found("position-tracker knows no vehicles")) };
    Ok(together.finish(answer))
}

/// One vehicle: its driver, its telemetry, its trail.
async fn one(State(api): State<ApiGateway>, Path(id): Path<String>, trace: Trace) -> Result<Json<Value>, Problem> {
    let vehicle = vehicles::find(&id).ok_or_else(|| Problem::not_found(format!("there is no vehicle {id}")))?;
    let (driver, telemetry, trail) =
        (format!("/drivers/{id}"), format!("/vehicles/{id}"), format!("/vehicles/{id}/trail"));
    let (driver, telemetry, trail) = tokio::join!(
        api.peers.get(Service::StaffService, &driver, &trace),
        api.peers.get(Service::VehicleTelemetry, &telemetry, &trace),
        api.peers.get(Service::PositionTracker, &trail, &trace)
    );
    let mut together = Together::default();
    let mut answer = Map::new();
    answer.insert("vehicle".to_owned(), id.into());
    answer.insert("kind".to_owned(), vehicle.kind.name().into());
    answer.insert("plate".to_owned(), vehicle.plate.into());
    answer.insert("driver".to_owned(), together.add(Service::StaffService, driver).unwrap_or_default());
    answer.insert("telemetry".to_owned(), together.add(Service::VehicleTelemetry, telemetry).unwrap_or_default());
    let trail = together.add(Service::PositionTracker, trail).unwrap_or_default();
    answer.insert("trail".to_owned(), trail["trail"].clone());
    Ok(together.finish(answer))
}

async fn photo(State(api): State<ApiGateway>, Path(id): Path<String>, trace: Trace) -> Result<Response, Problem> {
    let vehicle = vehicles::find(&id).ok_or_else(|| Problem::not_found(format!("there is no vehicle {id}")))?;
    let path = format!("/photos/{}", vehicle.id);
    Ok(passed_on(api.peers.get(Service::PhotoService, &path, &trace).await?))
}

/// How every instance is, api-gateway's own first; webapp speaks for itself.
async fn services(State(api): State<ApiGateway>, trace: Trace) -> Json<Value> {
    let own = json!({"service": "api-gateway", "version": "v1", "state": api.instance.describe(), "ms": 0});
    let others = Service::instances().filter(|(service, _)| !matches!(service, Service::Webapp | Service::ApiGateway));
    let asked: Vec<_> = others
        .map(|(service, version)| {
            let (peers, trace) = (api.peers.clone(), addressed(&trace, service, version));
            tokio::spawn(async move { ask(&peers, service, version, &trace).await })
        })
        .collect();
    let mut all = vec![own];
    for asked in asked {
        all.extend(asked.await);
    }
    Json(Value::Array(all))
}

async fn ask(peers: &Peers, service: Service, version: Version, trace: &Trace) -> Value {
    let mut told = json!({"service": service.name(), "version": version.name()});
    match peers.get(service, "/fault", trace).await {
        Ok(answer) => {
            told["ms"] = (answer.took.as_millis() as u64).into();
            let state = answer.json(service).unwrap_or_default();
            if state["version"] == version.name() {
                told["state"] = state;
            } else {
                told["error"] = format!("no route leads to {service} {version}").into();
            }
        }
        Err(error) => told["error"] = error.to_string().into(),
    }
    told
}

/// Of several versions the one that is meant, by the route for testers.
fn addressed(trace: &Trace, service: Service, version: Version) -> Trace {
    if service.versions().len() > 1 { trace.clone().wanting(version.name()) } else { trace.clone() }
}

async fn switch(
    State(api): State<ApiGateway>,
    Path((service, version)): Path<(String, String)>,
    trace: Trace,
    body: Bytes,
) -> Result<Response, Problem> {
    let parsed = (service.parse::<Service>(), version.parse::<Version>());
    let (Ok(service), Ok(version)) = parsed else {
        return Err(Problem::not_found(format!("there is no {service} {version}")));
    };
    if service == Service::ApiGateway {
        return Ok(Json(api.instance.set_fault(&body)?).into_response());
    }
    let trace = addressed(&trace, service, version);
    Ok(passed_on(api.peers.call(service, Method::POST, "/fault", Some(body), &trace).await?))
}
