//! The daemon's side of its workers: where they come from, and how they are watched and ended.
//!
//! A worker is a process that speaks frames over a socket. Where it comes from is one seam, [`Source`]: a child
//! that finds the socket as its standard input, or a socket-activated systemd unit to which we connect. The
//! protocol is the same, so nothing behind this module knows which it is. A worker gets no environment, no
//! descriptors but its socket, and holds no keys.
//!
//! INVARIANT: a worker never outlives its handle (`a_dropped_worker_is_gone`).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloister_wire::frame::{Channel, FrameError};

pub mod engine;
pub mod sandbox;

/// Where workers of one kind come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// An executable, run as a child.
    Child(PathBuf),
    /// A listening socket, behind which systemd starts a unit for each connection.
    Unit(PathBuf),
}

/// Where all workers come from, and how long they may be silent.
#[derive(Debug, Clone)]
pub struct Workers {
    /// `cloister-engine`.
    pub engine: Source,
    /// `cloister-sandbox`.
    pub sandbox: Source,
    /// The device for jobs that name none.
    pub device: String,
    /// Threads for computing on a CPU; 0 for all cores.
    pub threads: u32,
    /// A ping is sent so often.
    pub ping_interval: Duration,
    /// Silence for so long counts as hung.
    pub ping_timeout: Duration,
}

/// Why a worker could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It did not start.
    #[error("`{path}` did not start: {source}; check `workers` in cloister.toml")]
    Start {
        /// The executable or socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It died or hung; the work can be taken up again.
    #[error("the worker was lost: {0}")]
    Lost(String),
    /// It answered with something that makes no sense here.
    #[error("the worker answered out of turn: {0}")]
    OutOfTurn(String),
    /// It did what it could and says why that was not enough.
    #[error("{0}")]
    Refused(String),
}

impl From<FrameError> for WorkerError {
    fn from(error: FrameError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    child: Option<Child>,
    /// Its socket.
    pub channel: Channel,
}

impl Source {
    /// Starts a worker.
    pub fn start(&self) -> Result<Worker, WorkerError> {
        let (path, started) = match self {
            Self::Child(path) => (path, start_child(path)),
            Self::Unit(path) => {
                (path, UnixStream::connect(path).map(|stream| Worker { child: None, channel: Channel::new(stream) }))
            }
        };
        started.map_err(|source| WorkerError::Start { path: path.display().to_string(), source })
    }
}

fn start_child(path: &PathBuf) -> std::io::Result<Worker> {
    let (ours, theirs) = Channel::pair()?;
    let child = Command::new(path)
        .env_clear()
        // Read when libgomp is loaded. Threads that wait by spinning take the processor from those that compute:
        // on two busy cores training then runs at a tenth of its speed.
        .env("OMP_WAIT_POLICY", "passive")
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs.into_stream())))
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Worker { child: Some(child), channel: ours })
}

impl Worker {
    /// How it ended, in words; waits a moment for a child that is just dying.
    pub fn how_it_ended(&mut self) -> String {
        let Some(child) = &mut self.child else { return "its unit closed the connection".into() };
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return format!("it ended with {status}"),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                _ => return "it closed its socket".into(),
            }
        }
    }

    /// The child's process id, where it is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.channel.shutdown();
        if let Some(child) = &mut self.child {
            // Both fail only when it is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// When a worker was last heard of; shared by whoever reads from it and whoever watches it.
#[derive(Debug, Clone)]
pub struct Pulse {
    began: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// Heard of now.
    pub fn new() -> Self {
        Self { began: Instant::now(), last_ms: Arc::new(AtomicU64::new(0)) }
    }

    /// Heard of now.
    pub fn beat(&self) {
        self.last_ms.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Silent for so long.
    pub fn silence(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_worker_is_gone() {
        let worker = Source::Child("/bin/cat".into()).start().unwrap();
        let proc = PathBuf::from(format!("/proc/{}", worker.pid().unwrap()));
        assert!(proc.exists());
        drop(worker);
        assert!(!proc.exists());
    }

    #[test]
    fn a_worker_that_is_not_there_says_where_to_look() {
        let error = Source::Child("/nowhere/cloister-engine".into()).start().unwrap_err().to_string();
        assert!(error.contains("/nowhere/cloister-engine") && error.contains("cloister.toml"), "{error}");
    }
}
