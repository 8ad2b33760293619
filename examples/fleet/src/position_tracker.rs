//! position-tracker: knows where every vehicle is and was, and passes it on to vehicle-telemetry.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Path, State};
use axum::routing::{get, put};
use axum::{Json, Router};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::debug;

use crate::instance::Instance;
use crate::peers::Peers;
use crate::problem::Problem;
use crate::service::Service;
use crate::trace::Trace;

/// Of each vehicle; at two reports a second the last minute.
const TRAIL: usize = 120;
const MOST_VEHICLES: usize = 1_000;
const LONGEST_NAME: usize = 64;

/// Where the vehicles were at a time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub positions: Vec<Reported>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reported {
    pub vehicle: String,
    /// In units of the map.
    pub x: f64,
    pub y: f64,
    /// In degrees clockwise from east.
    pub heading: f64,
    pub road: String,
}

#[derive(Debug)]
struct Tracker {
    known: Mutex<Known>,
    news: watch::Sender<Option<(Bytes, Trace)>>,
}

#[derive(Debug, Default)]
struct Known {
    reported: Option<Instant>,
    at_ms: u64,
    vehicles: BTreeMap<String, Track>,
}

#[derive(Debug)]
struct Track {
    last: Reported,
    trail: VecDeque<(f64, f64)>,
}

/// The service, and the task that passes positions on.
pub(crate) fn start(instance: &Arc<Instance>, peers: Peers) -> (Router, impl Future<Output = ()> + Send + 'static) {
    let (news, to_tell) = watch::channel(None);
    let tracker = Arc::new(Tracker { known: Mutex::default(), news });
    let work = Router::new()
        .route("/positions", put(take))
        .route("/vehicles", get(list))
        .route("/vehicles/{id}/trail", get(trail))
        .with_state(tracker);
    (instance.serve(work, Router::new()), tell(to_tell, peers))
}

/// Passes on what is newest whenever vehicle-telemetry has taken what was before: a slow one holds nobody up.
async fn tell(mut news: watch::Receiver<Option<(Bytes, Trace)>>, peers: Peers) {
    while news.changed().await.is_ok() {
        let Some((report, trace)) = news.borrow_and_update().clone() else { continue };
        let call = peers.call(Service::VehicleTelemetry, Method::PUT, "/positions", Some(report), &trace);
        if let Err(error) = call.await {
            debug!(%error, "vehicle-telemetry did not take the positions");
        }
    }
}

async fn take(State(tracker): State<Arc<Tracker>>, trace: Trace, body: Bytes) -> Result<StatusCode, Problem> {
    let report: Report = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the positions: {error}")))?;
    tracker.known.lock().unwrap_or_else(PoisonError::into_inner).take(report)?;
    tracker.news.send_replace(Some((body, trace)));
    Ok(StatusCode::NO_CONTENT)
}

async fn list(State(tracker): State<Arc<Tracker>>) -> Json<Value> {
    let known = tracker.known.lock().unwrap_or_else(PoisonError::into_inner);
    let vehicles: Vec<&Reported> = known.vehicles.values().map(|track| &track.last).collect();
    let age = known.reported.map(|at| at.elapsed().as_millis() as u64);
    Json(json!({"at_ms": known.at_ms, "age_ms": age, "vehicles": vehicles}))
}

async fn trail(State(tracker): State<Arc<Tracker>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let known = tracker.known.lock().unwrap_or_else(PoisonError::into_inner);
    let track = known.vehicles.get(&id).ok_or_else(|| Problem::not_found(format!("nobody has reported {id}")))?;
    Ok(Json(json!({"vehicle": id, "trail": track.trail})))
}

impl Known {
    fn take(&mut self, report: Report) -> Result<(), Problem> {
        let bad = |message: String| Err(Problem::new(StatusCode::BAD_REQUEST, message));
        if let Some(long) = report.positions.iter().find(|position| position.vehicle.len() > LONGEST_NAME) {
            return bad(format!("the name {} is longer than {LONGEST_NAME} bytes", long.vehicle));
        }
        if report.at_ms < self.at_ms {
            // A report that was held up on its way says nothing that a later one did not.
            return Ok(());
        }
        let news = report.positions.iter().filter(|position| !self.vehicles.contains_key(&position.vehicle)).count();
        if self.vehicles.len() + news > MOST_VEHICLES {
            return bad(format!("more than {MOST_VEHICLES} vehicles are not tracked"));
        }
        self.at_ms = report.at_ms;
        self.reported = Some(Instant::now());
        for position in report.positions {
            let place = (position.x, position.y);
            let track = self
                .vehicles
                .entry(position.vehicle.clone())
                .and_modify(|track| track.last = position.clone())
                .or_insert_with(|| Track { last: position, trail: VecDeque::with_capacity(TRAIL) });
            if track.trail.len() == TRAIL {
                track.trail.pop_front();
            }
            track.trail.push_back(place);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(at_ms: u64, vehicle: &str, x: f64) -> Report {
        let position = Reported { vehicle: vehicle.to_owned(), x, y: 0.0, heading: 0.0, road: String::new() };
        Report { at_ms, positions: vec![position] }
    }

    #[test]
    fn the_newest_position_counts_and_the_trail_is_bounded() {
        let mut known = Known::default();
        for step in 0..500 {
            known.take(report(step, "heron", step as f64)).unwrap();
        }
        known.take(report(3, "heron", 3.0)).unwrap();
        let track = &known.vehicles["heron"];
        assert!((track.last.x - 499.0).abs() < 0.1, "a late report changes nothing");
        assert!(track.trail.len() == TRAIL && (track.trail[0].0 - 380.0).abs() < 0.1, "{:?}", track.trail);
    }

    #[test]
    fn there_is_an_end_to_vehicles_and_their_names() {
        let mut known = Known::default();
        for number in 0..MOST_VEHICLES {
            known.take(report(1, &number.to_string(), 0.0)).unwrap();
        }
        assert_eq!(known.take(report(1, "one more", 0.0)).unwrap_err().status, StatusCode::BAD_REQUEST);
        known.take(report(2, "7", 0.0)).unwrap();
        assert!(known.take(report(3, &"x".repeat(65), 0.0)).is_err());
    }
}
