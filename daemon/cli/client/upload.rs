//! A file on its way to the daemon, in pieces: it is never wholly in memory.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cloister_wire::admin::ApiError;
use cloister_wire::frame::CHUNK;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use indicatif::ProgressBar;
use serde::Serialize;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::Body;
use crate::error::{self, failed, invalid};

/// What to send: one line of JSON, where the route wants one, then the file.
#[derive(Debug)]
pub(crate) struct Upload {
    head: Vec<u8>,
    file: PathBuf,
    bar: ProgressBar,
}

impl Upload {
    /// The file alone.
    pub(crate) fn file(file: &Path, bar: ProgressBar) -> Self {
        Self { head: Vec::new(), file: file.into(), bar }
    }

    /// One line of JSON, a newline, and the file.
    pub(crate) fn with_head(head: &impl Serialize, file: &Path, bar: ProgressBar) -> Result<Self, ApiError> {
        let mut line =
            serde_json::to_vec(head).map_err(|error| failed(format!("the request cannot be written: {error}")))?;
        line.push(b'\n');
        Ok(Self { head: line, file: file.into(), bar })
    }

    /// Opens the file; the body's length is known from here on.
    pub(super) async fn into_body(self) -> Result<Body, ApiError> {
        let unreadable = |error: io::Error| error::file("read", &self.file, &error);
        let file = File::open(&self.file).await.map_err(unreadable)?;
        let metadata = file.metadata().await.map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(invalid(format!("`{}` is not a file", self.file.display())).remedy("name a regular file"));
        }
        let length = metadata.len();
        let first = Bytes::from(self.head);
        let total = first.len() as u64 + length;
        let state = State { first: Some(first), file, left: length, bar: self.bar };
        let pieces = StreamBody::new(futures_util::stream::unfold(state, next_piece));
        Ok(Sized { body: pieces.boxed_unsync(), left: total }.boxed_unsync())
    }
}

struct State {
    first: Option<Bytes>,
    file: File,
    left: u64,
    bar: ProgressBar,
}

async fn next_piece(mut state: State) -> Option<(io::Result<Frame<Bytes>>, State)> {
    if let Some(first) = state.first.take().filter(|first| !first.is_empty()) {
        return Some((Ok(Frame::data(first)), state));
    }
    if state.left == 0 {
        return None;
    }
    let mut piece = vec![0; state.left.min(CHUNK as u64) as usize];
    match state.file.read(&mut piece).await {
        Ok(0) => {
            state.left = 0;
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent");
            Some((Err(error), state))
        }
        Ok(read) => {
            piece.truncate(read);
            state.left -= read as u64;
            state.bar.inc(read as u64);
            Some((Ok(Frame::data(Bytes::from(piece))), state))
        }
        Err(error) => Some((Err(error), state)),
    }
}

/// A stream whose length is known, so that hyper says `Content-Length` and the daemon can refuse early.
struct Sized {
    body: Body,
    left: u64,
}

impl HttpBody for Sized {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.left = self.left.saturating_sub(length);
        }
        polled
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
