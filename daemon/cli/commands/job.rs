//! `cloister job` and `cloister watch`.

use clap::{Args, Subcommand};
use cloister_wire::admin::{Job, JobState, Work};

use super::{Context, adapter, dataset};
use crate::client::{Client, Reply, admin};
use crate::error::CliError;
use crate::{progress, render};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List jobs
    #[command(after_help = "Example:\n  cloister job list")]
    List,
    /// Show a job
    #[command(after_help = "Example:\n  cloister job show train-0001")]
    Show(IdArgs),
    /// Follow a job until it rests; Ctrl-C detaches
    #[command(after_help = "Example:\n  cloister job watch train-0001")]
    Watch(IdArgs),
    /// Stop a job; training keeps its last checkpoint
    #[command(after_help = "Example:\n  cloister job cancel train-0001")]
    Cancel(IdArgs),
    /// Take up a cancelled or failed job, training from its last checkpoint
    #[command(after_help = "Example:\n  cloister job resume train-0001")]
    Resume {
        /// Its id
        #[arg(value_name = "JOB")]
        id: String,
        /// Do not wait for the job
        #[arg(long)]
        detach: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// Its id, as `cloister job list` shows it
    #[arg(value_name = "JOB")]
    pub(crate) id: String,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::List => list(context).await,
        Verb::Show(args) => show(context, &args.id).await,
        Verb::Watch(args) => watch(context, &args.id).await,
        Verb::Cancel(args) => cancel(context, &args.id).await,
        Verb::Resume { id, detach } => resume(context, &id, detach).await,
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let reply: Reply<Vec<Job>> = context.client()?.get(&admin(&["jobs"])).await?;
    context.print(&reply, |jobs| {
        let rows = jobs.iter().map(|job| {
            let progress = job.progress.as_ref().filter(|_| !job.state.at_rest()).map(progress::describe);
            vec![
                job.id.clone(),
                state(&job.state).into(),
                work(&job.work),
                job.principal.clone(),
                job.created_at.clone(),
                progress.unwrap_or_default(),
            ]
        });
        render::table(&["job", "state", "work", "asked by", "at", "progress"], rows)
    });
    Ok(())
}

async fn show(context: &Context, id: &str) -> Result<(), CliError> {
    let reply = context.client()?.get(&admin(&["jobs", id])).await?;
    context.print(&reply, describe);
    Ok(())
}

fn describe(job: &Job) -> String {
    let reason = match &job.state {
        JobState::Failed { reason } => reason.clone(),
        _ => String::new(),
    };
    render::facts([
        ("job", job.id.clone()),
        ("state", state(&job.state).into()),
        ("reason", reason),
        ("work", work(&job.work)),
        ("asked by", format!("{} at {}", job.principal, job.created_at)),
        ("begun", format!("{} times", job.attempts)),
        ("checkpoint", job.checkpoint_step.map(|step| format!("at step {step}")).unwrap_or_default()),
        ("progress", job.progress.as_ref().map(progress::describe).unwrap_or_default()),
    ])
}

fn state(state: &JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Interrupted => "interrupted",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
        JobState::Failed { .. } => "failed",
    }
}

fn work(work: &Work) -> String {
    match work {
        Work::Clean { dataset, .. } => format!("clean `{dataset}`"),
        Work::Train { recipe } => format!("train `{}` on `{}`", recipe.name, recipe.dataset),
        Work::Evaluate { adapter, .. } => format!("evaluate `{adapter}`"),
    }
}

/// Follows a job and shows what it made.
pub(crate) async fn watch(context: &Context, id: &str) -> Result<(), CliError> {
    watch_with(context, &context.client()?, id).await
}

async fn watch_with(context: &Context, client: &Client, id: &str) -> Result<(), CliError> {
    let job = context.follow(client, id).await?.value;
    match &job.work {
        Work::Clean { dataset: name, .. } => dataset::show_result(context, client, name).await,
        Work::Train { recipe } => adapter::show_result(context, client, &recipe.name).await,
        Work::Evaluate { adapter: name, .. } => adapter::show_evaluation(context, client, name).await,
    }
}

async fn cancel(context: &Context, id: &str) -> Result<(), CliError> {
    let reply: Reply<Job> = context.client()?.post_empty(&admin(&["jobs", id, "cancel"])).await?;
    context.print(&reply, |job| {
        let kept = job.checkpoint_step.map(|step| format!(", checkpoint at step {step}")).unwrap_or_default();
        format!("job `{0}` is {1}{kept}; `cloister job resume {0}` takes it up again", job.id, state(&job.state))
    });
    Ok(())
}

async fn resume(context: &Context, id: &str, detach: bool) -> Result<(), CliError> {
    let client = context.client()?;
    let reply: Reply<Job> = client.post_empty(&admin(&["jobs", id, "resume"])).await?;
    if detach {
        context.print_detached(&reply);
        return Ok(());
    }
    watch_with(context, &client, id).await
}
