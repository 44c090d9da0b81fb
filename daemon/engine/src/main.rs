//! `cloister-engine`: takes hold of what it needs from the system, locks itself in, and serves the one
//! connection that it was given as standard input.
//!
//! INVARIANT: not a byte is read from it before [`confine`] has succeeded
//! (`an_engine_that_cannot_be_confined_says_so_and_ends`).

use std::process::ExitCode;

use anyhow::Context;
use cloister_confine::{ConfineError, Profile, confine};
use cloister_engine::memory::PeakRss;
use cloister_engine::process::{self, Resources};
use cloister_engine::{shim, warm_up};
use cloister_wire::engine::{Failure, FailureKind, FromEngine};
use cloister_wire::frame::Channel;

fn main() -> ExitCode {
    // A panic's text is sent to the daemon, first line only; libtorch's backtraces help nobody on a console.
    std::panic::set_hook(Box::new(|_| {}));
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cloister-engine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    let mut channel = Channel::from_stdin()
        .context("standard input is no socket; the daemon starts this program, nobody else needs to")?;
    let (resources, profile) = take_hold()?;
    let confined = confine(&profile).inspect_err(|error| refuse(&mut channel, error));
    if let Some(warning) = confined.context("refusing to run unconfined")?.warning() {
        eprintln!("cloister-engine: {warning}");
    }
    Ok(process::run(channel, resources)?)
}

/// All that is opened by name, and all that is loaded, is opened and loaded here. Says what the process has to keep
/// from here on.
fn take_hold() -> anyhow::Result<(Resources, Profile)> {
    let profile = if shim::load_cuda()? { Profile::ENGINE_CUDA } else { Profile::ENGINE_CPU };
    warm_up::warm_up()?;
    let peak_rss = PeakRss::open().context("cannot read /proc/self/status")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok((Resources { peak_rss, cores }, profile))
}

/// Tells the daemon, without having read what it asked for.
fn refuse(channel: &mut Channel, error: &ConfineError) {
    let message = format!("the engine refuses to run unconfined: {error}");
    // When the daemon has left, standard error still has it.
    let _ = channel.send(&FromEngine::Failed(Failure { kind: FailureKind::Internal, message }));
}
