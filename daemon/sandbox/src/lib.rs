//! The sandbox: a process that holds one plugin and one batch of plaintext records, and nothing else.
//!
//! A record's way through it, one module a step:
//!
//! ```text
//! serve (frames) → batch (JSON Lines, threads) → plugin (wasmtime, limits) → verify (nothing false gets out)
//! ```
//!
//! Why a process of its own: a plugin that escapes WebAssembly finds no keys, no files, no network and no other
//! process here ([`cloister_confine`]). What always holds: a plugin is linked against nothing; every record gets an instance of
//! its own, so no record reaches another through a guest's memory; a record that fails is named by row, and the others
//! go on; no error carries a record's text.

mod batch;
mod plugin;
mod verify;

use cloister_wire::{
    frame::{Channel, Frame, FrameError, MAX_BLOB},
    sandbox::{FromSandbox, ToSandbox},
};
use plugin::Plugin;

/// Answers the daemon until it closes the connection.
///
/// # Errors
/// When the connection breaks or the daemon breaks its protocol; a plugin's misbehaviour is an answer, not an error.
pub fn serve(mut channel: Channel) -> Result<(), FrameError> {
    let mut plugin: Option<Plugin> = None;
    while let Some(frame) = channel.recv::<ToSandbox>()? {
        let (answer, blob) = answer(&mut plugin, frame);
        match channel.send_with(&answer, &blob, &[]) {
            // The only answer that can be too long is that of a batch; nothing of it has been sent yet.
            Err(FrameError::Protocol(_)) => channel.send(&too_long())?,
            sent => sent?,
        }
    }
    Ok(())
}

fn answer(plugin: &mut Option<Plugin>, frame: Frame<ToSandbox>) -> (FromSandbox, Vec<u8>) {
    match (frame.message, plugin.as_ref()) {
        (ToSandbox::Load { world, limits }, None) => match Plugin::load(&frame.blob, world, limits) {
            Ok(loaded) => {
                let description = loaded.description().clone();
                *plugin = Some(loaded);
                (FromSandbox::Loaded(description), Vec::new())
            }
            Err(refusal) => (FromSandbox::Refused { reason: refusal.to_string() }, Vec::new()),
        },
        // One plugin a process: a second one could meet what the first left behind.
        (ToSandbox::Load { .. }, Some(_)) => {
            (FromSandbox::Refused { reason: "this sandbox has a plugin already; start another".into() }, Vec::new())
        }
        (ToSandbox::Run { batch }, Some(plugin)) => match batch::run(plugin, &frame.blob) {
            Ok((outcomes, kept)) => (FromSandbox::Ran { batch, outcomes }, kept),
            Err(error) => (FromSandbox::Failed { reason: error.to_string() }, Vec::new()),
        },
        (ToSandbox::Run { .. }, None) => {
            (FromSandbox::Failed { reason: "no plugin has been loaded; send `load` first".into() }, Vec::new())
        }
    }
}

fn too_long() -> FromSandbox {
    let limit = MAX_BLOB >> 20;
    FromSandbox::Failed { reason: format!("the batch's answer is over {limit} MiB; send smaller batches") }
}
