//! photo-service: pictures of the vehicles, drawn as SVG. Version 1 is a line drawing; version 2 is in colour.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;

use crate::instance::Instance;
use crate::problem::Problem;
use crate::service::Version;
use crate::vehicles::{self, Kind, Vehicle};

/// What a vehicle looks like from its side, on the ground at y = 140.
struct Outline {
    body: &'static str,
    windows: &'static str,
    /// Lines of doors and edges.
    lines: &'static str,
    wheels: [u16; 2],
    /// Where the plate's text begins.
    letters: (u16, u16),
}

const VAN: Outline = Outline {
    body: "M52 140V70Q52 56 66 56H186Q202 56 212 68L236 98Q264 102 266 118V134Q266 140 260 140Z",
    windows: "M192 68H200Q206 68 210 73L229 98H192Z",
    lines: "M182 60V136M122 60V136M52 116H264",
    wheels: [96, 224],
    letters: (76, 100),
};
const TRUCK: Outline = Outline {
    body: "M36 132V46Q36 42 40 42H188Q192 42 192 46V132ZM198 140V68Q198 60 206 60H228Q238 60 242 68L256 102Q266 106 266 118V134\
           Q266 140 260 140ZM36 132H198V140H40Z",
    windows: "M206 72H226Q232 72 234 77L244 102H206Z",
    lines: "M36 116H192M198 116H264M74 42V116M114 42V116M154 42V116",
    wheels: [84, 228],
    letters: (88, 90),
};
const CAR: Outline = Outline {
    body: "M46 140Q42 112 60 106L92 99Q114 70 134 68H182Q204 68 228 98L254 103Q272 108 272 124V134Q272 140 266 140Z",
    windows: "M106 99Q122 78 136 77H154V99ZM162 77H180Q196 78 213 99H162Z",
    lines: "M158 77V136M48 118H270",
    wheels: [94, 226],
    letters: (118, 113),
};

pub(crate) fn router(instance: &Arc<Instance>) -> Router {
    let work = Router::new().route("/photos/{vehicle}", get(photo)).with_state(instance.version);
    instance.serve(work, Router::new())
}

async fn photo(State(version): State<Version>, Path(id): Path<String>) -> Result<Response, Problem> {
    let vehicle = vehicles::find(&id).ok_or_else(|| Problem::not_found(format!("there is no picture of {id}")))?;
    let svg = match version {
        Version::V1 => line_drawing(vehicle),
        Version::V2 => in_colour(vehicle),
    };
    Ok(([(CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}

fn outline(kind: Kind) -> &'static Outline {
    match kind {
        Kind::Van => &VAN,
        Kind::Truck => &TRUCK,
        Kind::Car => &CAR,
    }
}

fn framed(vehicle: &Vehicle, content: &str) -> String {
    let (id, kind) = (vehicle.id, vehicle.kind.name());
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 180" width="640" height="360"><title>The {kind} {id}</title>{content}</svg>"#
    )
}

fn line_drawing(vehicle: &Vehicle) -> String {
    let Outline { body, windows, lines, wheels, letters: (x, y) } = outline(vehicle.kind);
    let wheels = wheels
        .map(|x| format!(r##"<circle cx="{x}" cy="140" r="17" fill="#e9edf1"/><circle cx="{x}" cy="140" r="7"/>"##))
        .concat();
    let content = format!(
        r##"<rect width="320" height="180" fill="#e9edf1"/>
<path d="M0 36H320M0 72H320M0 108H320M0 144H320M40 0V180M80 0V180M120 0V180M160 0V180M200 0V180M240 0V180M280 0V180" stroke="#d8dfe6"/>
<g fill="none" stroke="#56697d" stroke-width="2" stroke-linejoin="round"><path d="M16 157H304"/><path d="{body}"/><path d="{windows}"/>
<path d="{lines}" stroke-width="1"/>{wheels}</g>
<text x="{x}" y="{y}" font-family="ui-monospace, monospace" font-size="12" fill="#56697d">{plate}</text>"##,
        plate = vehicle.plate,
    );
    framed(vehicle, &content)
}

fn in_colour(vehicle: &Vehicle) -> String {
    let Outline { body, windows, lines, wheels, letters: (x, y) } = outline(vehicle.kind);
    let hue = vehicle.hue;
    let wheels = wheels
        .map(|x| {
            format!(
                r##"<g transform="translate({x} 140)"><circle r="17" fill="#23282e"/><circle r="9" fill="#c9d0d6"/><circle r="3" fill="#6c757d"/></g>"##
            )
        })
        .concat();
    let content = format!(
        r##"<rect width="320" height="180" fill="#cfe3f1"/><circle cx="262" cy="40" r="17" fill="#fbeec2"/>
<path d="M0 118Q50 72 104 100T214 88T320 104V180H0Z" fill="#a9c8b4"/><path d="M0 134Q70 104 150 122T320 118V180H0Z" fill="#86b094"/>
<rect y="142" width="320" height="38" fill="#6f7880"/><path d="M0 166H320" stroke="#e8ebed" stroke-width="2" stroke-dasharray="18 14"/>
<ellipse cx="160" cy="156" rx="124" ry="5" fill="#000" opacity=".22"/>
<path d="{body}" fill="hsl({hue} 52% 46%)"/><path d="{lines}" fill="none" stroke="hsl({hue} 52% 34%)" stroke-width="1"/>
<path d="{windows}" fill="#dff0fa"/><rect x="258" y="112" width="8" height="8" rx="2" fill="#fff3c4"/>{wheels}
<text x="{x}" y="{y}" font-family="system-ui, sans-serif" font-weight="600" font-size="13" fill="#fff">{plate}</text>"##,
        plate = vehicle.plate,
    );
    framed(vehicle, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_differ_and_show_the_plate() {
        for vehicle in &vehicles::ALL {
            let (first, second) = (line_drawing(vehicle), in_colour(vehicle));
            assert_ne!(first, second);
            for svg in [first, second] {
                assert!(svg.contains(vehicle.plate) && svg.ends_with("</svg>"), "{svg}");
                assert_eq!(svg.matches('<').count(), svg.matches('>').count());
            }
        }
    }
}
