//! `cloister serve`, `cloister undeploy` and `cloister deployments`.

use clap::Args;
use cloister_wire::admin::Deployment;
use serde_json::Value;

use super::Context;
use crate::client::{Reply, admin};
use crate::error::CliError;
use crate::{progress, render, values};

#[derive(Debug, Args)]
pub(crate) struct AdapterArgs {
    /// The adapter's name; clients use it as the model's name
    #[arg(value_parser = values::name)]
    pub(crate) adapter: String,
}

/// Serves an approved adapter; the answer comes when it is loaded.
pub(crate) async fn serve(context: &Context, adapter: &str) -> Result<(), CliError> {
    let client = context.client()?;
    let bar = progress::spinner(format!("loading `{adapter}`"));
    let reply: Result<Reply<Deployment>, _> = client.post_empty(&admin(&["deployments", adapter])).await;
    bar.finish_and_clear();
    context.print(&reply?, |deployment| {
        format!(
            "`{0}` is served on base `{1}`, approved by {2}; `cloister chat {0}` talks to it",
            deployment.adapter,
            deployment.base,
            render::list(&deployment.approvers)
        )
    });
    Ok(())
}

/// Stops serving an adapter.
pub(crate) async fn undeploy(context: &Context, adapter: &str) -> Result<(), CliError> {
    let reply = context.client()?.delete::<Value>(&admin(&["deployments", adapter])).await?;
    context.print(&reply, |_| format!("`{adapter}` is no longer served"));
    Ok(())
}

/// What is served.
pub(crate) async fn list(context: &Context) -> Result<(), CliError> {
    let reply = context.client()?.get::<Vec<Deployment>>(&admin(&["deployments"])).await?;
    context.print(&reply, |deployments| {
        let rows = deployments.iter().map(|deployment| {
            vec![
                deployment.adapter.clone(),
                deployment.base.clone(),
                render::list(&deployment.approvers),
                deployment.deployed_by.clone(),
                deployment.at.clone(),
            ]
        });
        render::table(&["adapter", "base", "approved by", "deployed by", "at"], rows)
    });
    Ok(())
}
