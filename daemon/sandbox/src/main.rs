//! `cloister-sandbox`: gives up every right it does not need, then runs one plugin over batches of records.
//!
//! Its only way in and out is the socket it was given as standard input. INVARIANT: not a byte is read from it before
//! [`harden`] has succeeded.

use anyhow::Context;
use cloister_sandbox::{
    harden::{Profile, harden},
    serve,
};
use cloister_wire::frame::Channel;

fn main() -> anyhow::Result<()> {
    let channel = Channel::from_stdin().context("standard input is no socket: the daemon starts this program")?;
    harden(&Profile::SANDBOX).context("refusing to run without protection")?;
    serve(channel).context("the connection to the daemon broke")
}
