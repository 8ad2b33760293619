//! Processes that are parts of a demo: they end with the one that started them, however it ends.

use std::ffi::OsString;
use std::io;

/// What their command lines begin with.
pub(super) const WORD: &str = "demo-part";

/// Takes the word off a command line that begins with it, and ends this process when its standard input is closed: it is
/// a pipe, and the system closes its other end with the process that holds it.
pub(crate) fn as_part(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| word == WORD) {
        words.remove(1);
        std::thread::spawn(|| {
            // What is written there means nothing; an error ends it as well.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            eprintln!("ending: what started this process is gone");
            std::process::exit(1);
        });
    }
    words
}
