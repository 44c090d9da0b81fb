//! A request's body as something that blocking code reads: one line of JSON, then a file of any length.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// Pieces that may wait; a piece is what hyper reads at once, some tens of kilobytes.
const WAITING: usize = 16;
/// A client that sends nothing for so long has gone away; its thread and its connection are needed by others.
pub const STALLED: Duration = Duration::from_secs(60);
/// Longest first line.
const MAX_LINE: usize = 64 << 10;

/// The body, to be read from a thread that may block.
#[derive(Debug)]
pub struct Upload {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Upload {
    /// Starts to receive. What nobody reads is received and dropped, so that the client gets to read the answer.
    pub fn of<S, B>(body: S, limit: u64) -> Self
    where
        S: Stream<Item = std::result::Result<B, warp::Error>> + Send + 'static,
        B: Buf + Send,
    {
        let (sender, pieces) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut body = std::pin::pin!(body);
            let mut received = 0u64;
            loop {
                let piece = match tokio::time::timeout(STALLED, body.next()).await {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return,
                    Err(_) => {
                        let _ = sender.send(Err(io::Error::other("nothing came for too long"))).await;
                        return;
                    }
                };
                let piece = piece.map_err(io::Error::other).map(|mut piece| piece.copy_to_bytes(piece.remaining()));
                received += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                if received > limit {
                    let _ = sender.send(Err(io::Error::other(format!("it is larger than {limit} bytes")))).await;
                    return;
                }
                // A reader that is gone had enough; see above.
                let _ = sender.send(piece).await;
            }
        });
        Self { pieces, current: Bytes::new() }
    }

    /// The first line, JSON; the rest stays to be read.
    pub fn json_line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() <= MAX_LINE {
            let read =
                self.read(&mut byte).map_err(|error| Error::invalid(format!("the upload broke off: {error}")))?;
            if read == 0 || byte[0] == b'\n' {
                return serde_json::from_slice(&line)
                    .map_err(|error| Error::invalid(format!("the upload's first line: {error}")));
            }
            line.push(byte[0]);
        }
        Err(Error::invalid(format!("the upload's first line is longer than {MAX_LINE} bytes")))
    }
}

impl Read for Upload {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.current = piece?,
            }
        }
        let count = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}
