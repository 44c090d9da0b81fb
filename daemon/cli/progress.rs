//! How long work is shown: a bar on a terminal, plain lines elsewhere, always on standard error.
//!
//! Standard output is kept for the result, so that `cloister train … --json | jq` works while the steps go by.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use cloister_wire::admin::{Job, JobProgress, JobState};
use cloister_wire::engine::{HeldOutLoss, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::render;

/// Plain lines come no closer together than this.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// A bar over bytes that are sent; hidden where there is no terminal.
pub(crate) fn transfer(total: u64) -> ProgressBar {
    styled(Some(total), "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}")
}

/// A sign of life while the daemon works on one request; hidden where there is no terminal.
pub(crate) fn spinner(doing: String) -> ProgressBar {
    let bar = styled(None, "{spinner} {wide_msg} {elapsed}");
    bar.set_message(doing);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// One plain line, where no bar is drawn.
pub(crate) fn plain(line: &str) {
    if !io::stderr().is_terminal() {
        eprintln!("{}", render::printable(line));
    }
}

fn styled(total: Option<u64>, template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(total, target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("━╸─")),
        Err(_) => bar,
    }
}

/// Shows one job's way.
pub(crate) struct JobView {
    bar: Option<ProgressBar>,
    pace: Pace,
    noted: String,
}

impl JobView {
    /// Chooses bar or lines by where standard error goes.
    pub(crate) fn new(job: &Job) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = styled(Some(0), "{bar:12} {pos}/{len} {wide_msg}");
            bar.set_message(format!("{}: waiting for its turn", job.id));
            bar
        });
        Self { bar, pace: Pace::default(), noted: String::new() }
    }

    /// It moved on.
    pub(crate) fn progress(&mut self, progress: &JobProgress) {
        let text = describe(progress);
        match (&self.bar, progress) {
            (Some(bar), JobProgress::HeldOut(_)) => bar.println(text),
            (Some(bar), JobProgress::Step(step)) => show(bar, step.step, step.steps, step_figures(step)),
            (Some(bar), JobProgress::Records { done, total, stage }) => {
                show(bar, *done, *total, format!("records · {stage}"));
            }
            (None, JobProgress::HeldOut(_)) => self.print([text]),
            (None, _) => {
                let due = self.pace.offer(text, Instant::now());
                self.print(due);
            }
        }
    }

    /// Its state changed.
    pub(crate) fn state(&mut self, job: &Job) {
        let text = match &job.state {
            JobState::Queued => format!("{}: waiting for its turn", job.id),
            JobState::Running => format!("{}: running", job.id),
            JobState::Interrupted => format!("{}: interrupted; it resumes by itself", job.id),
            JobState::Done | JobState::Cancelled | JobState::Failed { .. } => return,
        };
        self.note(text);
    }

    /// A word beside the progress; the same one is not said twice in a row.
    pub(crate) fn note(&mut self, text: String) {
        if text == self.noted {
            return;
        }
        self.noted.clone_from(&text);
        match &self.bar {
            Some(bar) => bar.set_message(render::printable(&text)),
            None => {
                let held = self.pace.rest();
                self.print(held.into_iter().chain([text]));
            }
        }
    }

    /// No more will come: the last line is always shown.
    pub(crate) fn finish(&mut self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => {
                let held = self.pace.rest();
                self.print(held);
            }
        }
    }

    fn print(&self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            eprintln!("{}", render::printable(&line));
        }
    }
}

impl Drop for JobView {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn show(bar: &ProgressBar, done: u64, total: u64, message: String) {
    bar.set_length(total);
    bar.set_position(done);
    bar.set_message(render::printable(&message));
}

/// One line of progress, whole.
pub(crate) fn describe(progress: &JobProgress) -> String {
    match progress {
        JobProgress::Records { done, total, stage } => format!("{stage}: {done}/{total} records"),
        JobProgress::Step(step) => format!("step {}/{} · {}", step.step, step.steps, step_figures(step)),
        JobProgress::HeldOut(HeldOutLoss { step, loss, tokens }) => {
            format!("step {step}: held-out loss {loss:.4} ({tokens} tokens)")
        }
    }
}

fn step_figures(step: &Progress) -> String {
    let loss = step.loss.map_or_else(|| "loss –".to_string(), |loss| format!("loss {loss:.4}"));
    // The most wanted first: a narrow terminal cuts the end off.
    format!(
        "{loss} · lr {:.2e} · {:.0} tok/s · {} · {} left · epoch {:.2}",
        step.learning_rate,
        step.tokens_per_s,
        render::bytes(step.peak_rss_bytes),
        render::duration(step.seconds_left),
        step.epoch
    )
}

/// Lets a line through now and then, and keeps the newest that it held back.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    held: Option<String>,
}

impl Pace {
    fn offer(&mut self, line: String, now: Instant) -> Option<String> {
        if self.last.is_some_and(|last| now.duration_since(last) < PLAIN_INTERVAL) {
            self.held = Some(line);
            return None;
        }
        self.last = Some(now);
        self.held = None;
        Some(line)
    }

    fn rest(&mut self) -> Option<String> {
        self.held.take()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_rare_and_the_last_is_never_lost() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.offer("1".into(), start).as_deref(), Some("1"));
        assert_eq!(pace.offer("2".into(), start + Duration::from_secs(1)), None);
        assert_eq!(pace.offer("3".into(), start + Duration::from_secs(4)), None);
        assert_eq!(pace.offer("4".into(), start + Duration::from_secs(6)).as_deref(), Some("4"));
        assert_eq!(pace.rest(), None, "a line that was followed by a newer one is not shown late");
        assert_eq!(pace.offer("5".into(), start + Duration::from_secs(7)), None);
        assert_eq!(pace.rest().as_deref(), Some("5"));
    }

    #[test]
    fn a_step_shows_loss_rate_speed_memory_and_time() {
        let step = Progress {
            step: 40,
            steps: 200,
            epoch: 0.4,
            loss: Some(2.5),
            learning_rate: 2e-4,
            grad_norm: 1.0,
            tokens_per_s: 812.4,
            peak_rss_bytes: 3 << 29,
            seconds_left: 200.0,
        };
        assert_eq!(
            describe(&JobProgress::Step(step)),
            "step 40/200 · loss 2.5000 · lr 2.00e-4 · 812 tok/s · 1.5 GiB · 3m 20s left · epoch 0.40"
        );
    }
}
