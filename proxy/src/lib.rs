//! How traffic moves: the data plane that gateway and sidecar share.
