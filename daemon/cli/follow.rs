//! Follows a job until it rests.
//!
//! The job is the daemon's: losing sight of it (Ctrl-C, a restart of the daemon) never changes it. A stream
//! that breaks off is taken up again for a while, since a daemon that restarts resumes its jobs by itself.

use std::time::Duration;

use cloister_wire::admin::{ApiError, ErrorCode, Job, JobEvent, JobState};

use crate::client::{Client, Lines, Reply, admin};
use crate::error::{CliError, failed, unavailable};
use crate::progress::JobView;

/// How often and how long a daemon that went away is looked for.
const RETRY: Duration = Duration::from_secs(1);
const RETRIES: u32 = 60;

/// Shows the job's way to its end and gives back the job as it rests.
///
/// # Errors
/// [`CliError::Detached`] after Ctrl-C; the daemon's error if it cannot be followed.
pub(crate) async fn follow(client: &Client, id: &str) -> Result<Reply<Job>, CliError> {
    tokio::select! {
        outcome = to_rest(client, id) => Ok(outcome?),
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(CliError::Detached { job: id.into() }),
            Err(error) => Err(failed(format!("Ctrl-C cannot be watched: {error}")).into()),
        },
    }
}

async fn to_rest(client: &Client, id: &str) -> Result<Reply<Job>, ApiError> {
    let path = admin(&["jobs", id]);
    let first: Reply<Job> = client.get(&path).await?;
    let mut view = JobView::new(&first.value);
    let mut tries = 0;
    loop {
        let events = view_events(client, id, &mut view, &mut tries).await;
        // Asked again rather than taken from the stream: this is the object that `--json` prints.
        let now = client.get::<Job>(&path).await;
        let trouble = match (events, now) {
            (_, Ok(reply)) if reply.value.state.at_rest() => {
                view.finish();
                return Ok(reply);
            }
            (Err(error), _) | (_, Err(error)) => error,
            (Ok(()), Ok(_)) => unavailable("the daemon ended the job's events before the job's end"),
        };
        if trouble.code != ErrorCode::Unavailable || tries >= RETRIES {
            view.finish();
            return Err(lost(trouble, id));
        }
        tries += 1;
        view.note(format!("{id}: lost sight of it ({trouble}), looking again"));
        tokio::time::sleep(RETRY).await;
    }
}

/// Reads events until the job rests or the stream ends; progress shows that looking was worth it.
async fn view_events(client: &Client, id: &str, view: &mut JobView, tries: &mut u32) -> Result<(), ApiError> {
    let mut lines: Lines = client.lines(&admin(&["jobs", id, "events"])).await?;
    while let Some(line) = lines.next().await? {
        // An empty line keeps the connection alive.
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(JobEvent::Progress(progress)) => {
                *tries = 0;
                view.progress(&progress);
            }
            Ok(JobEvent::Job(job)) if job.state.at_rest() => return Ok(()),
            Ok(JobEvent::Job(job)) => view.state(&job),
            Err(error) => return Err(failed(format!("an event of job `{id}` is not understood: {error}"))),
        }
    }
    Ok(())
}

fn lost(error: ApiError, id: &str) -> ApiError {
    if error.code != ErrorCode::Unavailable {
        return error;
    }
    let next = format!("the job is not lost: `cloister watch {id}` once the daemon runs and is unsealed");
    ApiError { remedy: Some(next), ..error }
}

/// What the command ends with once the job rests; the job's own answer has been printed by then.
pub(crate) fn outcome(job: &Job) -> Result<(), CliError> {
    match &job.state {
        JobState::Failed { reason } => {
            Err(CliError::verdict(ErrorCode::Failed, format!("job `{}` failed: {reason}", job.id)))
        }
        JobState::Cancelled => Err(CliError::verdict(
            ErrorCode::Failed,
            format!("job `{id}` was cancelled; `cloister job resume {id}` takes it up again", id = job.id),
        )),
        JobState::Done | JobState::Queued | JobState::Running | JobState::Interrupted => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use cloister_wire::admin::{CleanSpec, Work};

    use super::*;
    use crate::client::door::{Door, Read, http};

    fn job(state: JobState) -> Job {
        Job {
            id: "clean-0001".into(),
            work: Work::Clean { dataset: "visits".into(), spec: CleanSpec::default() },
            state,
            principal: "ana".into(),
            created_at: String::new(),
            attempts: 1,
            checkpoint_step: None,
            checkpoint: None,
            progress: None,
        }
    }

    fn answer(state: JobState) -> String {
        http("200 OK", &serde_json::to_string(&job(state)).unwrap())
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_is_taken_up_again() {
        let door = Door::new();
        let event = "{\"progress\":{\"records\":{\"done\":1,\"total\":2,\"stage\":\"clean\"}}}\n";
        // The daemon stops in the middle of the events, is not there once, and then has finished the job.
        let broken = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{event}");
        let gone = "{\"code\":\"unavailable\",\"message\":\"the vault is sealed\"}";
        let answers = vec![
            answer(JobState::Running),
            broken,
            http("503 Service Unavailable", gone),
            http("200 OK", event),
            answer(JobState::Done),
        ];
        let server = door.serve_all(Read::All, answers);
        let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
        assert_eq!(follow(&client, "clean-0001").await.unwrap().value.state, JobState::Done);
        let requests = server.await.unwrap();
        assert!(requests[3].starts_with(b"GET /admin/v1/jobs/clean-0001/events "));
    }

    #[tokio::test]
    async fn a_job_that_is_not_there_is_not_looked_for_again() {
        let door = Door::new();
        let answer = http("404 Not Found", "{\"code\":\"not_found\",\"message\":\"no job `x`\"}");
        let _server = door.serve_all(Read::All, vec![answer]);
        let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
        assert_eq!(follow(&client, "x").await.unwrap_err().exit_code(), 4);
    }

    #[test]
    fn the_exit_code_is_the_jobs_outcome() {
        assert!(outcome(&job(JobState::Done)).is_ok());
        let failed = outcome(&job(JobState::Failed { reason: "nothing is left".into() })).unwrap_err();
        assert_eq!((failed.exit_code(), failed.to_string().as_str()), (1, "job `clean-0001` failed: nothing is left"));
        assert_eq!(outcome(&job(JobState::Cancelled)).unwrap_err().exit_code(), 1);
    }
}
