//! What a sidecar that has come to rest holds of memory.
//!
//! To start, to join and to compile a set takes code by the megabyte that nobody needs until the next set. It stays
//! mapped, so that the process counts as several times as large as what it holds. At rest the sidecar takes the mapping
//! back: what it needs after all, a fault brings in from the kernel's cache of the file.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use rustix::time::{ClockId, clock_gettime};

/// How often it is looked whether there is anything to do.
const INTERVAL: Duration = Duration::from_secs(3);
/// A process that took no more CPU time within the interval is at rest.
const REST: Duration = Duration::from_millis(15);
/// What has to have been mapped meanwhile to be worth a look at all mappings.
const WORTH: u64 = 1024 * 1024;

/// Gives back what work has mapped, whenever the process comes to rest. Ends where the kernel does not tell of memory.
pub(crate) async fn keep_small() {
    let Err(error) = watch().await;
    tracing::debug!(%error, "cannot look at this process's memory, so what it has mapped stays");
}

async fn watch() -> io::Result<Infallible> {
    // What is mapped at rest, once that is known.
    let (mut last, mut least) = (cpu_time(), Some(0));
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = cpu_time();
        if now <= last + REST {
            let mapped = mapped()?;
            if mapped >= *least.get_or_insert(mapped) + WORTH {
                let bytes = tokio::task::spawn_blocking(give_back).await.map_err(io::Error::other)??;
                tracing::debug!(bytes, "gave back code and constants that were mapped");
                least = None;
            }
        }
        last = cpu_time();
    }
}

/// Of all threads, in user space and in the kernel.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How many bytes of files are mapped, by `/proc/self/statm` (proc_pid_statm(5)).
fn mapped() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = text.split(' ').nth(2).and_then(|pages| pages.parse().ok());
    let pages = pages.ok_or_else(|| io::Error::other(format!("unknown form of /proc/self/statm: {text:?}")))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Unmaps what files would bring back unchanged; the number of bytes that were mapped.
///
/// # Errors
/// The kernel does not tell of the mappings.
fn give_back() -> io::Result<u64> {
    let mut bytes = 0;
    for mapping in Mapping::list(&std::fs::read_to_string("/proc/self/smaps")?) {
        if !mapping.is_as_its_file() {
            continue;
        }
        #[allow(unsafe_code, reason = "the kernel is told of memory by its address")]
        // SAFETY: nobody can write to the mapping, and no page of it is another than the file's: whoever reads it, or
        // runs it, gets the same bytes as before.
        let given = unsafe { madvise(mapping.start as *mut _, mapping.end - mapping.start, Advice::LinuxDontNeed) };
        if given.is_ok() {
            bytes += mapping.resident;
        }
    }
    Ok(bytes)
}

/// An entry of `/proc/<pid>/smaps`, as proc_pid_smaps(5) has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mapping<'t> {
    start: usize,
    end: usize,
    permissions: &'t str,
    /// 0: there is no file.
    inode: u64,
    /// In bytes, and so `private`: the pages that are no more those of the file.
    resident: u64,
    private: u64,
}

impl<'t> Mapping<'t> {
    fn list(text: &'t str) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), found.last_mut()) {
                (Some("Rss:"), Some(mapping)) => mapping.resident = kilobytes(words.next()),
                (Some("Anonymous:"), Some(mapping)) => mapping.private = kilobytes(words.next()),
                (Some(first), _) if !first.ends_with(':') => found.extend(Self::head(first, words)),
                _ => {}
            }
        }
        found
    }

    /// `start-end permissions offset device inode path`
    fn head(range: &str, mut words: impl Iterator<Item = &'t str>) -> Option<Self> {
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let (start, end, permissions) = (address(start)?, address(end)?, words.next()?);
        Some(Self { start, end, permissions, inode: words.nth(2)?.parse().ok()?, ..Self::default() })
    }

    /// Code and constants, unless a debugger or the loader wrote to them.
    fn is_as_its_file(&self) -> bool {
        matches!(self.permissions, "r-xp" | "r--p") && self.inode != 0 && self.resident > 0 && self.private == 0
    }
}

fn kilobytes(word: Option<&str>) -> u64 {
    word.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_files_would_bring_back_is_given_back() {
        let text = "\
5500-5600 r--p 00000000 fe:00 42    /usr/bin/fairway-sidecar
Size:               1024 kB
Rss:                  64 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
5600-5800 r-xp 00100000 fe:00 42    /usr/bin/fairway-sidecar
Rss:                 512 kB
Anonymous:             0 kB
5800-5900 r--p 00300000 fe:00 42    /usr/bin/fairway-sidecar
Rss:                 512 kB
Anonymous:           440 kB
5900-5a00 rw-p 00400000 fe:00 42    /usr/bin/fairway-sidecar
Rss:                   8 kB
Anonymous:             0 kB
7000-7100 r-xp 00000000 00:00 0     [vdso]
Rss:                   8 kB
Anonymous:             0 kB
7200-7300 r-xp 00000000 fe:00 43    /usr/lib/libc.so.6
Rss:                   0 kB
Anonymous:             0 kB
";
        let mappings = Mapping::list(text);
        assert_eq!(mappings.len(), 6);
        let taken: Vec<_> = mappings.iter().filter(|mapping| mapping.is_as_its_file()).collect();
        let taken: Vec<_> = taken.iter().map(|mapping| (mapping.start, mapping.end, mapping.resident)).collect();
        assert_eq!(taken, [(0x5500, 0x5600, 65_536), (0x5600, 0x5800, 524_288)]);
    }

    #[test]
    fn a_process_goes_on_with_less() {
        let before = give_back().unwrap();
        assert!(before > 0);
        // What it needs came back, and only that.
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mapped = |mapping: &Mapping<'_>| if mapping.is_as_its_file() { mapping.resident } else { 0 };
        let after: u64 = Mapping::list(&smaps).iter().map(mapped).sum();
        assert!(0 < after && after < before, "{before} bytes before, {after} after");
    }
}
