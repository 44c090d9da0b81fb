//! One task in one `cloister-engine`: open a base, send the input, read what comes back.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use cloister_wire::engine::{Failure, FilePiece, FromEngine, ModelInfo, Open, RecordSet, ToEngine};
use cloister_wire::frame::{CHUNK, Channel, Frame};
use cloister_wire::recipe::Quantization;

use super::{Pulse, Worker, WorkerError, Workers};

/// Frames that may not be mixed up with others' are sent under this lock.
type Sender = Arc<Mutex<Channel>>;

/// An engine with an open base.
#[derive(Debug)]
pub struct Engine {
    worker: Worker,
    remote: Remote,
    pulse: Pulse,
    watcher: Option<JoinHandle<()>>,
}

/// Sends to an engine from another thread; silent when the engine is gone, since its reader will say so.
#[derive(Debug, Clone)]
pub struct Remote {
    sender: Sender,
    /// Shuts the connection down without waiting for a sender that is stuck.
    closer: Arc<Channel>,
}

impl Remote {
    /// Sends one message.
    pub fn send(&self, message: &ToEngine) -> Result<(), WorkerError> {
        send(&self.sender, message, &[])
    }

    /// Ends the connection: the engine's reader returns with `Lost`.
    pub fn hang_up(&self) {
        self.closer.shutdown();
    }

    /// Sends a whole file, in pieces.
    pub fn send_file(&self, name: &str, mut content: impl Read) -> Result<(), WorkerError> {
        let mut piece = read_chunk(&mut content)?;
        loop {
            let next = if piece.len() < CHUNK { Vec::new() } else { read_chunk(&mut content)? };
            let last = next.is_empty();
            send(&self.sender, &ToEngine::File(FilePiece { name: name.into(), last }), &piece)?;
            if last {
                return Ok(());
            }
            piece = next;
        }
    }
}

fn send(sender: &Sender, message: &ToEngine, blob: &[u8]) -> Result<(), WorkerError> {
    let mut channel = sender.lock().map_err(|_| WorkerError::Lost("a thread that was sending panicked".into()))?;
    Ok(channel.send_with(message, blob, &[])?)
}

fn read_chunk(content: &mut impl Read) -> Result<Vec<u8>, WorkerError> {
    let mut bytes = Vec::new();
    let read = content.by_ref().take(CHUNK as u64).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| WorkerError::Refused(format!("a sealed object does not open: {error}")))
}

impl Engine {
    /// Starts an engine and hands it the base's files; it loads them when a task is named.
    pub fn open(
        workers: &Workers,
        files: &[(String, File)],
        device: &str,
        quantization: Quantization,
    ) -> Result<Self, WorkerError> {
        let mut worker = workers.engine.start()?;
        let open = Open {
            files: files.iter().map(|(name, _)| name.clone()).collect(),
            device: if device == "auto" { workers.device.clone() } else { device.into() },
            quantization,
            threads: workers.threads,
        };
        let descriptors: Vec<_> = files.iter().map(|(_, file)| file.as_fd()).collect();
        worker.channel.send_with(&ToEngine::Open(open), &[], &descriptors)?;
        let clone = || worker.channel.try_clone().map_err(|error| WorkerError::Lost(error.to_string()));
        let remote = Remote { sender: Arc::new(Mutex::new(clone()?)), closer: Arc::new(clone()?) };
        let pulse = Pulse::new();
        let watcher = watch(remote.clone(), pulse.clone(), workers.ping_interval, workers.ping_timeout);
        Ok(Self { worker, remote, pulse, watcher: Some(watcher) })
    }

    /// A handle for sending from elsewhere.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Sends one message.
    pub fn send(&self, message: &ToEngine) -> Result<(), WorkerError> {
        self.remote.send(message)
    }

    /// Sends records, JSON Lines, cut at line ends.
    pub fn send_records(&self, set: RecordSet, mut content: impl Read) -> Result<(), WorkerError> {
        let mut pending = Vec::new();
        loop {
            let chunk = read_chunk(&mut content)?;
            let ended = chunk.is_empty();
            pending.extend_from_slice(&chunk);
            let cut =
                if ended { pending.len() } else { pending.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) };
            if cut > 0 {
                send(&self.remote.sender, &ToEngine::Records { set }, &pending[..cut])?;
                pending.drain(..cut);
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// The next message that is no answer to a ping.
    pub fn recv(&mut self) -> Result<(FromEngine, Vec<u8>), WorkerError> {
        loop {
            let Ok(Some(Frame { message, blob, .. })) = self.worker.channel.recv::<FromEngine>() else {
                return Err(WorkerError::Lost(self.why_lost()));
            };
            self.pulse.beat();
            match message {
                FromEngine::Pong { .. } => {}
                FromEngine::Failed(Failure { message, .. }) => return Err(WorkerError::Refused(message)),
                other => return Ok((other, blob)),
            }
        }
    }

    /// Waits until the base is loaded.
    pub fn opened(&mut self) -> Result<ModelInfo, WorkerError> {
        match self.recv()?.0 {
            FromEngine::Opened(info) => Ok(info),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Reads and checks every tensor of the base.
    pub fn inspect(&mut self) -> Result<ModelInfo, WorkerError> {
        self.send(&ToEngine::Inspect)?;
        loop {
            match self.recv()?.0 {
                FromEngine::Opened(_) => {}
                FromEngine::Inspected(info) => return Ok(info),
                other => return Err(out_of_turn(&other)),
            }
        }
    }

    fn why_lost(&mut self) -> String {
        let silence = self.pulse.silence();
        let how = self.worker.how_it_ended();
        if silence > Duration::from_secs(5) { format!("{how}, after {} s of silence", silence.as_secs()) } else { how }
    }
}

/// A message that makes no sense at this point, named without its content.
pub fn out_of_turn(message: &FromEngine) -> WorkerError {
    let text = format!("{message:?}");
    WorkerError::OutOfTurn(text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned())
}

/// Pings an engine; hangs up when it has been silent too long. Ends with the connection.
fn watch(engine: Remote, pulse: Pulse, interval: Duration, timeout: Duration) -> JoinHandle<()> {
    std::thread::spawn(move || {
        loop {
            std::thread::park_timeout(interval);
            if pulse.silence() > timeout {
                log::warn!("an engine has been silent for {} s; it is ended", pulse.silence().as_secs());
                engine.hang_up();
                return;
            }
            // A sender that holds the lock is sending, which asks for signs of life just as well.
            if let Ok(mut channel) = engine.sender.try_lock()
                && channel.send(&ToEngine::Ping).is_err()
            {
                return;
            }
        }
    })
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.worker.channel.shutdown();
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            // It can only have panicked, which its own message has told.
            let _ = watcher.join();
        }
    }
}
