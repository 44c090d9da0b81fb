//! The project's own tasks: `cargo xtask demo`, `test`, `libtorch`, `build`, `plugins`, `peers`.
//!
//! Why: cargo cannot fetch libtorch, build WebAssembly guests, or run a story through four processes. Nothing has
//! to be installed by hand first: what is missing is fetched into `${CLOISTER_CACHE:-~/.cache/cloister}`, or named
//! with the command that installs it. Every task hands cargo the same environment, so that nothing is built twice.

mod build;
mod demo;
mod libtorch;
mod peers;
mod plugins;
mod suite;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, start a real daemon in a scratch folder, and run the whole story on it
    Demo(demo::Options),
    /// Everything: formatting, lints, build, unit and integration tests, policy cases, plugins, licences
    Test(suite::Options),
    /// Find libtorch 2.13.0 in $LIBTORCH or the cache, or fetch it; prints its folder
    Libtorch {
        /// With CUDA's libraries (about 3 GB more to fetch)
        #[arg(long)]
        cuda: bool,
    },
    /// Build every binary, in the profile that demo and tests use
    Build,
    /// Build every plugin and make a component of it, in <target>/plugins
    Plugins,
    /// Compare with PEFT, bitsandbytes and transformers (fetches about 3 GB of Python packages once)
    Peers,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => suite::run(&options),
        Task::Libtorch { cuda } => libtorch::print(cuda),
        Task::Build => build::all().map(drop),
        Task::Plugins => build::print_plugins(),
        Task::Peers => peers::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one line, and never with a backtrace: what went wrong is a program or a file, not a place in here.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
