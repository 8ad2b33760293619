//! Response flags: why a reply is not simply the upstream's, in Envoy's two-letter words.

use std::fmt;

/// A set of response flags (access log `%RESPONSE_FLAGS%`, metric label `response_flags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags(u32);

/// Every flag with its text, in the order Envoy prints them.
const NAMES: [(ResponseFlags, &str); 19] = [
    (ResponseFlags::NO_HEALTHY_UPSTREAM, "UH"),
    (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "UF"),
    (ResponseFlags::UPSTREAM_OVERFLOW, "UO"),
    (ResponseFlags::NO_ROUTE, "NR"),
    (ResponseFlags::UPSTREAM_RETRY_LIMIT, "URX"),
    (ResponseFlags::NO_CLUSTER, "NC"),
    (ResponseFlags::DURATION_TIMEOUT, "DT"),
    (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "UT"),
    (ResponseFlags::LOCAL_RESET, "LR"),
    (ResponseFlags::UPSTREAM_REMOTE_RESET, "UR"),
    (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, "UC"),
    (ResponseFlags::DELAY_INJECTED, "DI"),
    (ResponseFlags::FAULT_INJECTED, "FI"),
    (ResponseFlags::RATE_LIMITED, "RL"),
    (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "DC"),
    (ResponseFlags::STREAM_IDLE_TIMEOUT, "SI"),
    (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "DPE"),
    (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "UPE"),
    (ResponseFlags::OVERLOAD, "OM"),
];

impl ResponseFlags {
    pub const NONE: Self = Self(0);
    /// UH: the cluster has no (healthy) endpoint.
    pub const NO_HEALTHY_UPSTREAM: Self = Self(1);
    /// UF: connecting to the upstream failed or took too long.
    pub const UPSTREAM_CONNECTION_FAILURE: Self = Self(1 << 1);
    /// UO: a limit of the cluster is reached.
    pub const UPSTREAM_OVERFLOW: Self = Self(1 << 2);
    /// NR: no virtual host or no route took the request.
    pub const NO_ROUTE: Self = Self(1 << 3);
    /// URX: the last try allowed failed too.
    pub const UPSTREAM_RETRY_LIMIT: Self = Self(1 << 4);
    /// NC: the route names a service or subset that does not exist.
    pub const NO_CLUSTER: Self = Self(1 << 5);
    /// DT: the stream lived longer than it may.
    pub const DURATION_TIMEOUT: Self = Self(1 << 6);
    /// UT: the route's timeout passed before the response was complete.
    pub const UPSTREAM_REQUEST_TIMEOUT: Self = Self(1 << 7);
    /// LR: the proxy reset the upstream stream.
    pub const LOCAL_RESET: Self = Self(1 << 8);
    /// UR: the upstream reset the stream.
    pub const UPSTREAM_REMOTE_RESET: Self = Self(1 << 9);
    /// UC: the upstream closed the connection before the response was complete.
    pub const UPSTREAM_CONNECTION_TERMINATION: Self = Self(1 << 10);
    /// DC: the client went away.
    pub const DOWNSTREAM_CONNECTION_TERMINATION: Self = Self(1 << 11);
    /// SI: nothing moved for longer than the idle limit.
    pub const STREAM_IDLE_TIMEOUT: Self = Self(1 << 12);
    /// DPE: the client broke the protocol.
    pub const DOWNSTREAM_PROTOCOL_ERROR: Self = Self(1 << 13);
    /// UPE: the upstream broke the protocol.
    pub const UPSTREAM_PROTOCOL_ERROR: Self = Self(1 << 14);
    /// OM: the proxy is at a limit of its own.
    pub const OVERLOAD: Self = Self(1 << 15);
    /// DI: the request was delayed on purpose.
    pub const DELAY_INJECTED: Self = Self(1 << 16);
    /// FI: the request was aborted on purpose.
    pub const FAULT_INJECTED: Self = Self(1 << 17);
    /// RL: the request is over a rate limit.
    pub const RATE_LIMITED: Self = Self(1 << 18);

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub fn bits(self) -> u32 {
        self.0
    }

    /// Appends the flags joined by commas, `-` for none, as logs and labels show them.
    pub fn append_to(self, out: &mut Vec<u8>) {
        if self.is_empty() {
            out.push(b'-');
            return;
        }
        let start = out.len();
        for (_, name) in NAMES.iter().filter(|(flag, _)| self.contains(*flag)) {
            if out.len() > start {
                out.push(b',');
            }
            out.extend_from_slice(name.as_bytes());
        }
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let set = NAMES.iter().filter(|(flag, _)| self.contains(*flag));
        for (position, (_, name)) in set.enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_envoy_writes_them() {
        let both = ResponseFlags::UPSTREAM_RETRY_LIMIT | ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        for (flags, text) in [
            (ResponseFlags::NONE, "-"),
            (ResponseFlags::NO_ROUTE, "NR"),
            (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "DPE"),
            (both, "UF,URX"),
        ] {
            let mut out = Vec::new();
            flags.append_to(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(flags.to_string(), text);
        }
    }

    #[test]
    fn every_flag_has_a_bit_and_a_text_of_its_own() {
        for (index, (flag, name)) in NAMES.iter().enumerate() {
            assert_eq!(flag.bits().count_ones(), 1, "{name}");
            let others = NAMES.iter().enumerate().filter(|(other, _)| *other != index);
            assert!(others.clone().all(|(_, (other, text))| other != flag && text != name), "{name}");
        }
    }
}
