//! Frames between the daemon and a worker, over a Unix stream socket.
//!
//! A frame is a JSON header, an optional blob of raw bytes, and optional open descriptors:
//!
//! ```text
//! u32 header length | u32 blob length | u32 descriptor count   (little endian)
//! header (JSON) | blob
//! ```
//!
//! The descriptors ride with the twelve bytes in front. Both ends are ours, yet neither trusts the other:
//! lengths are capped before anything is allocated, and a frame that does not parse ends the connection.
//! A worker finds its socket as standard input, which is what both `fork` and systemd's
//! `StandardInput=socket` give it without a line of unsafe code.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest JSON header.
pub const MAX_HEADER: usize = 16 << 20;
/// Largest blob of one frame; longer streams are cut into [`CHUNK`]s.
pub const MAX_BLOB: usize = 64 << 20;
/// The size in which files and records are streamed.
pub const CHUNK: usize = 1 << 20;
/// Most descriptors of one frame (Linux allows 253).
pub const MAX_DESCRIPTORS: usize = 128;
const PREFIX: usize = 12;

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("the worker's socket failed: {0}")]
    Io(#[from] io::Error),
    /// The peer speaks something else, or lies about a length.
    #[error("the peer broke the frame protocol: {0}")]
    Protocol(&'static str),
    /// The header is no message of the expected kind.
    #[error("the peer sent a message that does not parse: {0}")]
    Json(#[from] serde_json::Error),
}

/// What arrived.
#[derive(Debug)]
pub struct Frame<T> {
    /// The message.
    pub message: T,
    /// Raw bytes beside it; empty when there are none.
    pub blob: Vec<u8>,
    /// Open files passed along, in the sender's order.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a connection. Blocking; [`Channel::try_clone`] gives a second handle for a reader thread.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// Wraps a connected stream.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Both ends of a new connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self::new(a), Self::new(b)))
    }

    /// The worker's end: the socket that it was given as standard input.
    pub fn from_stdin() -> io::Result<Self> {
        let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self::new(UnixStream::from(descriptor)))
    }

    /// A second handle on the same connection.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    /// Ends the connection for every handle; a blocked `recv` returns.
    pub fn shutdown(&self) {
        // A connection that is gone already is what was asked for.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// The stream, to be handed to a child as its standard input.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Sends a message alone.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), FrameError> {
        self.send_with(message, &[], &[])
    }

    /// Sends a message with bytes and descriptors beside it.
    pub fn send_with(
        &mut self,
        message: &impl Serialize,
        blob: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), FrameError> {
        let header = serde_json::to_vec(message)?;
        if header.len() > MAX_HEADER || blob.len() > MAX_BLOB || descriptors.len() > MAX_DESCRIPTORS {
            return Err(FrameError::Protocol("a frame over its limits was to be sent"));
        }
        let mut prefix = [0u8; PREFIX];
        prefix[0..4].copy_from_slice(&(header.len() as u32).to_le_bytes());
        prefix[4..8].copy_from_slice(&(blob.len() as u32).to_le_bytes());
        prefix[8..12].copy_from_slice(&(descriptors.len() as u32).to_le_bytes());
        self.send_prefix(&prefix, descriptors)?;
        self.stream.write_all(&header)?;
        self.stream.write_all(blob)?;
        Ok(())
    }

    fn send_prefix(&mut self, prefix: &[u8; PREFIX], descriptors: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(FrameError::Protocol("too many descriptors"));
        }
        let sent = loop {
            match sendmsg(&self.stream, &[IoSlice::new(prefix)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(io::Error::from)?,
            }
        };
        // The descriptors went with the first byte; the rest of a short write is plain bytes.
        self.stream.write_all(&prefix[sent..])?;
        Ok(())
    }

    /// Receives one frame; `None` when the peer has closed between frames.
    pub fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, FrameError> {
        let mut prefix = [0u8; PREFIX];
        let mut descriptors = Vec::new();
        let read = self.recv_prefix(&mut prefix, &mut descriptors)?;
        if read == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut prefix[read..])?;
        let [header, blob, count] = [0, 4, 8].map(|at| {
            let mut word = [0u8; 4];
            word.copy_from_slice(&prefix[at..at + 4]);
            u32::from_le_bytes(word) as usize
        });
        if header > MAX_HEADER || blob > MAX_BLOB {
            return Err(FrameError::Protocol("a length over its limit"));
        }
        if count != descriptors.len() {
            return Err(FrameError::Protocol("descriptors were lost on the way"));
        }
        let message = serde_json::from_slice(&self.read_vec(header)?)?;
        let blob = self.read_vec(blob)?;
        Ok(Some(Frame { message, blob, descriptors }))
    }

    fn recv_prefix(&mut self, prefix: &mut [u8; PREFIX], descriptors: &mut Vec<OwnedFd>) -> Result<usize, FrameError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.stream, &mut [IoSliceMut::new(prefix)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(io::Error::from)?,
            }
        };
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(FrameError::Protocol("descriptors were cut off"));
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        Ok(received.bytes)
    }

    fn read_vec(&mut self, length: usize) -> Result<Vec<u8>, FrameError> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_arrives_with_its_blob_and_its_descriptors() {
        let (mut a, mut b) = Channel::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let blob = vec![7u8; 3 << 20];
        let sender = std::thread::spawn(move || a.send_with(&"hello", &blob, &[file.as_fd(), file.as_fd()]));
        let frame: Frame<String> = b.recv().unwrap().unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!((frame.message.as_str(), frame.blob.len(), frame.descriptors.len()), ("hello", 3 << 20, 2));
        assert!(b.recv::<String>().unwrap().is_none(), "a closed peer is the end, not an error");
    }

    #[test]
    fn a_lying_length_is_refused_before_anything_is_allocated() {
        let (a, mut b) = Channel::pair().unwrap();
        let mut raw = a.into_stream();
        raw.write_all(&[0xff; PREFIX]).unwrap();
        assert!(matches!(b.recv::<String>(), Err(FrameError::Protocol(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let (a, mut b) = Channel::pair().unwrap();
            a.into_stream().write_all(&bytes).unwrap();
            let _ = b.recv::<serde_json::Value>();
        }
    }
}
