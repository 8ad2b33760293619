//! What a proxy tells about its traffic: response flags, metrics and the access log.

pub mod flags;
