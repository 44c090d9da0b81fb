//! Stand-in for the lead's `app.rs`, so that this branch compiles; replaced at the merge.

use tokio::sync::{mpsc, watch};

use crate::config::Config;

/// Waits for the end.
pub async fn run(
    _config: Config,
    mut shutdown: watch::Receiver<bool>,
    _reload: mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    shutdown.wait_for(|stop| *stop).await?;
    Ok(())
}
