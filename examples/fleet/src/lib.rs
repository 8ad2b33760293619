//! The demo application: a company tracks its vehicles with seven services, which call each other by name.
//!
//! Each is a process of its own (`fleet webapp --listen …`), or they run together in one (`fleet all`): [`run`].
//!
//! ```text
//! browser ─► webapp ─► api-gateway ─► position-tracker ◄─ position-simulator
//!                          │               └─► vehicle-telemetry
//!                          ├─► staff-service v1, v2
//!                          ├─► photo-service v1, v2
//!                          └─► vehicle-telemetry
//! ```

mod api_gateway;
mod area;
mod args;
mod fault;
mod fleet;
mod instance;
mod peers;
mod photo;
mod position_simulator;
mod position_tracker;
mod problem;
mod service;
mod simulation;
mod staff;
mod telemetry;
mod trace;
mod vehicles;
mod webapp;

pub use args::{Args, run};
pub use service::{Service, Version};

/// The namespace of the services.
pub const NAMESPACE: &str = "fleet";

/// The resources that lead to the services, as they are applied: documents of YAML, one file each.
pub const RESOURCES: [&str; 4] = [
    include_str!("../gateway.yaml"),
    include_str!("../services.yaml"),
    include_str!("../routes.yaml"),
    include_str!("../policies.yaml"),
];
