//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, one line of status, and
//! signs of life for its watchdog.
//!
//! What always holds: without a service manager (`$NOTIFY_SOCKET` unset) all of this does nothing, and
//! a message that cannot be sent is logged and never stops the daemon.

use std::time::Duration;

use sd_notify::NotifyState;

/// Started: the socket takes connections.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Reading the configuration again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!(error:% = error; "cannot read the clock to tell the service manager"),
    }
}

/// Stopping; running work gets at most so long.
pub fn stopping(timeout: Duration) {
    let micros = u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// Gives signs of life as long as `healthy` says so, at half the watchdog's interval. Returns at once
/// where no watchdog watches; otherwise it never does: spawn it.
///
/// `healthy` should touch what must not hang (the supervisor's mailbox, say): a daemon that merely
/// schedules tasks would otherwise look alive.
pub async fn watchdog<H, F>(healthy: H)
where
    H: Fn() -> F,
    F: Future<Output = bool>,
{
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // One slow answer is one missed sign of life, not the end of all.
        match tokio::time::timeout(interval / 2, healthy()).await {
            Ok(true) => send(&[NotifyState::Watchdog]),
            _ => log::error!("the daemon does not answer itself; the service manager's watchdog is not fed"),
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!(error:% = error; "cannot tell the service manager");
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn without_a_watchdog_there_is_nothing_to_feed() {
        super::watchdog(|| async { panic!("nobody asked") }).await;
    }
}
