//! Giving up rights, for good, before the first byte of input is read. It is a crate because two workers do it and
//! may not share more: the sandbox links wasmtime, the engine libtorch. What each keeps is data, a [`Profile`].
//!
//! [`confine`] works in this order, each step irrevocable: no core dumps and not dumpable (so no debugger of the same
//! user attaches), no new privileges, resource limits, no file system (landlock), and last the system-call filter,
//! which would forbid the others.
//!
//! INVARIANT: it holds for every thread, because it is refused when there is more than one
//! (`a_second_thread_is_refused`), and threads inherit it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

pub mod profile;

pub use profile::Profile;

/// Why the process is not confined; it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// What cannot hold for all of them.
    #[error("{0} threads run already, and the confinement would hold for one of them only; this is a bug")]
    Threads(usize),
    /// A limit or flag of the process.
    #[error("`{what}` could not be set: {source}")]
    Process {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system could not be shut out.
    #[error("landlock refused the rules: {0}")]
    Landlock(#[from] RulesetError),
    /// The filter did not compile or load.
    #[error("the system-call filter could not be loaded: {0}; the kernel needs CONFIG_SECCOMP_FILTER")]
    Filter(String),
}

/// A process that is confined, and how well this kernel can do it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a kernel that cannot do all of it is to be reported"]
pub struct Confined {
    landlock: RulesetStatus,
    opens_by_name: bool,
}

impl Confined {
    /// One line for the log where landlock does not do all that was asked. The filter holds in any case.
    pub fn warning(&self) -> Option<&'static str> {
        match (&self.landlock, self.opens_by_name) {
            (RulesetStatus::FullyEnforced, _) => None,
            (RulesetStatus::PartiallyEnforced, _) => Some(
                "this kernel enforces only a part of landlock (Linux 6.12 has all of it); the rest is left to seccomp",
            ),
            (RulesetStatus::NotEnforced, false) => Some(
                "this kernel does not enforce landlock; seccomp alone denies files and sockets: add `landlock` to the \
                 boot parameter `lsm=` for both",
            ),
            (RulesetStatus::NotEnforced, true) => Some(
                "this kernel does not enforce landlock, and a GPU's driver has to open files: this process can read \
                 whatever its user may; add `landlock` to the boot parameter `lsm=`",
            ),
        }
    }
}

/// Gives up everything that `profile` does not keep. Call it on the only thread of the process.
///
/// # Errors
/// When the kernel refuses a step; the process is then half confined and must end. A kernel without landlock is no
/// error, because the filter denies every call that takes a path; [`Confined::warning`] speaks of it.
pub fn confine(profile: &Profile) -> Result<Confined, ConfineError> {
    alone()?;
    process("dumpable", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    process("no_new_privs", rustix::thread::set_no_new_privs(true))?;
    limit(profile)?;
    let landlock = shut_out_files(profile)?;
    filter_calls(profile)?;
    Ok(Confined { landlock, opens_by_name: profile.opens_by_name() })
}

fn alone() -> Result<(), ConfineError> {
    let tasks = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    match tasks.map_err(|source| ConfineError::Process { what: "/proc/self/task", source })? {
        1 => Ok(()),
        threads => Err(ConfineError::Threads(threads)),
    }
}

fn process(what: &'static str, outcome: rustix::io::Result<()>) -> Result<(), ConfineError> {
    outcome.map_err(|errno| ConfineError::Process { what, source: errno.into() })
}

fn limit(profile: &Profile) -> Result<(), ConfineError> {
    let limits = [
        ("RLIMIT_CORE", Resource::Core, Some(0)),
        ("RLIMIT_FSIZE", Resource::Fsize, (!logs_to_a_file()).then_some(0)),
        ("RLIMIT_NOFILE", Resource::Nofile, Some(profile.descriptors)),
        ("RLIMIT_MEMLOCK", Resource::Memlock, Some(0)),
        ("RLIMIT_DATA", Resource::Data, profile.data),
        ("RLIMIT_AS", Resource::As, profile.address_space),
    ];
    let wanted = limits.into_iter().filter_map(|(what, resource, limit)| Some((what, resource, limit?)));
    for (what, resource, limit) in wanted {
        process(what, setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }))?;
    }
    Ok(())
}

/// Somebody redirected the log into a plain file. `RLIMIT_FSIZE` would end the process at its first warning, and no
/// other file can be written: none can be opened, and those that are passed to it are read-only.
fn logs_to_a_file() -> bool {
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
}

/// Handles every right, and grants only what the profile names and this machine has.
fn shut_out_files(profile: &Profile) -> Result<RulesetStatus, ConfineError> {
    let abi = ABI::V6;
    let rules =
        granted(profile).into_iter().map(|(file, access)| Ok::<_, RulesetError>(PathBeneath::new(file, access)));
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(rules)?
        .restrict_self()?;
    Ok(status.ruleset)
}

fn granted(profile: &Profile) -> Vec<(File, BitFlags<AccessFs>)> {
    let readable = profile.readable.iter().map(PathBuf::from).map(|path| (path, AccessFs::ReadFile.into()));
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let devices = profile.devices.iter().flat_map(|prefix| beginning_with(prefix)).map(|path| (path, device));
    readable.chain(devices).filter_map(|(path, access)| rule(&path, access)).collect()
}

/// A path that is not there needs no rule.
fn rule(path: &Path, access: BitFlags<AccessFs>) -> Option<(File, BitFlags<AccessFs>)> {
    use rustix::fs::{Mode, OFlags};
    let file = File::from(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?);
    let folder = file.metadata().ok()?.is_dir();
    Some((file, if folder { access | AccessFs::ReadDir } else { access }))
}

fn beginning_with(prefix: &str) -> Vec<PathBuf> {
    let Some((folder, beginning)) = prefix.rsplit_once('/') else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names =
        entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(beginning.as_bytes()));
    names.map(|entry| entry.path()).collect()
}

/// Three filters; the kernel takes the strictest answer, and of two errors the later filter's.
fn filter_calls(profile: &Profile) -> Result<(), ConfineError> {
    load(unconditional(profile.fatal), SeccompAction::Allow, SeccompAction::KillProcess)?;
    // `clone3` hides its flags in memory where no filter can look. ENOSYS makes the C library fall back to `clone`.
    let missing = [(libc::SYS_clone3, Vec::new())].into();
    load(missing, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    let mut allowed = unconditional(profile.calls);
    allowed.extend(conditional()?);
    load(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn unconditional(lists: &[&[i64]]) -> Calls {
    lists.iter().flat_map(|list| list.iter()).map(|&call| (call, Vec::new())).collect()
}

/// Threads and no processes; a thread's name and nothing else of `prctl`; a signal to oneself (`abort`) and to nobody
/// else of the same user.
fn conditional() -> Result<Calls, ConfineError> {
    let threads = libc::CLONE_THREAD as u64;
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u64;
    let rules = [
        (libc::SYS_clone, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(threads), threads),
        (libc::SYS_prctl, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64),
        (libc::SYS_tgkill, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, pid),
    ];
    let rule = |(call, length, operator, value)| {
        let condition = SeccompCondition::new(0, length, operator, value)?;
        Ok((call, vec![SeccompRule::new(vec![condition])?]))
    };
    rules.into_iter().map(rule).collect::<Result<_, BackendError>>().map_err(refused)
}

fn load(calls: Calls, otherwise: SeccompAction, on_match: SeccompAction) -> Result<(), ConfineError> {
    let arch = std::env::consts::ARCH.try_into().map_err(|error: BackendError| refused(error))?;
    let filter = SeccompFilter::new(calls, otherwise, on_match, arch).map_err(refused)?;
    let program = BpfProgram::try_from(filter).map_err(refused)?;
    seccompiler::apply_filter(&program).map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> ConfineError {
    ConfineError::Filter(error.to_string())
}
