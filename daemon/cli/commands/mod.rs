//! Every command: nouns, then verbs; one file a noun.
//!
//! A file holds the noun's arguments, and a function a verb: ask the daemon, print. Whatever two nouns need is
//! in the folder above.

mod adapter;
mod audit;
mod chat;
mod completions;
mod dataset;
mod deployment;
mod doctor;
mod job;
mod key;
mod model;
mod plugin;
mod policy;
mod recipe;
mod status;
mod train;
mod user;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use cloister_wire::admin::Job;

use crate::client::{Client, Reply};
use crate::error::CliError;
use crate::{follow, identity, render};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 denied by policy, 4 not found, 5 conflict, 6 sealed or unavailable.
Progress goes to standard error, results to standard output.";

/// Tunes a language model on records that may never leave the building, and serves it
#[derive(Debug, Parser)]
#[command(name = "cloister", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    /// The daemon's socket
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "CLOISTER_SOCKET",
        value_name = "PATH",
        default_value = "/run/cloister/cloister.sock"
    )]
    socket: PathBuf,
    /// Folder of certificate.pem, key.pem and ca.pem [default: ~/.config/cloister]
    #[arg(long, global = true, help_heading = "Everywhere", env = "CLOISTER_IDENTITY", value_name = "DIR")]
    identity: Option<PathBuf>,
    /// Print JSON on standard output, errors included
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Whether a script is listening.
    pub(crate) fn json(&self) -> bool {
        self.json
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how the daemon is
    #[command(after_help = "Example:\n  cloister status")]
    Status,
    /// Check this side and the daemon, and say what to do about what is wrong
    #[command(after_help = "Example:\n  cloister doctor\n\nExits 1 when an error is found; warnings do not count.")]
    Doctor,
    /// Open the vault with its passphrase
    #[command(
        after_help = "Examples:\n  cloister unseal\n  cloister unseal --passphrase-file - < /run/secrets/cloister"
    )]
    Unseal(status::UnsealArgs),
    /// Follow a job until it rests (the same as `job watch`)
    #[command(after_help = "Example:\n  cloister watch train-0001")]
    Watch(job::IdArgs),
    /// Base models: Hugging Face folders of safetensors
    #[command(subcommand)]
    Model(model::Verb),
    /// Records: import, clean, check, look at, shred
    #[command(subcommand)]
    Dataset(dataset::Verb),
    /// Plugins that clean and score records, in WebAssembly
    #[command(subcommand)]
    Plugin(plugin::Verb),
    /// Train an adapter as a recipe says
    Train(train::TrainArgs),
    /// Work that takes long
    #[command(subcommand)]
    Job(job::Verb),
    /// Adapters: what training makes of a base model
    #[command(subcommand)]
    Adapter(adapter::Verb),
    /// Serve an approved adapter
    #[command(after_help = "Example:\n  cloister serve notes")]
    Serve(deployment::AdapterArgs),
    /// Stop serving an adapter
    #[command(after_help = "Example:\n  cloister undeploy notes")]
    Undeploy(deployment::AdapterArgs),
    /// List what is served
    #[command(after_help = "Example:\n  cloister deployments")]
    Deployments,
    /// Talk to a served adapter
    Chat(chat::ChatArgs),
    /// The rules in force
    #[command(subcommand)]
    Policy(policy::Verb),
    /// The tamper-evident log
    #[command(subcommand)]
    Audit(audit::Verb),
    /// The keyring
    #[command(subcommand)]
    Key(key::Verb),
    /// People who may come in
    #[command(subcommand)]
    User(user::Verb),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  cloister completions bash > /etc/bash_completion.d/cloister")]
    Completions(completions::CompletionsArgs),
}

/// What every command gets: whom to ask, and how to print.
#[derive(Debug)]
pub(crate) struct Context {
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
    /// The identity folder.
    pub(crate) identity: PathBuf,
    /// Whether a script is listening.
    pub(crate) json: bool,
}

impl Context {
    /// Reads the identity; most commands begin with it.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        Ok(Client::new(&self.socket, &self.identity)?)
    }

    /// Prints an answer: the daemon's JSON for scripts, a text for people.
    pub(crate) fn print<T>(&self, reply: &Reply<T>, human: impl FnOnce(&T) -> String) {
        if self.json {
            render::say_json(&reply.json());
        } else {
            render::say(&human(&reply.value));
        }
    }

    /// Prints what this side did: an object for scripts, a text for people.
    pub(crate) fn print_done(&self, json: &serde_json::Value, human: &str) {
        if self.json {
            render::say_json(json);
        } else {
            render::say(human);
        }
    }

    /// Prints a job that goes on without us.
    pub(crate) fn print_detached(&self, reply: &Reply<Job>) {
        self.print(reply, |job| format!("job `{id}` is queued; `cloister watch {id}` follows it", id = job.id));
    }

    /// Follows a job that was just asked for; prints the job under `--json`, and in any case ends as it did.
    pub(crate) async fn follow(&self, client: &Client, id: &str) -> Result<Reply<Job>, CliError> {
        let reply = follow::follow(client, id).await?;
        if self.json {
            render::say_json(&reply.json());
        }
        follow::outcome(&reply.value)?;
        Ok(reply)
    }
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Result<(), CliError> {
    let context = Context { socket: cli.socket, identity: identity::folder_or_default(cli.identity), json: cli.json };
    let context = &context;
    match cli.command {
        Command::Status => status::status(context).await,
        Command::Doctor => doctor::doctor(context).await,
        Command::Unseal(args) => status::unseal(context, args).await,
        Command::Watch(args) => job::watch(context, &args.id).await,
        Command::Model(verb) => model::run(context, verb).await,
        Command::Dataset(verb) => dataset::run(context, verb).await,
        Command::Plugin(verb) => plugin::run(context, verb).await,
        Command::Train(args) => train::train(context, args).await,
        Command::Job(verb) => job::run(context, verb).await,
        Command::Adapter(verb) => adapter::run(context, verb).await,
        Command::Serve(args) => deployment::serve(context, &args.adapter).await,
        Command::Undeploy(args) => deployment::undeploy(context, &args.adapter).await,
        Command::Deployments => deployment::list(context).await,
        Command::Chat(args) => chat::chat(context, args).await,
        Command::Policy(verb) => policy::run(context, verb).await,
        Command::Audit(verb) => audit::run(context, verb).await,
        Command::Key(verb) => key::run(context, verb).await,
        Command::User(verb) => user::run(context, verb).await,
        Command::Completions(args) => completions::completions(&args),
    }
}

#[cfg(test)]
mod tests;
