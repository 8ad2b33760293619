//! The Date header, formatted once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

thread_local! {
    static NOW: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Appends the current time as RFC 9110 section 5.6.7 writes it.
pub(super) fn append(out: &mut Vec<u8>) {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    NOW.with_borrow_mut(|(cached, text)| {
        if *cached != second {
            *cached = second;
            text.clear();
            let written = Timestamp::from_second(second as i64)
                .and_then(|now| DateTimePrinter::new().print_timestamp_rfc9110(&now, &mut *text));
            if written.is_err() {
                // A clock beyond the calendar: the epoch is as wrong, but well-formed.
                "Thu, 01 Jan 1970 00:00:00 GMT".clone_into(text);
            }
        }
        out.extend_from_slice(text.as_bytes());
    });
}
