//! Counters in Prometheus' text format, under `GET /metrics`: how much was asked and answered.
//!
//! What always holds: a metric is a count and its labels are from a fixed set; no name of a person, a
//! dataset or an adapter is in them, since monitoring systems are read by many.
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use crate::access::Principal;

/// All counters, from the daemon's start.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

impl Metrics {
    /// A request to `api` was answered; a streamed one counts when it begins.
    pub fn answered(&self, api: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((api, status)).or_default() += 1;
    }

    /// An answer ended.
    pub fn generated(&self, prompt_tokens: u64, completion_tokens: u64) {
        self.prompt_tokens.fetch_add(prompt_tokens, Ordering::Relaxed);
        self.completion_tokens.fetch_add(completion_tokens, Ordering::Relaxed);
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        head(&mut text, "cloister_requests_total", "Requests answered, by API and HTTP status.");
        for ((api, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // A `String` takes all that is written to it; the same below.
            let _ = writeln!(text, "cloister_requests_total{{api=\"{api}\",status=\"{status}\"}} {count}");
        }
        for (name, help, value) in [
            ("cloister_prompt_tokens_total", "Tokens read for finished answers.", &self.prompt_tokens),
            ("cloister_completion_tokens_total", "Tokens written in finished answers.", &self.completion_tokens),
        ] {
            head(&mut text, name, help);
            let _ = writeln!(text, "{name} {}", value.load(Ordering::Relaxed));
        }
        text
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n");
}

/// `GET /metrics`, for whoever the door lets in.
pub fn routes(metrics: Arc<Metrics>) -> BoxedFilter<(Response,)> {
    warp::path!("metrics")
        .and(warp::get())
        .and(warp::ext::get::<Principal>())
        .map(move |_| {
            let text = metrics.render();
            warp::reply::with_header(text, "content-type", "text/plain; version=0.0.4").into_response()
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_written_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.answered("chat", 200);
        metrics.answered("chat", 200);
        metrics.answered("models", 403);
        metrics.generated(7, 3);
        let text = metrics.render();
        for line in [
            "# TYPE cloister_requests_total counter",
            "cloister_requests_total{api=\"chat\",status=\"200\"} 2",
            "cloister_requests_total{api=\"models\",status=\"403\"} 1",
            "cloister_prompt_tokens_total 7",
            "cloister_completion_tokens_total 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }
}
