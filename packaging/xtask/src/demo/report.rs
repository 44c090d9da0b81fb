//! What the demo measured: the table at its end, `target/demo/report.json`, and what falls short.

use anyhow::Result;
use cloister_wire::admin::{Adapter, AuditReport, Dataset, EvalReport};
use serde_json::{Value, json};

/// Denials that the story provokes.
pub(crate) const DENIALS_EXPECTED: usize = 3;

/// Everything that was seen on the way.
pub(crate) struct Report {
    pub(crate) model: String,
    pub(crate) visits: Dataset,
    pub(crate) adapter: Adapter,
    pub(crate) evaluation: EvalReport,
    /// The rule of each denial, in order.
    pub(crate) denials: Vec<String>,
    pub(crate) audit: AuditReport,
    /// Files in which the canary was found, while the records were sealed and after they were shredded.
    pub(crate) canary_hits: usize,
    /// Files that were searched for it.
    pub(crate) files_searched: usize,
    pub(crate) sample_prompt: String,
    pub(crate) sample_answer: String,
    pub(crate) seconds: f64,
}

impl Report {
    /// The file's content.
    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.figures())? + "\n")
    }

    fn figures(&self) -> Value {
        let (base, adapter) = (&self.evaluation.figures.base, &self.evaluation.figures.adapter);
        let cleaning = self.visits.cleaning.clone().unwrap_or_default();
        json!({
            "model": self.model,
            "held_out_loss_base": base.loss,
            "held_out_loss_adapter": adapter.loss,
            "perplexity_base": base.perplexity,
            "perplexity_adapter": adapter.perplexity,
            "rouge1_base": base.rouge1,
            "rouge1_adapter": adapter.rouge1,
            "rouge2_base": base.rouge2,
            "rouge2_adapter": adapter.rouge2,
            "rougeL_base": base.rouge_l,
            "rougeL_adapter": adapter.rouge_l,
            "held_out_records": self.evaluation.figures.records,
            "held_out_generated": self.evaluation.figures.generated,
            "train_steps": self.adapter.summary.as_ref().map(|summary| summary.steps),
            "train_seconds": self.adapter.summary.as_ref().map(|summary| summary.seconds),
            "train_tokens_per_s": self.adapter.summary.as_ref().map(|summary| summary.tokens_per_s),
            "peak_rss_mb": self.peak_rss_mb(),
            "records_in": self.visits.records_in,
            "records_clean": self.visits.records,
            "findings": cleaning.total_findings(),
            "findings_by_kind": cleaning.findings,
            "residual_findings": cleaning.residual_findings,
            "denials": self.denials.len(),
            "denied_by": self.denials,
            "audit_records": self.audit.records,
            "audit_verified": self.audit.verified,
            "canary_hits": self.canary_hits,
            "files_searched": self.files_searched,
            "sample_prompt": self.sample_prompt,
            "sample_answer": self.sample_answer,
            "seconds": self.seconds,
        })
    }

    /// Of the engine, training or evaluating, whichever needed more.
    fn peak_rss_mb(&self) -> u64 {
        let training = self.adapter.summary.as_ref().map_or(0, |summary| summary.peak_rss_bytes);
        training.max(self.evaluation.figures.peak_rss_bytes) / 1_000_000
    }

    /// For a person.
    pub(crate) fn table(&self) -> String {
        let (base, adapter) = (&self.evaluation.figures.base, &self.evaluation.figures.adapter);
        let cleaning = self.visits.cleaning.clone().unwrap_or_default();
        let speed = self.adapter.summary.as_ref().map_or(0.0, |summary| summary.tokens_per_s);
        let rows = [
            ("", "base".into(), "with adapter".into()),
            ("held-out loss", format!("{:.4}", base.loss), format!("{:.4}", adapter.loss)),
            ("perplexity", format!("{:.2}", base.perplexity), format!("{:.2}", adapter.perplexity)),
            ("ROUGE-1", format!("{:.4}", base.rouge1), format!("{:.4}", adapter.rouge1)),
            ("ROUGE-2", format!("{:.4}", base.rouge2), format!("{:.4}", adapter.rouge2)),
            ("ROUGE-L", format!("{:.4}", base.rouge_l), format!("{:.4}", adapter.rouge_l)),
        ];
        let mut table: String =
            rows.iter().map(|(name, base, adapter)| format!("  {name:<16}{base:>12}{adapter:>16}\n")).collect();
        let facts = [
            ("base model", self.model.clone()),
            ("records", format!("{} in, {} after cleaning", self.visits.records_in, self.visits.records)),
            ("identifiers", format!("{} replaced, {} left", cleaning.total_findings(), cleaning.residual_findings)),
            ("training", format!("{speed:.0} tokens/s, peak {} MB", self.peak_rss_mb())),
            ("denied by", self.denials.join(", ")),
            ("audit log", format!("{} records, {}", self.audit.records, verified(self.audit.verified))),
            ("canary", format!("in {} of {} files searched", self.canary_hits, self.files_searched)),
            ("took", format!("{:.0} s", self.seconds)),
        ];
        table.push('\n');
        table.extend(facts.iter().map(|(name, fact)| format!("  {name:<16}{fact}\n")));
        table
    }

    /// Why the demo failed, if it did.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        let (base, adapter) = (&self.evaluation.figures.base, &self.evaluation.figures.adapter);
        let rules = [
            // Written so that a NaN falls short.
            (
                adapter.loss < base.loss,
                format!("held-out loss {:.4} against the base's {:.4}", adapter.loss, base.loss),
            ),
            (adapter.rouge_l > base.rouge_l, format!("ROUGE-L {:.4} against {:.4}", adapter.rouge_l, base.rouge_l)),
            (self.denials.len() == DENIALS_EXPECTED, format!("{} denials, not {DENIALS_EXPECTED}", self.denials.len())),
            (self.audit.verified, format!("the audit log: {}", self.audit.first_bad.clone().unwrap_or_default())),
            (self.audit.records > 0, "the audit log is empty".into()),
            (self.canary_hits == 0, format!("the canary is in {} files", self.canary_hits)),
            (self.files_searched > 0, "no file was searched for the canary".into()),
            (!self.sample_answer.trim().is_empty(), "the served adapter said nothing".into()),
        ];
        rules.into_iter().filter(|(holds, _)| !holds).map(|(_, shortfall)| shortfall).collect()
    }
}

fn verified(verified: bool) -> &'static str {
    if verified { "verified" } else { "NOT verified" }
}
