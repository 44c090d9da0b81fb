//! A job's life, as a pure function: no IO, no clock.
//!
//! ```text
//! queued ─ begin → running ─ done ──────→ done
//!    ↑                │ ├─ stopped ─────→ interrupted (resumes by itself) or cancelled (a person asked)
//!    │                │ ├─ worker lost ─→ interrupted, at most MAX_LOSSES times without progress
//!    └──── resume ────┘ └─ failed ──────→ failed
//! ```

use cloister_wire::admin::{Job, JobState, Work};
use serde_json::{Value, json};

/// A worker may die so often between two checkpoints before its job counts as failed.
pub const MAX_LOSSES: u32 = 3;

/// What happens to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It has a worker now.
    Begin,
    /// It is complete.
    Done,
    /// It stopped because the daemon is stopping.
    Stopped,
    /// A person does not want it any more.
    Cancel,
    /// Its worker died or hung; `losses` counts those since the last progress, this one included.
    WorkerLost {
        /// Deaths without progress in between.
        losses: u32,
        /// One line.
        reason: String,
    },
    /// It went wrong in a way that trying again does not mend.
    Fail(String),
    /// A person wants it after all.
    Resume,
    /// The daemon starts and finds it.
    Restart,
}

/// The state after a happening; `None` where it makes no sense (resuming what is done, say).
pub fn next(state: &JobState, happening: &Happening) -> Option<JobState> {
    use Happening as H;
    use JobState as S;
    Some(match (state, happening) {
        (S::Queued, H::Begin) => S::Running,
        (S::Running, H::Done) => S::Done,
        (S::Running, H::Stopped) => S::Interrupted,
        (S::Queued | S::Running | S::Interrupted, H::Cancel) => S::Cancelled,
        (S::Running, H::WorkerLost { losses, reason }) if *losses >= MAX_LOSSES => {
            S::Failed { reason: format!("the worker was lost {losses} times without progress: {reason}") }
        }
        (S::Running, H::WorkerLost { .. }) => S::Interrupted,
        (S::Running, H::Fail(reason)) => S::Failed { reason: reason.clone() },
        (S::Cancelled | S::Failed { .. } | S::Interrupted, H::Resume) => S::Queued,
        (S::Queued | S::Running | S::Interrupted, H::Restart) => S::Queued,
        _ => return None,
    })
}

/// Which jobs may run beside each other: one a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Sandboxed plugins.
    Cleaning,
    /// The device.
    Computing,
}

/// The lane of a job.
pub fn lane(work: &Work) -> Lane {
    match work {
        Work::Clean { .. } => Lane::Cleaning,
        Work::Train { .. } | Work::Evaluate { .. } => Lane::Computing,
    }
}

/// The first part of a job's id.
pub fn prefix(work: &Work) -> &'static str {
    match work {
        Work::Clean { .. } => "clean",
        Work::Train { .. } => "train",
        Work::Evaluate { .. } => "evaluate",
    }
}

/// What work is on, as the audit log calls it.
pub fn target(work: &Work) -> String {
    match work {
        Work::Clean { dataset, .. } => format!("dataset/{dataset}"),
        Work::Train { recipe } => format!("adapter/{}", recipe.name),
        Work::Evaluate { adapter, .. } => format!("adapter/{adapter}"),
    }
}

/// What work is, for the audit log: whoever reads it later knows which records were used for what.
pub fn facts(work: &Work) -> Value {
    let kind = prefix(work);
    match work {
        Work::Clean { dataset, spec } => json!({"kind": kind, "dataset": dataset, "plugins": spec.plugins}),
        Work::Train { recipe } => json!({
            "kind": kind, "adapter": recipe.name, "dataset": recipe.dataset, "base": recipe.base,
            "purpose": recipe.purpose, "held_out": recipe.held_out,
        }),
        Work::Evaluate { adapter, spec } => json!({"kind": kind, "adapter": adapter, "dataset": spec.dataset}),
    }
}

/// The next job to begin in a lane: the oldest that is queued, unless one is running.
pub fn next_to_begin<'a>(jobs: impl Iterator<Item = &'a Job> + Clone, wanted: Lane) -> Option<&'a Job> {
    let mut in_lane = jobs.filter(|job| lane(&job.work) == wanted);
    if in_lane.clone().any(|job| job.state == JobState::Running) {
        return None;
    }
    in_lane.find(|job| job.state == JobState::Queued)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use cloister_wire::admin::CleanSpec;

    fn job(id: &str, state: JobState) -> Job {
        Job {
            id: id.into(),
            work: Work::Clean { dataset: "d".into(), spec: CleanSpec::default() },
            state,
            principal: "sam".into(),
            created_at: String::new(),
            attempts: 0,
            checkpoint_step: None,
            checkpoint: None,
            progress: None,
        }
    }

    #[test]
    fn a_lost_worker_interrupts_and_at_last_fails_the_job() {
        let lost = |losses| Happening::WorkerLost { losses, reason: "signal 9".into() };
        assert_eq!(next(&JobState::Running, &lost(1)), Some(JobState::Interrupted));
        assert!(matches!(next(&JobState::Running, &lost(MAX_LOSSES)), Some(JobState::Failed { .. })));
    }

    #[test]
    fn what_is_done_stays_done() {
        for happening in [Happening::Begin, Happening::Cancel, Happening::Resume, Happening::Restart] {
            assert_eq!(next(&JobState::Done, &happening), None, "{happening:?}");
        }
    }

    #[test]
    fn a_restart_queues_what_was_running_and_leaves_what_was_cancelled() {
        assert_eq!(next(&JobState::Running, &Happening::Restart), Some(JobState::Queued));
        assert_eq!(next(&JobState::Cancelled, &Happening::Restart), None);
    }

    #[test]
    fn a_lane_runs_one_job_at_a_time_oldest_first() {
        let jobs = [job("1", JobState::Done), job("2", JobState::Queued), job("3", JobState::Queued)];
        assert_eq!(next_to_begin(jobs.iter(), Lane::Cleaning).map(|j| j.id.as_str()), Some("2"));
        let busy = [job("1", JobState::Running), job("2", JobState::Queued)];
        assert!(next_to_begin(busy.iter(), Lane::Cleaning).is_none());
        assert!(next_to_begin(jobs.iter(), Lane::Computing).is_none());
    }
}
