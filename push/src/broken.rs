//! Connections that break, in words.

use std::error::Error;
use std::io::{self, ErrorKind};

/// How a stream broke: what lies deepest under its error, as what libraries say above is that a body could not be read.
/// `None` for an error without a cause, such as a status that the other side sent. `peer` is who that is.
pub(crate) fn describe(error: &dyn Error, peer: &str) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let h2 = cause.downcast_ref::<h2::Error>();
    if h2.is_some_and(|error| error.reason() == Some(h2::Reason::CANCEL)) {
        return Some(format!("{peer} ended the stream"));
    }
    let io = cause.downcast_ref().or_else(|| h2?.get_io());
    let gone = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    if io.is_some_and(|error: &io::Error| gone.contains(&error.kind())) {
        return Some(format!("{peer} is gone without a word"));
    }
    Some(format!("the connection broke: {cause}"))
}
