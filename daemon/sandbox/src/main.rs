//! `cloister-sandbox`: gives up every right it does not need, then runs one plugin over batches of records.
//!
//! Its only way in and out is the socket it was given as standard input. INVARIANT: not a byte is read from it before
//! [`confine`] has succeeded.

use anyhow::Context;
use cloister_confine::{Profile, confine};
use cloister_sandbox::serve;
use cloister_wire::{frame::Channel, sandbox::FromSandbox};

fn main() -> anyhow::Result<()> {
    let mut channel = Channel::from_stdin().context("standard input is no socket: the daemon starts this program")?;
    let confined = confine(&Profile::SANDBOX).inspect_err(|error| {
        let reason = format!("the sandbox refuses to run unconfined: {error}");
        // When the daemon has left, standard error still has it.
        let _ = channel.send(&FromSandbox::Refused { reason });
    });
    if let Some(warning) = confined.context("refusing to run unconfined")?.warning() {
        eprintln!("cloister-sandbox: {warning}");
    }
    serve(channel).context("the connection to the daemon broke")
}
