//! How the vehicles drive: from place to place by the quickest way, slower in bends, with a rest where they deliver.
//!
//! Pure: a seed and steps of time make the same journeys again.

use fastrand::Rng;

use crate::area::{Area, Leg, Point};
use crate::vehicles::{self, Kind};

/// m/s².
const BRAKING: f64 = 2.5;
const ACCELERATION: f64 = 1.6;
/// m/s; the least that somebody drives who has not arrived.
const CRAWL: f64 = 1.5;
/// Seconds that a delivery takes.
const REST: std::ops::Range<f64> = 6.0..24.0;
/// A longer step than this, in seconds, is made of several.
const STEP: f64 = 0.25;

/// Where a vehicle is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Position {
    pub vehicle: &'static str,
    pub place: Point,
    /// In degrees clockwise from east, from -180 to 180.
    pub heading: f64,
    pub road: &'static str,
}

/// All vehicles on their ways.
#[derive(Debug)]
pub(crate) struct Simulation {
    random: Rng,
    drives: Vec<Drive>,
}

#[derive(Debug)]
struct Drive {
    vehicle: &'static str,
    kind: Kind,
    /// The leg it is on, and those that follow, the next one last.
    leg: usize,
    ahead: Vec<usize>,
    /// Metres from the beginning of the leg.
    along: f64,
    /// m/s.
    speed: f64,
    /// Seconds until it goes on.
    rest: f64,
}

impl Simulation {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let area = Area::get();
        let drives = vehicles::ALL
            .iter()
            .map(|vehicle| {
                let leg = area.leg_from(stop(area, &mut random));
                let along = random.f64() * area.leg(leg).length();
                let rest = random.f64() * 4.0;
                let (vehicle, kind) = (vehicle.id, vehicle.kind);
                Drive { vehicle, kind, leg, ahead: Vec::new(), along, speed: 0.0, rest }
            })
            .collect();
        Self { random, drives }
    }

    /// Lets so many seconds pass.
    pub(crate) fn advance(&mut self, seconds: f64) {
        let steps = (seconds / STEP).ceil().clamp(1.0, 10_000.0);
        for _ in 0..steps as u32 {
            for drive in &mut self.drives {
                drive.step(seconds / steps, &mut self.random);
            }
        }
    }

    pub(crate) fn positions(&self) -> Vec<Position> {
        self.drives.iter().map(Drive::position).collect()
    }
}

/// A crossing where a delivery may be.
fn stop(area: &Area, random: &mut Rng) -> usize {
    loop {
        let crossing = random.usize(..area.crossings());
        if area.is_inside(crossing) {
            return crossing;
        }
    }
}

impl Drive {
    fn position(&self) -> Position {
        let leg = Area::get().leg(self.leg);
        let (place, heading) = leg.at(self.along);
        Position { vehicle: self.vehicle, place, heading, road: &leg.road }
    }

    fn step(&mut self, seconds: f64, random: &mut Rng) {
        if self.rest > 0.0 {
            self.rest -= seconds;
            return;
        }
        let area = Area::get();
        let leg = area.leg(self.leg);
        // The way on starts at the end of the leg: nobody turns round in the middle of a road.
        if self.ahead.is_empty() && self.speed == 0.0 && self.along < leg.length() {
            self.plan(area, random);
        }
        self.speed = self.speed_after(area, leg, seconds);
        self.along += self.speed * seconds;
        if self.along < leg.length() {
            return;
        }
        match self.ahead.pop() {
            Some(next) => {
                self.along = (self.along - leg.length()).min(area.leg(next).length());
                self.leg = next;
            }
            None => self.arrive(area, random),
        }
    }

    fn plan(&mut self, area: &Area, random: &mut Rng) {
        let from = area.leg(self.leg).to;
        self.ahead = area.way(from, stop(area, random));
        self.ahead.reverse();
    }

    fn arrive(&mut self, area: &Area, random: &mut Rng) {
        self.along = area.leg(self.leg).length();
        self.speed = 0.0;
        self.rest = REST.start + random.f64() * (REST.end - REST.start);
        self.plan(area, random);
        if let Some(next) = self.ahead.pop() {
            (self.leg, self.along) = (next, 0.0);
        }
    }

    /// Towards the road's speed, but never so fast that the next bend or the end comes too soon.
    fn speed_after(&self, area: &Area, leg: &Leg, seconds: f64) -> f64 {
        let end = match self.ahead.last() {
            Some(next) => self.through_bend(leg, area.leg(*next)),
            None => 0.0,
        };
        let left = (leg.length() - self.along).max(0.0);
        let wanted = self.cruise(leg).min((end * end + 2.0 * BRAKING * left).sqrt()).max(CRAWL);
        wanted.min(self.speed + ACCELERATION * seconds)
    }

    fn cruise(&self, leg: &Leg) -> f64 {
        let speed = leg.class.speed();
        match self.kind {
            Kind::Truck => speed.min(80.0 / 3.6) * 0.9,
            Kind::Van => speed * 0.97,
            Kind::Car => speed,
        }
    }

    fn through_bend(&self, leg: &Leg, next: &Leg) -> f64 {
        let turn = (next.at(0.0).1 - leg.at(leg.length()).1).to_radians().cos();
        // All of the speed straight on, a walk to turn back.
        let part = f64::midpoint(1.0, turn).powi(2);
        let fastest = self.cruise(leg).min(self.cruise(next));
        (fastest * part).max(CRAWL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn everybody_gets_around() {
        let mut simulation = Simulation::new(1);
        let start = simulation.positions();
        let mut farthest = vec![0.0_f64; start.len()];
        for _ in 0..600 {
            simulation.advance(0.5);
            for ((now, then), far) in simulation.positions().iter().zip(&start).zip(&mut farthest) {
                *far = far.max(now.place.distance(then.place) * Area::get().metres_per_unit);
            }
        }
        assert!(farthest.iter().all(|metres| *metres > 200.0), "{farthest:?}");
    }

    #[test]
    fn everybody_rests_and_goes_on() {
        let mut simulation = Simulation::new(2);
        let mut rests = vec![0; simulation.drives.len()];
        for _ in 0..4_000 {
            let before: Vec<bool> = simulation.drives.iter().map(|drive| drive.rest > 0.0).collect();
            simulation.advance(0.25);
            for ((drive, resting), rests) in simulation.drives.iter().zip(before).zip(&mut rests) {
                *rests += u32::from(drive.rest > 0.0 && !resting);
            }
        }
        assert!(rests.iter().all(|rests| *rests >= 2), "{rests:?}");
    }

    #[test]
    fn one_seed_is_one_day() {
        let day = |seed| {
            let mut simulation = Simulation::new(seed);
            simulation.advance(120.0);
            simulation.positions()
        };
        assert_eq!(day(7), day(7));
        assert_ne!(day(7), day(8));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn nobody_leaves_the_road_or_drives_faster_than_it_allows(seed: u64, step in 0.05_f64..3.0) {
            let area = Area::get();
            let mut simulation = Simulation::new(seed);
            let mut before = simulation.positions();
            for _ in 0..60 {
                simulation.advance(step);
                let now = simulation.positions();
                for (now, before) in now.iter().zip(&before) {
                    let metres = now.place.distance(before.place) * area.metres_per_unit;
                    prop_assert!(metres <= 25.0 * step + 1e-6, "{}: {metres} m in {step} s", now.vehicle);
                    prop_assert!(area.off_road(now.place) < 0.01, "{} is at {:?}", now.vehicle, now.place);
                    prop_assert!((-180.0..=180.0).contains(&now.heading));
                }
                before = now;
            }
        }
    }
}
