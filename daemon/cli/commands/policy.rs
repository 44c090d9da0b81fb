//! `cloister policy`: which rules are in force, and what they would say.

use clap::{Args, Subcommand};
use cloister_wire::admin::{ApiError, CaseResult, ErrorCode, ExplainSpec, Explanation, PolicyInfo, RuleInfo};
use serde_json::json;

use super::Context;
use crate::client::{Reply, admin};
use crate::error::CliError;
use crate::{render, values};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the rules in force
    #[command(after_help = "Example:\n  cloister policy list")]
    List,
    /// Show a rule
    #[command(after_help = "Example:\n  cloister policy show deidentify-before-training")]
    Show {
        /// Its id, as a denial names it
        rule: String,
    },
    /// Ask what would be said to an action, and why; nothing is done
    #[command(after_help = "\
Examples:
  cloister policy explain Train visits --purpose summaries
  cloister policy explain Serve notes --principal bea")]
    Explain(ExplainArgs),
    /// Run the cases that test the rules; exits 1 if one came out otherwise
    #[command(after_help = "Example:\n  cloister policy test")]
    Test,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A verb of the policy, such as Train or Serve
    action: String,
    /// A dataset, adapter or model; the appliance itself when left out
    object: Option<String>,
    /// Another user than you
    #[arg(long, value_name = "USER")]
    principal: Option<String>,
    /// For this purpose
    #[arg(long, value_parser = values::purpose)]
    purpose: Option<String>,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::List => list(context).await,
        Verb::Show { rule } => show(context, &rule).await,
        Verb::Explain(args) => explain(context, args).await,
        Verb::Test => test(context).await,
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let reply: Reply<PolicyInfo> = context.client()?.get(&admin(&["policy"])).await?;
    context.print(&reply, |policy| {
        let rows = policy
            .rules
            .iter()
            .map(|rule| vec![rule.id.clone(), rule.effect.clone(), rule.reason.clone(), rule.file.clone()]);
        format!("{}\n\ndigest {}", render::table(&["rule", "effect", "reason", "file"], rows), policy.digest)
    });
    Ok(())
}

async fn show(context: &Context, id: &str) -> Result<(), CliError> {
    let policy: Reply<PolicyInfo> = context.client()?.get(&admin(&["policy"])).await?;
    let at = policy.value.rules.iter().position(|rule| rule.id == id);
    let Some(at) = at else {
        let error = ApiError::new(ErrorCode::NotFound, format!("there is no rule `{id}`"));
        return Err(error.remedy("`cloister policy list` shows all").into());
    };
    let json = policy.json().get("rules").and_then(|rules| rules.get(at)).cloned().unwrap_or_else(|| json!(null));
    context.print_done(&json, &describe_rule(&policy.value.rules[at]));
    Ok(())
}

fn describe_rule(rule: &RuleInfo) -> String {
    render::facts([
        ("rule", rule.id.clone()),
        ("effect", rule.effect.clone()),
        ("reason", rule.reason.clone()),
        ("remedy", rule.remedy.clone()),
        ("file", rule.file.clone()),
    ])
}

async fn explain(context: &Context, args: ExplainArgs) -> Result<(), CliError> {
    let spec =
        ExplainSpec { action: args.action, object: args.object, principal: args.principal, purpose: args.purpose };
    let reply: Reply<Explanation> = context.client()?.post(&admin(&["policy", "explain"]), &spec).await?;
    context.print(&reply, describe);
    Ok(())
}

/// The answer, the rules, and the facts that they saw.
pub(crate) fn describe(explanation: &Explanation) -> String {
    let answer = render::facts([
        ("answer", if explanation.allowed { "allowed" } else { "DENIED" }.into()),
        ("rules", render::list(&explanation.rules)),
        ("reason", explanation.reason.clone()),
        ("next", explanation.remedy.clone()),
    ]);
    let facts = explanation.facts.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
    format!("{answer}\n\n{}", render::table(&["fact", "value"], facts))
}

async fn test(context: &Context) -> Result<(), CliError> {
    let reply: Reply<Vec<CaseResult>> = context.client()?.post_empty(&admin(&["policy", "test"])).await?;
    context.print(&reply, |cases| {
        let rows = cases.iter().map(|case| {
            vec![if case.passed { "ok" } else { "FAILED" }.into(), case.case.clone(), case.message.clone()]
        });
        render::table(&["", "case", "found"], rows)
    });
    let failed = reply.value.iter().filter(|case| !case.passed).count();
    if failed == 0 {
        return Ok(());
    }
    let all = reply.value.len();
    Err(CliError::verdict(ErrorCode::Failed, format!("{failed} of {all} policy cases came out otherwise")))
}
