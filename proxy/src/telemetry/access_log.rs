//! The access log's way out: bounded, lossy, and never waited for by a worker.
//!
//! A worker encodes its lines into a buffer of its own; a writer thread takes the buffers over and writes them. When
//! the reader of the log is too slow and a buffer is full, lines are dropped and counted.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::log_line::LogEntry;
use super::metrics::Metrics;
use crate::options::AccessLogFormat;

/// Bytes of lines that wait for the writer, per worker.
const CAPACITY: usize = 1024 * 1024;

/// How long the writer lets lines gather before it takes them.
const GATHER: Duration = Duration::from_millis(10);

/// How long an ending process waits for the last lines to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The access log of a process. Dropping it writes what is there, waiting for a second at most.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessLogFormat,
    shared: Arc<Shared>,
    finished: mpsc::Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    buffers: Mutex<Vec<Arc<Buffer>>>,
    /// The writer was told that there are lines and has not looked yet.
    told: AtomicBool,
    ending: AtomicBool,
    dropped: Arc<AtomicU64>,
    writer: Mutex<Option<thread::Thread>>,
}

#[derive(Debug, Default)]
struct Buffer(Mutex<Vec<u8>>);

/// A worker's end of the log.
#[derive(Debug)]
pub struct AccessLogger {
    format: AccessLogFormat,
    shared: Arc<Shared>,
    buffer: Arc<Buffer>,
    scratch: std::cell::RefCell<Vec<u8>>,
}

impl AccessLog {
    /// Starts the writer thread; `None` with [`AccessLogFormat::Off`].
    pub fn start(
        format: AccessLogFormat,
        sink: Box<dyn Write + Send>,
        metrics: &Metrics,
    ) -> std::io::Result<Option<Self>> {
        if format == AccessLogFormat::Off {
            return Ok(None);
        }
        let shared = Arc::new(Shared {
            buffers: Mutex::default(),
            told: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            dropped: metrics.log_dropped(),
            writer: Mutex::default(),
        });
        let (done, finished) = mpsc::channel();
        let for_writer = Arc::clone(&shared);
        let writer = thread::Builder::new().name("access-log".into()).spawn(move || {
            for_writer.write(sink);
            drop(done);
        })?;
        *shared.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer.thread().clone());
        Ok(Some(Self { format, shared, finished }))
    }

    /// A new worker's end.
    pub fn logger(&self) -> AccessLogger {
        let buffer = Arc::<Buffer>::default();
        self.shared.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&buffer));
        AccessLogger {
            format: self.format,
            shared: Arc::clone(&self.shared),
            buffer,
            scratch: std::cell::RefCell::default(),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.wake();
        // The writer never sends; its end hangs up. One that is stuck in a write is left behind.
        let (Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) =
            self.finished.recv_timeout(LAST_WORDS);
    }
}

impl AccessLogger {
    /// Logs a finished request, or drops and counts the line if too many wait.
    pub fn log(&self, entry: &LogEntry<'_>) {
        let mut line = self.scratch.borrow_mut();
        line.clear();
        match self.format {
            AccessLogFormat::Json => entry.append_json(&mut line),
            AccessLogFormat::Text | AccessLogFormat::Off => entry.append_text(&mut line),
        }
        let mut buffer = self.buffer.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() + line.len() > CAPACITY {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        buffer.extend_from_slice(&line);
        drop(buffer);
        if !self.shared.told.swap(true, Ordering::AcqRel) {
            self.shared.wake();
        }
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(writer) = &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            writer.unpark();
        }
    }

    /// The writer thread's life.
    fn write(&self, mut sink: Box<dyn Write + Send>) {
        let mut taken = Vec::new();
        loop {
            let ending = self.ending.load(Ordering::Acquire);
            self.told.store(false, Ordering::Release);
            let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut wrote = false;
            for buffer in &buffers {
                taken.clear();
                std::mem::swap(&mut taken, &mut *buffer.0.lock().unwrap_or_else(PoisonError::into_inner));
                if taken.is_empty() {
                    continue;
                }
                wrote = true;
                if sink.write_all(&taken).and_then(|()| sink.flush()).is_err() {
                    // A closed pipe or a full disk; the next lines may fare better.
                    let lost = memchr::memchr_iter(b'\n', &taken).count();
                    self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
                }
            }
            drop(buffers);
            self.forget_ended_workers();
            match (ending, wrote) {
                (true, _) => return,
                // Under load lines come by the thousand: let them gather, and workers need not wake anybody.
                (false, true) => thread::park_timeout(GATHER),
                (false, false) => {
                    if !self.told.load(Ordering::Acquire) && !self.ending.load(Ordering::Acquire) {
                        thread::park();
                    }
                }
            }
        }
    }

    /// Drops the empty buffers that only this list still knows.
    fn forget_ended_workers(&self) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.retain(|buffer| {
            Arc::strong_count(buffer) > 1 || !buffer.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Instant, SystemTime};

    use http::{StatusCode, Version};

    use super::super::flags::ResponseFlags;
    use super::super::log_line::LogHead;
    use super::*;
    use crate::http::facts::ConnectionFacts;
    use crate::options::ProxyIdentity;

    fn log(logger: &AccessLogger, route_name: &str) {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        logger.log(&LogEntry {
            head: &LogHead::unread(SystemTime::now(), Version::HTTP_11),
            connection: &ConnectionFacts { peer: address, local: address, tls: None },
            client: address,
            status: Some(StatusCode::OK),
            flags: ResponseFlags::NONE,
            details: None,
            termination: None,
            transport_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            upstream_service_time: None,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local: None,
            route_name,
            grpc_status: None,
        });
    }

    #[derive(Clone, Default)]
    struct Sink {
        written: Arc<Mutex<Vec<u8>>>,
        blocked: Arc<Mutex<()>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _held = self.blocked.lock().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn start(sink: &Sink) -> (Arc<Metrics>, AccessLog) {
        let metrics = Metrics::new(ProxyIdentity::default());
        let log = AccessLog::start(AccessLogFormat::Text, Box::new(sink.clone()), &metrics).unwrap().unwrap();
        (metrics, log)
    }

    #[test]
    fn every_line_of_every_worker_is_written_in_the_workers_order() {
        let sink = Sink::default();
        let (metrics, log_) = start(&sink);
        thread::scope(|scope| {
            for worker in 0..3 {
                let logger = log_.logger();
                scope.spawn(move || (0..500).for_each(|line| log(&logger, &format!("w{worker}.{line}"))));
            }
        });
        drop(log_);
        let written = String::from_utf8(sink.written.lock().unwrap().clone()).unwrap();
        for worker in 0..3 {
            let prefix = format!("w{worker}.");
            let own: Vec<usize> = written
                .lines()
                .filter_map(|line| line.rsplit(' ').next()?.strip_prefix(&prefix)?.parse().ok())
                .collect();
            assert_eq!(own, (0..500).collect::<Vec<_>>());
        }
        assert_eq!(metrics.log_dropped().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_line_appears_without_waiting_for_another() {
        let sink = Sink::default();
        let (_metrics, log_) = start(&sink);
        let logger = log_.logger();
        for round in 1..=3 {
            log(&logger, "r");
            let deadline = Instant::now() + Duration::from_secs(5);
            while memchr::memchr_iter(b'\n', &sink.written.lock().unwrap()).count() < round {
                assert!(Instant::now() < deadline, "line {round} was never written");
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_but_no_memory_and_no_time() {
        let sink = Sink::default();
        let (metrics, log_) = start(&sink);
        let logger = log_.logger();
        let name = "n".repeat(1000);
        let stuck = sink.blocked.lock().unwrap();
        for _ in 0..10_000 {
            log(&logger, &name);
        }
        assert!(logger.buffer.0.lock().unwrap().len() <= CAPACITY);
        drop(stuck);
        drop(log_);
        let written = memchr::memchr_iter(b'\n', &sink.written.lock().unwrap()).count() as u64;
        let dropped = metrics.log_dropped().load(Ordering::Relaxed);
        assert!(dropped > 0);
        assert_eq!(written + dropped, 10_000);
    }
}
