//! vehicle-telemetry: works out of positions how fast vehicles are, how far they went, and what their batteries hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::routing::{get, put};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};

use crate::area::{Area, Point};
use crate::instance::Instance;
use crate::position_tracker::Report;
use crate::problem::Problem;
use crate::service::Service;

/// Seconds of history, one number each.
const HISTORY: usize = 180;
const MOST_VEHICLES: usize = 1_000;
/// Faster than this, in km/h, is no driving: a position was wrong, or the clock was set.
const FASTEST: f64 = 200.0;

type Records = Arc<Mutex<BTreeMap<String, Record>>>;

/// What is known of a vehicle.
#[derive(Debug)]
struct Record {
    at_ms: u64,
    place: Point,
    /// km/h.
    speed: f64,
    /// Metres.
    driven: f64,
    /// Percent.
    battery: f64,
    /// The seconds since 1970, and km/h.
    history: VecDeque<(u64, f64)>,
}

pub(crate) fn router(instance: &Arc<Instance>) -> Router {
    debug_assert_eq!(instance.service, Service::VehicleTelemetry);
    let work = Router::new()
        .route("/positions", put(take))
        .route("/vehicles", get(list))
        .route("/vehicles/{id}", get(one))
        .with_state(Records::default());
    instance.serve(work, Router::new())
}

async fn take(State(records): State<Records>, Json(report): Json<Report>) -> StatusCode {
    let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
    let metres_per_unit = Area::get().metres_per_unit;
    for position in report.positions {
        let place = Point { x: position.x, y: position.y };
        if let Some(record) = records.get_mut(&position.vehicle) {
            record.observe(report.at_ms, place, metres_per_unit);
        } else if records.len() < MOST_VEHICLES {
            let record = Record::new(report.at_ms, place, &position.vehicle);
            records.insert(position.vehicle, record);
        }
    }
    StatusCode::NO_CONTENT
}

async fn list(State(records): State<Records>) -> Json<Value> {
    let records = records.lock().unwrap_or_else(PoisonError::into_inner);
    Json(records.iter().map(|(id, record)| (id.clone(), record.summary())).collect())
}

async fn one(State(records): State<Records>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let records = records.lock().unwrap_or_else(PoisonError::into_inner);
    let record = records.get(&id).ok_or_else(|| Problem::not_found(format!("nothing is known of {id}")))?;
    let mut answer = record.summary();
    answer["history"] = record.history.iter().map(|&(at, speed)| json!([at, speed.round()])).collect();
    Ok(Json(answer))
}

impl Record {
    fn new(at_ms: u64, place: Point, vehicle: &str) -> Self {
        // Not all of them were charged at the same time.
        let battery = 55.0 + f64::from(vehicle.bytes().fold(0_u8, u8::wrapping_add) % 40);
        Self { at_ms, place, speed: 0.0, driven: 0.0, battery, history: VecDeque::with_capacity(HISTORY) }
    }

    fn observe(&mut self, at_ms: u64, place: Point, metres_per_unit: f64) {
        let Some(passed) = at_ms.checked_sub(self.at_ms).filter(|passed| *passed > 0) else { return };
        let (metres, seconds) = (self.place.distance(place) * metres_per_unit, passed as f64 / 1000.0);
        (self.at_ms, self.place) = (at_ms, place);
        let speed = metres / seconds * 3.6;
        if speed <= FASTEST {
            // Positions are rounded and reports come at uneven times, so half of what was is kept.
            self.speed = if speed < 0.5 { 0.0 } else { f64::midpoint(self.speed, speed) };
            self.driven += metres;
        }
        // 2 % a kilometre; at rest somebody plugs it in.
        let change = if self.speed == 0.0 { seconds * 0.05 } else { metres * -0.002 };
        self.battery = (self.battery + change).clamp(3.0, 100.0);
        let second = at_ms / 1000;
        if self.history.back().is_none_or(|(last, _)| *last < second) {
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back((second, self.speed));
        }
    }

    fn summary(&self) -> Value {
        json!({
            "speed_kmh": self.speed.round(),
            "driven_m": self.driven.round(),
            "battery_percent": self.battery.round(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_way_follow_from_positions() {
        let mut record = Record::new(0, Point { x: 0.0, y: 0.0 }, "heron");
        // 5 units of 2 m in a second.
        for second in 1..=20 {
            record.observe(second * 1000, Point { x: 5.0 * second as f64, y: 0.0 }, 2.0);
        }
        assert!((record.speed - 36.0).abs() < 0.1, "{}", record.speed);
        assert!((record.driven - 200.0).abs() < 0.1, "{}", record.driven);
        assert_eq!(record.history.len(), 20);
        record.observe(21_000, record.place, 2.0);
        assert!(record.speed < 0.1, "who stands has no speed at once");
    }

    #[test]
    fn nonsense_is_no_speed_and_history_is_bounded() {
        let mut record = Record::new(5_000, Point { x: 0.0, y: 0.0 }, "heron");
        record.observe(5_000, Point { x: 9.0, y: 0.0 }, 3.0);
        record.observe(4_000, Point { x: 9.0, y: 0.0 }, 3.0);
        record.observe(6_000, Point { x: 900.0, y: 0.0 }, 3.0);
        assert!(record.speed < 0.1 && record.driven < 0.1, "{record:?}");
        for second in 7..1_000 {
            record.observe(second * 1000, record.place, 3.0);
        }
        assert_eq!(record.history.len(), HISTORY);
        assert!(record.battery <= 100.0);
    }
}
