//! position-simulator: drives the vehicles, and tells position-tracker where they are, twice a second.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tracing::debug;

use crate::fault::Fate;
use crate::instance::Instance;
use crate::peers::Peers;
use crate::service::Service;
use crate::simulation::Simulation;
use crate::trace::Trace;

const EVERY: Duration = Duration::from_millis(500);
/// After a pause longer than this nobody is where they would have been.
const LONGEST_STEP: Duration = Duration::from_secs(5);

pub(crate) fn router(instance: &Arc<Instance>) -> Router {
    instance.serve(Router::new(), Router::new())
}

/// Drives until it is dropped. Its failure switches make reports late, wrong or none.
pub(crate) async fn drive(instance: Arc<Instance>, peers: Peers) {
    let mut simulation = Simulation::new(fastrand::u64(..));
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        simulation.advance(last.elapsed().min(LONGEST_STEP).as_secs_f64());
        last = Instant::now();
        let report = report(&simulation);
        if instance.fault().strike().await == Fate::Failed {
            continue;
        }
        // PUT: a report that arrives twice does no harm, so proxies may try again.
        let trace = Trace::new();
        match peers.call(Service::PositionTracker, Method::PUT, "/positions", Some(report), &trace).await {
            Ok(answer) if answer.status.is_success() => {}
            Ok(answer) => debug!(status = answer.status.as_u16(), "position-tracker did not take the positions"),
            Err(error) => debug!(%error, "position-tracker did not take the positions"),
        }
    }
}

fn report(simulation: &Simulation) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let tenths = |value: f64| (value * 100.0).round() / 100.0;
    let positions: Vec<_> = simulation
        .positions()
        .iter()
        .map(|position| {
            json!({
                "vehicle": position.vehicle,
                "x": tenths(position.place.x),
                "y": tenths(position.place.y),
                "heading": position.heading.round(),
                "road": position.road,
            })
        })
        .collect();
    json!({"at_ms": now.as_millis() as u64, "positions": positions}).to_string().into()
}
