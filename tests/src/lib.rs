//! What the end-to-end tests stand on: Fairway processes, origin servers, and waiting for conditions.

pub mod api;
pub mod certificates;
pub mod demo;
pub mod kubectl;
pub mod origin;
pub mod process;
pub mod python;
pub mod relay;
pub mod resources;

pub use api::Api;
pub use certificates::Authority;
pub use demo::Demo;
pub use kubectl::Kubectl;
pub use origin::Origin;
pub use process::{Fairway, Start};
pub use relay::Relay;
pub use resources::Resources;
pub use testkit::eventually;
