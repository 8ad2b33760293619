//! The services of the application, and which versions of them there are.

use std::fmt;
use std::str::FromStr;

/// One of the seven services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    Webapp,
    ApiGateway,
    PositionTracker,
    PositionSimulator,
    StaffService,
    PhotoService,
    VehicleTelemetry,
}

/// The version of a service. Of most there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    #[default]
    V1,
    V2,
}

impl Service {
    pub const ALL: [Self; 7] = [
        Self::Webapp,
        Self::ApiGateway,
        Self::PositionTracker,
        Self::PositionSimulator,
        Self::StaffService,
        Self::PhotoService,
        Self::VehicleTelemetry,
    ];

    /// The name by which others call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Webapp => "webapp",
            Self::ApiGateway => "api-gateway",
            Self::PositionTracker => "position-tracker",
            Self::PositionSimulator => "position-simulator",
            Self::StaffService => "staff-service",
            Self::PhotoService => "photo-service",
            Self::VehicleTelemetry => "vehicle-telemetry",
        }
    }

    pub fn versions(self) -> &'static [Version] {
        match self {
            Self::StaffService | Self::PhotoService => &[Version::V1, Version::V2],
            _ => &[Version::V1],
        }
    }

    /// Whom it calls.
    pub fn calls(self) -> &'static [Self] {
        match self {
            Self::Webapp => &[Self::ApiGateway],
            Self::ApiGateway => &[
                Self::PositionTracker,
                Self::PositionSimulator,
                Self::StaffService,
                Self::PhotoService,
                Self::VehicleTelemetry,
            ],
            Self::PositionTracker => &[Self::VehicleTelemetry],
            Self::PositionSimulator => &[Self::PositionTracker],
            Self::StaffService | Self::PhotoService | Self::VehicleTelemetry => &[],
        }
    }

    /// Where it listens unless told otherwise.
    pub fn default_port(self, version: Version) -> u16 {
        let place = Self::ALL.iter().position(|service| *service == self).map_or(0, |place| place as u16);
        match version {
            Version::V1 => 9101 + place,
            Version::V2 => 9111 + place,
        }
    }

    /// Every service in every version.
    pub fn instances() -> impl Iterator<Item = (Self, Version)> {
        Self::ALL.into_iter().flat_map(|service| service.versions().iter().map(move |version| (service, *version)))
    }
}

impl Version {
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == text)
            .ok_or_else(|| format!("there is no such service; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::V1, Self::V2].into_iter().find(|version| version.name() == text).ok_or("it is v1 or v2".to_owned())
    }
}
