//! The area that the vehicles drive in: an invented town by a bay, its crossings and roads.
//!
//! `page/area.json` is the one description of it; the page draws what the simulator drives on. A road leads through its
//! crossings as a Catmull-Rom spline.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

/// The description, as the page gets it.
pub(crate) const DESCRIPTION: &str = include_str!("page/area.json");

static AREA: LazyLock<Area> =
    LazyLock::new(|| Area::parse(DESCRIPTION).unwrap_or_else(|error| panic!("page/area.json: {error}")));

/// Straight pieces that a curve between two crossings is cut into.
const PIECES: usize = 12;

/// A place, in units of the map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub x: f64,
    pub y: f64,
}

/// The way from one crossing to the next. There is one for each direction.
#[derive(Debug)]
pub(crate) struct Leg {
    pub to: usize,
    pub road: String,
    pub class: Class,
    line: Vec<Point>,
    /// How far each point of the line is from its beginning, in metres.
    along: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    Highway,
    Main,
    Street,
}

#[derive(Debug)]
pub(crate) struct Area {
    pub metres_per_unit: f64,
    legs: Vec<Leg>,
    /// By crossing: the legs that begin there.
    leaving: Vec<Vec<usize>>,
    /// By crossing: whether it is on the map, and not where a road leaves it.
    inside: Vec<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    width: f64,
    height: f64,
    meters_per_unit: f64,
    crossings: BTreeMap<String, (f64, f64)>,
    roads: Vec<Road>,
}

#[derive(Deserialize)]
struct Road {
    name: String,
    class: Class,
    along: Vec<String>,
}

impl Class {
    /// The speed that is driven there, in m/s.
    pub(crate) fn speed(self) -> f64 {
        let kmh = match self {
            Self::Highway => 90.0,
            Self::Main => 50.0,
            Self::Street => 30.0,
        };
        kmh / 3.6
    }
}

impl Point {
    pub(crate) fn distance(self, other: Self) -> f64 {
        (self.x - other.x).hypot(self.y - other.y)
    }

    fn towards(self, other: Self, part: f64) -> Self {
        Self { x: self.x + (other.x - self.x) * part, y: self.y + (other.y - self.y) * part }
    }
}

impl Leg {
    /// In metres.
    pub(crate) fn length(&self) -> f64 {
        self.along.last().copied().unwrap_or_default()
    }

    /// Where one is after so many metres, and which way one looks, in degrees clockwise from east.
    pub(crate) fn at(&self, metres: f64) -> (Point, f64) {
        let after = self.along.partition_point(|along| *along <= metres).clamp(1, self.line.len() - 1);
        let (from, to) = (self.line[after - 1], self.line[after]);
        let length = self.along[after] - self.along[after - 1];
        let part = if length > 0.0 { ((metres - self.along[after - 1]) / length).clamp(0.0, 1.0) } else { 0.0 };
        (from.towards(to, part), (to.y - from.y).atan2(to.x - from.x).to_degrees())
    }

    fn new(to: usize, road: &Road, line: Vec<Point>, metres_per_unit: f64) -> Self {
        let mut along = vec![0.0];
        for pair in line.windows(2) {
            along.push(along[along.len() - 1] + pair[0].distance(pair[1]) * metres_per_unit);
        }
        Self { to, road: road.name.clone(), class: road.class, line, along }
    }
}

impl Area {
    pub(crate) fn get() -> &'static Self {
        &AREA
    }

    pub(crate) fn crossings(&self) -> usize {
        self.leaving.len()
    }

    /// Whether one can stop there.
    pub(crate) fn is_inside(&self, crossing: usize) -> bool {
        self.inside[crossing]
    }

    pub(crate) fn leg(&self, leg: usize) -> &Leg {
        &self.legs[leg]
    }

    /// A leg that begins at the crossing and stays on the map.
    pub(crate) fn leg_from(&self, crossing: usize) -> usize {
        let leaving = &self.leaving[crossing];
        *leaving.iter().find(|leg| self.inside[self.legs[**leg].to]).unwrap_or(&leaving[0])
    }

    /// The legs of the quickest way, by Dijkstra's algorithm; empty when one is there.
    pub(crate) fn way(&self, from: usize, to: usize) -> Vec<usize> {
        let mut best: Vec<(f64, Option<usize>)> = vec![(f64::INFINITY, None); self.crossings()];
        best[from].0 = 0.0;
        let mut open: Vec<usize> = (0..self.crossings()).collect();
        let mut came_from = HashMap::new();
        while let Some(place) = (0..open.len()).min_by(|a, b| best[open[*a]].0.total_cmp(&best[open[*b]].0)) {
            let crossing = open.swap_remove(place);
            for &leg in &self.leaving[crossing] {
                let Leg { to: next, class, .. } = self.legs[leg];
                let time = best[crossing].0 + self.legs[leg].length() / class.speed();
                if time < best[next].0 {
                    best[next] = (time, Some(leg));
                    came_from.insert(leg, crossing);
                }
            }
        }
        let (mut way, mut at) = (Vec::new(), to);
        while let (true, Some(leg)) = (at != from, best[at].1) {
            way.push(leg);
            at = came_from[&leg];
        }
        way.reverse();
        way
    }

    /// How far a place is from the nearest road, in metres.
    #[cfg(test)]
    pub(crate) fn off_road(&self, place: Point) -> f64 {
        let distance = |pair: &[Point]| {
            let (dx, dy) = (pair[1].x - pair[0].x, pair[1].y - pair[0].y);
            let part = ((place.x - pair[0].x) * dx + (place.y - pair[0].y) * dy) / (dx * dx + dy * dy);
            place.distance(pair[0].towards(pair[1], part.clamp(0.0, 1.0)))
        };
        let pieces = self.legs.iter().flat_map(|leg| leg.line.windows(2));
        pieces.map(distance).fold(f64::INFINITY, f64::min) * self.metres_per_unit
    }

    fn parse(text: &str) -> Result<Self, String> {
        let description: Description = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let names: Vec<&String> = description.crossings.keys().collect();
        let places: Vec<Point> = description.crossings.values().map(|&(x, y)| Point { x, y }).collect();
        let within = |point: &Point| {
            (0.0..=description.width).contains(&point.x) && (0.0..=description.height).contains(&point.y)
        };
        let mut area = Self {
            metres_per_unit: description.meters_per_unit,
            legs: Vec::new(),
            leaving: vec![Vec::new(); places.len()],
            inside: places.iter().map(within).collect(),
        };
        for road in &description.roads {
            let find = |name: &String| names.binary_search(&name).map_err(|_| format!("{}: no {name}", road.name));
            let through = road.along.iter().map(find).collect::<Result<Vec<usize>, String>>()?;
            for place in 1..through.len() {
                let point = |place: usize| places[through[place.min(through.len() - 1)]];
                let ends = [point(place.saturating_sub(2)), point(place - 1), point(place), point(place + 1)];
                let line = curve(ends);
                let back = line.iter().rev().copied().collect();
                area.add(through[place - 1], Leg::new(through[place], road, line, area.metres_per_unit));
                area.add(through[place], Leg::new(through[place - 1], road, back, area.metres_per_unit));
            }
        }
        match area.leaving.iter().position(Vec::is_empty) {
            Some(lonely) => Err(format!("no road leads to {}", names[lonely])),
            None => Ok(area),
        }
    }

    fn add(&mut self, from: usize, leg: Leg) {
        self.leaving[from].push(self.legs.len());
        self.legs.push(leg);
    }
}

/// The spline from the second of four points to the third, as Bézier curve and then as straight pieces. The page draws the
/// same (`splinePath` in app.js).
fn curve([before, from, to, after]: [Point; 4]) -> Vec<Point> {
    let first = Point { x: from.x + (to.x - before.x) / 6.0, y: from.y + (to.y - before.y) / 6.0 };
    let second = Point { x: to.x - (after.x - from.x) / 6.0, y: to.y - (after.y - from.y) / 6.0 };
    let at = |part: f64| {
        let (a, b, c) = (from.towards(first, part), first.towards(second, part), second.towards(to, part));
        a.towards(b, part).towards(b.towards(c, part), part)
    };
    (0..=PIECES).map(|piece| at(piece as f64 / PIECES as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crossing_is_reached_from_every_other() {
        let area = Area::get();
        for from in 0..area.crossings() {
            for to in 0..area.crossings() {
                let way = area.way(from, to);
                assert_eq!(way.is_empty(), from == to, "{from} to {to}");
                let mut at = from;
                for leg in way {
                    assert!(area.leaving[at].contains(&leg), "{from} to {to}: no jumps");
                    at = area.leg(leg).to;
                }
                assert_eq!(at, to);
            }
        }
    }

    #[test]
    fn the_quick_way_beats_the_short_one() {
        let area = Area::get();
        let time =
            |way: &[usize]| way.iter().map(|leg| area.leg(*leg).length() / area.leg(*leg).class.speed()).sum::<f64>();
        for from in 0..area.crossings() {
            for &leg in &area.leaving[from] {
                let to = area.leg(leg).to;
                assert!(time(&area.way(from, to)) <= time(&[leg]) + 1e-9);
            }
        }
    }

    #[test]
    fn a_leg_begins_and_ends_at_its_crossings_and_its_points_follow_each_other() {
        let area = Area::get();
        for from in 0..area.crossings() {
            for &leg in &area.leaving[from] {
                let leg = area.leg(leg);
                let back = area.leg(area.leaving[leg.to][0]);
                assert!(leg.at(leg.length()).0.distance(back.at(0.0).0) < 1e-6, "{}", leg.road);
                assert!(leg.length() > 30.0, "{}: {} m", leg.road, leg.length());
                assert!(leg.along.windows(2).all(|pair| pair[0] < pair[1]), "{}", leg.road);
                assert!(area.off_road(leg.at(leg.length() / 3.0).0) < 1e-6);
            }
        }
    }
}
