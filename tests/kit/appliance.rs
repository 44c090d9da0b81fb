//! A real `cloisterd` in a folder of its own, and `cloister` as any of its users.
//!
//! Tests and `cargo xtask demo` both stand on it, so that what the demo shows is what the tests hold. It speaks
//! to the binaries only: nothing of the daemon is linked. The daemon never outlives its `Appliance`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The administrator whom `cloisterd init` makes.
pub(crate) const ADMINISTRATOR: &str = "alice";

/// Longest that the daemon may take to answer; issue 2 asks for 5 s, a busy two-core machine gets a margin.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Longest that it may take to drain and stop.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// A Unix socket's path holds 108 bytes, and the daemon makes it under a longer name first.
const LONGEST_SOCKET_PATH: usize = 91;

/// An appliance: folder, daemon, users.
pub(crate) struct Appliance {
    /// Holds everything below.
    pub(crate) folder: PathBuf,
    /// Where `cloisterd`, `cloister` and the workers lie.
    binaries: PathBuf,
    socket: PathBuf,
    daemon: Option<Child>,
}

impl Appliance {
    /// Writes the configuration (`extra` is TOML put behind it) and runs `cloisterd init`; nothing is started.
    pub(crate) fn create(binaries: &Path, folder: &Path, extra: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let appliance = Self {
            folder: folder.to_path_buf(),
            binaries: binaries.to_path_buf(),
            socket: socket_path(folder)?,
            daemon: None,
        };
        write_secret(&appliance.credential(), &random_bytes(32)?)?;
        fs::write(appliance.config(), appliance.configuration(extra))?;
        let mut init = appliance.cloisterd();
        init.args(["init", "--administrator", ADMINISTRATOR, "--identity"]).arg(appliance.identity(ADMINISTRATOR));
        let output = init.output().context("cannot start `cloisterd init`")?;
        if !output.status.success() {
            bail!("`cloisterd init` failed: {}", text(&output.stderr).trim());
        }
        Ok(appliance)
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let child = self.cloisterd().arg("run").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.daemon = Some(child.context("cannot start `cloisterd`")?);
        let deadline = Instant::now() + START_DEADLINE;
        while !self.run(ADMINISTRATOR, &["status"])?.status.success() {
            if let Some(status) = self.exited()? {
                bail!("`cloisterd` ended at once ({status}): {}", self.log_tail(5));
            }
            if Instant::now() > deadline {
                bail!("`cloisterd` does not answer after {START_DEADLINE:?}: {}", self.log_tail(5));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Asks the daemon to drain and end, and waits until it has.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        let daemon = self.daemon.as_mut().context("the daemon is not running")?;
        kill_process(Pid::from_child(daemon), Signal::TERM)?;
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill9()?;
                bail!("`cloisterd` did not end within {STOP_DEADLINE:?} of SIGTERM: {}", self.log_tail(5));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the daemon as a power cut would.
    pub(crate) fn kill9(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// The daemon's child with this name (`cloister-engine`, `cloister-sandbox`), if it runs one now.
    pub(crate) fn worker(&self, name: &str) -> Option<Pid> {
        let daemon = self.daemon.as_ref()?.id();
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| is_child(*pid, daemon, name)).find_map(Pid::from_raw)
    }

    /// The daemon's process, while it runs.
    pub(crate) fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Makes a user and keeps their certificate under `identities/NAME`.
    pub(crate) fn add_user(&self, name: &str, roles: &[&str]) -> Result<()> {
        let identity = self.identity(name);
        let identity = identity.to_string_lossy();
        let mut arguments = vec!["user", "add", name, "--out", &identity];
        roles.iter().for_each(|role| arguments.extend(["--role", role]));
        self.succeed(ADMINISTRATOR, &arguments).map(drop)
    }

    /// `cloister` as a user, ready to be given more.
    pub(crate) fn command(&self, user: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.join("cloister"));
        command.arg("--socket").arg(&self.socket).arg("--identity").arg(self.identity(user)).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `cloister` as a user, whatever comes of it.
    pub(crate) fn run(&self, user: &str, arguments: &[&str]) -> Result<Output> {
        self.command(user, arguments).output().context("cannot start `cloister`")
    }

    /// Runs `cloister` as a user; a failure is an error with what it said. Gives its stdout.
    pub(crate) fn succeed(&self, user: &str, arguments: &[&str]) -> Result<String> {
        let output = self.run(user, arguments)?;
        if !output.status.success() {
            let (line, said) = (arguments.join(" "), text(&output.stderr));
            bail!("`cloister {line}` as {user} failed ({}): {}", output.status, said.trim());
        }
        Ok(text(&output.stdout))
    }

    /// Runs `cloister --json` as a user and parses what it prints.
    pub(crate) fn json(&self, user: &str, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let printed = self.succeed(user, &all)?;
        serde_json::from_str(&printed)
            .with_context(|| format!("`cloister {}` printed no JSON: `{}`", all.join(" "), printed.trim()))
    }

    /// A user's certificate and key: `certificate.pem`, `key.pem`, `ca.pem`.
    pub(crate) fn identity(&self, user: &str) -> PathBuf {
        self.folder.join("identities").join(user)
    }

    /// The door.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The state folder: what may hold no plaintext.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What the daemon says.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("cloisterd.log")
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("cloister.toml")
    }

    /// The last lines of the log, for errors.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = fs::read(self.log()).map(|bytes| text(&bytes)).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// `cloisterd` with its configuration.
    pub(crate) fn cloisterd(&self) -> Command {
        let mut command = Command::new(self.binaries.join("cloisterd"));
        command.arg("--config").arg(self.config());
        command
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.daemon.as_mut().context("the daemon is not running")?.try_wait()?;
        if status.is_some() {
            self.daemon = None;
        }
        Ok(status)
    }

    /// The file that holds the root key, as systemd would hand it over.
    fn credential(&self) -> PathBuf {
        self.folder.join("root-key")
    }

    /// `extra` comes first: it may hold keys of no section, and sections that are not below.
    fn configuration(&self, extra: &str) -> String {
        let path = |path: &Path| toml_text(&path.to_string_lossy());
        format!(
            "state_dir = {state}\n{root}{extra}\n\
             [door]\nsocket = {socket}\n\
             [unseal]\nsource = \"credential\"\ncredential = {credential}\n\
             [policy]\ndir = {policies}\n",
            state = path(&self.state()),
            root = if rustix::process::geteuid().is_root() { "allow_root = true\n" } else { "" },
            socket = path(&self.socket),
            credential = path(&self.credential()),
            policies = path(&repository().join("policies")),
        )
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the daemon's folder is going away anyway.
        let _ = self.kill9();
        if !self.socket.starts_with(&self.folder)
            && let Some(folder) = self.socket.parent()
        {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The checkout's root, for policies, plugins and the embedded model.
pub(crate) fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let holds_all = |folder: &&Path| folder.join("packaging/demo").is_dir();
    package.ancestors().find(holds_all).map_or_else(|| package.clone(), Path::to_path_buf)
}

/// Bytes that a program printed.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// In the appliance's folder; in a short one of its own where that path is too long for a socket.
fn socket_path(folder: &Path) -> Result<PathBuf> {
    let inside = std::path::absolute(folder)?.join("cloister.sock");
    if inside.as_os_str().len() <= LONGEST_SOCKET_PATH {
        return Ok(inside);
    }
    let short = std::env::temp_dir().join(format!("cloister-{}", random_letters(12)?));
    fs::create_dir(&short)?;
    Ok(short.join("cloister.sock"))
}

/// Letters that stand nowhere else, for canaries. Letters alone, lest a cleaner takes them for a number.
pub(crate) fn random_letters(count: usize) -> Result<String> {
    Ok(random_bytes(count)?.into_iter().map(|byte| char::from(b'a' + byte % 26)).collect())
}

fn random_bytes(count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// For the owner's eyes, from its first byte on.
fn write_secret(path: &Path, content: &[u8]) -> Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("cannot create `{}`", path.display()))?;
    file.write_all(content).with_context(|| format!("cannot write `{}`", path.display()))
}

/// A TOML basic string; JSON's escapes are TOML's.
fn toml_text(text: &str) -> String {
    Value::from(text).to_string()
}

fn is_child(pid: i32, parent: u32, name: &str) -> bool {
    // pid (comm) state ppid …; comm may hold spaces and brackets, and is cut at 15 bytes.
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((head, tail)) = stat.rsplit_once(") ") else { return false };
    let Some((_, comm)) = head.split_once('(') else { return false };
    let mut fields = tail.split(' ');
    let alive = fields.next() != Some("Z");
    alive && name.starts_with(comm) && fields.next().is_some_and(|ppid| ppid == parent.to_string())
}
