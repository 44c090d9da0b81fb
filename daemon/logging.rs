//! Where log records go: to the journal with their fields when stderr is connected to it, to stderr
//! elsewhere, as `TIME LEVEL message key=value …`.
//!
//! What always holds: a record is one line (control characters are escaped, so that a name or a path
//! cannot forge a second one), and what is logged are names, ids, counts and errors. Text of records,
//! prompts or answers is never passed to `log`; the story test greps the log for its canary.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use log::LevelFilter;
use log::kv::{Key, Value, VisitSource};

/// Crates whose chatter is the developer's, not the administrator's.
const QUIET: [&str; 4] = ["rustls", "hyper", "sled", "cedar_policy"];

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The journal's socket cannot be opened.
    #[error("stderr is connected to the journal, but its socket does not open: {0}")]
    Journal(std::io::Error),
    /// Called twice.
    #[error("a logger is installed already")]
    Installed(#[from] log::SetLoggerError),
}

/// Installs the logger.
///
/// # Errors
/// `Journal`, `Installed`.
pub fn start(level: LevelFilter) -> Result<(), LoggingError> {
    // True when $JOURNAL_STREAM names stderr's own device and inode: under systemd, unless redirected.
    if systemd_journal_logger::connected_to_journal() {
        let journal = systemd_journal_logger::JournalLog::new().map_err(LoggingError::Journal)?;
        log::set_boxed_logger(Box::new(Sieve(journal.with_syslog_identifier("cloisterd".into()))))?;
    } else {
        log::set_boxed_logger(Box::new(Sieve(to_stderr())))?;
    }
    set_level(level);
    Ok(())
}

/// Changes how much is logged, as SIGHUP may.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Lets other crates speak from `warn` on, below it only when everything is asked for.
struct Sieve<L>(L);

impl<L: log::Log> log::Log for Sieve<L> {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let foreign = QUIET.iter().any(|name| metadata.target().starts_with(name));
        let most = if foreign { LevelFilter::Warn } else { LevelFilter::Trace };
        metadata.level() <= most || log::max_level() == LevelFilter::Trace
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn to_stderr() -> env_logger::Logger {
    env_logger::Builder::new()
        .filter_level(LevelFilter::Trace) // `Sieve` and `log::max_level` decide
        .format(|out, record| writeln!(out, "{} {}", out.timestamp_millis(), line(record)))
        .build()
}

fn line(record: &log::Record<'_>) -> String {
    let mut line = format!("{:<5} {}", record.level(), OneLine(&record.args().to_string()));
    // A `String` takes all that is written to it, and so the visitor never fails.
    let _ = record.key_values().visit(&mut Fields(&mut line));
    line
}

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = value.to_string();
        let plain = !value.is_empty() && !value.contains([' ', '"', '=']);
        let written =
            if plain { write!(self.0, " {key}={}", OneLine(&value)) } else { write!(self.0, " {key}={value:?}") };
        Ok(written?)
    }
}

/// A text without line breaks or terminal escapes.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn rendered(message: &str, fields: &[(&str, &str)]) -> String {
        line(
            &log::Record::builder().level(log::Level::Warn).args(format_args!("{message}")).key_values(&fields).build(),
        )
    }

    #[test]
    fn fields_follow_the_message() {
        let line = rendered("refused", &[("uid", "1000"), ("why", "no such user"), ("empty", "")]);
        assert_eq!(line, "WARN  refused uid=1000 why=\"no such user\" empty=\"\"");
    }

    #[test]
    fn a_value_cannot_forge_a_second_line() {
        let line = rendered("name\nERROR all is lost", &[("path", "a\nb"), ("spaced", "a b\u{1b}[2J")]);
        assert!(!line.contains(['\n', '\u{1b}']), "{line:?}");
    }

    #[test]
    fn other_crates_are_heard_from_warnings_on() {
        struct Nowhere;
        impl log::Log for Nowhere {
            fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                true
            }
            fn log(&self, _: &log::Record<'_>) {}
            fn flush(&self) {}
        }
        let heard = |target, level| {
            let metadata = log::Metadata::builder().target(target).level(level).build();
            log::Log::enabled(&Sieve(Nowhere), &metadata)
        };
        assert!(heard("cloister::app", log::Level::Info) && heard("rustls::conn", log::Level::Warn));
        assert!(!heard("rustls::conn", log::Level::Info));
    }
}
