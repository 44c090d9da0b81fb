//! `cloisterd`: hardens itself, reads its configuration, and runs the app until it is told to stop.
//!
//! | command | |
//! |---|---|
//! | `run` (or none) | the daemon; SIGTERM and SIGINT drain it, SIGHUP reloads it |
//! | `init` | makes a new appliance |
//! | `check-config` | reads the configuration and says what is wrong with it |
//!
//! Exit codes are the CLI's: 0 done, 1 failed, 2 usage, 5 conflict (another daemon, or initialised already).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use cloister::api::listener::socket::SocketError;
use cloister::config::{Config, Settings, Surroundings};
use cloister::harden::{self, HardenError, StateDir};
use cloister::init::{self, InitArgs, InitError};
use cloister::{app, logging, notify};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// The Cloister daemon: tunes a language model on records that may never leave the building, and serves it.
#[derive(Debug, Parser)]
#[command(name = "cloisterd", version)]
struct Cli {
    /// The configuration [default: /etc/cloister/cloister.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground (what is done without a command)
    Run,
    /// Make a new appliance: state folder, vault, certificates, first administrator
    Init(InitArgs),
    /// Check the configuration and show what it comes to
    CheckConfig,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        None | Some(Command::Run) => run(&cli),
        Some(Command::Init(args)) => init(&cli, args),
        Some(Command::CheckConfig) => check_config(&cli),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloisterd: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let conflict = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(HardenError::Locked { .. }))
            || matches!(cause.downcast_ref(), Some(InitError::Initialised(_)))
            || matches!(cause.downcast_ref(), Some(InitError::Harden(HardenError::Locked { .. })))
            || matches!(cause.downcast_ref(), Some(SocketError::InUse(_)))
    });
    if conflict { 5 } else { 1 }
}

fn init(cli: &Cli, args: &InitArgs) -> anyhow::Result<()> {
    let (settings, _) = Settings::read(cli.config.as_deref())?;
    // Root may: it gives everything to the service's user at the end.
    harden::process(true)?;
    println!("{}", init::run(&settings, args, cli.config.as_deref())?);
    Ok(())
}

fn check_config(cli: &Cli) -> anyhow::Result<()> {
    let (settings, file) = Settings::read(cli.config.as_deref())?;
    let shown = toml::to_string_pretty(&settings)?;
    let config = Config::resolve(settings, file, &Surroundings::of_this_process())?;
    let source = config.file.as_ref().map_or("no file, all defaults".into(), |file| file.display().to_string());
    println!(
        "# {source}; workers are {} and {}\n{shown}",
        config.workers.engine.display(),
        config.workers.sandbox.display()
    );
    let missing = [&config.workers.engine, &config.workers.sandbox, &config.policy.dir];
    for path in missing.into_iter().filter(|path| !path.exists()) {
        eprintln!("cloisterd: warning: `{}` does not exist", path.display());
    }
    Ok(())
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let config = Config::load(cli.config.as_deref())?;
    harden::process(config.allow_root)?;
    logging::start(config.log_level)?;
    // Held to the end: whoever has it is the only daemon on the folder.
    let _state = StateDir::lock(&config.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start tokio")?;
    let outcome = runtime.block_on(supervise(config));
    // Whatever still blocks a thread has had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(error) = &outcome {
        log::error!(error:% = format!("{error:#}"); "stopped with an error");
    }
    outcome
}

/// Turns signals into what the app understands, and bounds the time that it takes to stop.
async fn supervise(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (stop, shutdown) = watch::channel(false);
    let (ask_reload, reload) = mpsc::channel(1);
    let timeout = config.shutdown_timeout;

    let mut app = std::pin::pin!(app::run(config, shutdown, reload));
    loop {
        tokio::select! {
            ended = app.as_mut() => return ended,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                log::info!("SIGHUP: reloading");
                // A full channel means that one is due anyway.
                let _ = ask_reload.try_send(());
            }
        }
    }

    log::info!(timeout_s = timeout.as_secs(); "stopping: running work is given time to end");
    notify::stopping(timeout + Duration::from_secs(5));
    stop.send_replace(true);
    tokio::select! {
        ended = tokio::time::timeout(timeout, app) => match ended {
            Ok(ended) => ended,
            Err(_) => bail!("running work did not end within {} s (`shutdown_timeout_s`) and was cut off", timeout.as_secs()),
        },
        _ = terminate.recv() => bail!("stopped at once by a second signal"),
        _ = interrupt.recv() => bail!("stopped at once by a second signal"),
    }
}
