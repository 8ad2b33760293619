//! Predicates over a request's head.

/// How a route looks at the path.
#[derive(Clone, Debug)]
pub struct UriMatch;

/// Everything else a route asks of a request.
#[derive(Clone, Debug)]
pub struct Predicates;
