//! staff-service: who drives a vehicle. Version 1 has a name and a licence; version 2 the shift and more.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::instance::Instance;
use crate::problem::Problem;
use crate::service::Version;
use crate::vehicles::{self, Vehicle};

const MINUTES_OF_A_SHIFT: u64 = 8 * 60;
const MINUTES_OF_A_DAY: u64 = 24 * 60;

pub(crate) fn router(instance: &Arc<Instance>) -> Router {
    let work = Router::new().route("/drivers/{vehicle}", get(driver)).with_state(instance.version);
    instance.serve(work, Router::new())
}

async fn driver(State(version): State<Version>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let vehicle = vehicles::find(&id).ok_or_else(|| Problem::not_found(format!("nobody drives {id}")))?;
    let minute = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60 % MINUTES_OF_A_DAY;
    Ok(Json(match version {
        Version::V1 => brief(vehicle),
        Version::V2 => full(vehicle, minute),
    }))
}

fn brief(vehicle: &Vehicle) -> Value {
    let driver = &vehicle.driver;
    let initial = driver.first.chars().next().unwrap_or_default();
    json!({"name": format!("{initial}. {}", driver.last), "licence": driver.licence})
}

/// `minute` of the day, in UTC.
fn full(vehicle: &Vehicle, minute: u64) -> Value {
    let driver = &vehicle.driver;
    let from = u64::from(driver.shift_from) * 60;
    let passed = (minute + MINUTES_OF_A_DAY - from) % MINUTES_OF_A_DAY;
    let clock = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let initials: String = [driver.first, driver.last].iter().filter_map(|name| name.chars().next()).collect();
    json!({
        "name": format!("{} {}", driver.first, driver.last),
        "initials": initials,
        "hue": (vehicle.hue + 120) % 360,
        "licence": driver.licence,
        "since": driver.since,
        "languages": driver.languages,
        "phone": format!("ext. {}{}", driver.since % 100, driver.first.len() + driver.last.len()),
        "shift": {
            "from": clock(from),
            "to": clock(from + MINUTES_OF_A_SHIFT),
            // Who drives outside the shift is called in.
            "minutes_left": MINUTES_OF_A_SHIFT.checked_sub(passed),
            "done_percent": (passed * 100 / MINUTES_OF_A_SHIFT).min(100),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vehicle_has_a_driver_in_both_versions() {
        for vehicle in &vehicles::ALL {
            let (brief, full) = (brief(vehicle), full(vehicle, 0));
            assert!(brief["name"].as_str().unwrap().starts_with(&full["initials"].as_str().unwrap()[..1]));
            assert_eq!(brief["licence"], full["licence"]);
            assert!(brief.get("shift").is_none());
        }
    }

    #[test]
    fn a_shift_goes_by_the_clock() {
        let heron = vehicles::find("heron").unwrap();
        let shift = |hour: u64| full(heron, hour * 60)["shift"].clone();
        assert_eq!(shift(6), json!({"from": "06:00", "to": "14:00", "minutes_left": 480, "done_percent": 0}));
        assert_eq!(shift(10)["done_percent"], 50);
        assert_eq!(shift(14)["minutes_left"], 0);
        assert_eq!((shift(3)["minutes_left"].clone(), shift(3)["done_percent"].clone()), (Value::Null, json!(100)));
    }
}
