//! Giving up rights, for good, before the first byte of input is read.
//!
//! [`harden`] works in this order, each step irrevocable: no core dumps and not dumpable (so no debugger of the same
//! user attaches), no new privileges, resource limits, no file system (landlock), and last the system-call filter,
//! which would forbid the others. It holds for the calling thread and for every thread started later: call it before
//! there is a second one.
//!
//! The filter is data: [`KILLED`] ends the process (nothing honest asks for these here), [`ALLOWED`] goes through,
//! everything else answers `EPERM`, because libraries probe (`malloc` looks for the number of processors in `/sys`).

use std::io;

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What a process keeps.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Private writable memory in bytes (`RLIMIT_DATA`), which is what a process can really fill.
    pub data: u64,
    /// Address space in bytes (`RLIMIT_AS`); far more than `data` where memory is reserved and not used.
    pub address_space: u64,
    /// Highest number of open descriptors.
    pub descriptors: u64,
    /// System calls beyond [`ALLOWED`].
    pub extra_calls: &'static [i64],
}

impl Profile {
    /// One batch of records and one plugin. wasmtime reserves 4 GiB of address space for each instance's memory, so
    /// that it needs no bounds checks: two threads use well under 64 GiB.
    pub const SANDBOX: Self = Self { data: 1 << 30, address_space: 64 << 30, descriptors: 16, extra_calls: &[] };
}

/// Why the process is not protected; it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
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
    Landlock(#[from] landlock::RulesetError),
    /// The filter did not compile or load.
    #[error("the system-call filter could not be loaded: {0}")]
    Filter(String),
}

/// What nothing here ever does: asking for one of these means that somebody else is in control.
pub const KILLED: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
];

/// What it takes to talk over an open socket, compute on several threads, and end.
pub const ALLOWED: &[i64] = &[
    // the socket
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    // memory
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // threads; `clone` only with CLONE_THREAD, `clone3` only to hear that it does not exist
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_prctl,
    // signals: how wasmtime sees a guest's trap
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // time, chance, the end
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Gives up everything that `profile` does not keep. Call it on the only thread of the process.
///
/// # Errors
/// When the kernel refuses a step; the process is then half protected and must end. A kernel without landlock is no
/// error, because the filter already denies every call that takes a path.
pub fn harden(profile: &Profile) -> Result<(), HardenError> {
    process("dumpable", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    process("no_new_privs", rustix::thread::set_no_new_privs(true))?;
    let limits = [
        ("RLIMIT_CORE", Resource::Core, 0),
        ("RLIMIT_FSIZE", Resource::Fsize, 0),
        ("RLIMIT_NOFILE", Resource::Nofile, profile.descriptors),
        ("RLIMIT_MEMLOCK", Resource::Memlock, 0),
        ("RLIMIT_DATA", Resource::Data, profile.data),
        ("RLIMIT_AS", Resource::As, profile.address_space),
    ];
    for (what, resource, limit) in limits {
        process(what, setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }))?;
    }
    shut_out_files()?;
    filter_calls(profile.extra_calls)
}

fn process(what: &'static str, outcome: rustix::io::Result<()>) -> Result<(), HardenError> {
    outcome.map_err(|errno| HardenError::Process { what, source: errno.into() })
}

/// Handles every right and grants none. Returns whether the kernel enforces it.
fn shut_out_files() -> Result<bool, HardenError> {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Three filters; the kernel takes the strictest answer, and of two errors the later filter's.
fn filter_calls(extra: &[i64]) -> Result<(), HardenError> {
    let killed = KILLED.iter().map(|&call| (call, Vec::new())).collect();
    load(killed, SeccompAction::Allow, SeccompAction::KillProcess)?;
    // `clone3` hides its flags in memory where no filter can look. ENOSYS makes the C library fall back to `clone`.
    let missing = [(libc::SYS_clone3, Vec::new())].into();
    load(missing, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    let mut allowed: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(extra).map(|&call| (call, Vec::new())).collect();
    allowed.insert(libc::SYS_clone, vec![only_threads()?]);
    load(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn only_threads() -> Result<SeccompRule, HardenError> {
    let flag = libc::CLONE_THREAD as u64;
    SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| HardenError::Filter(error.to_string()))
}

fn load(
    calls: std::collections::BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> Result<(), HardenError> {
    let refused = |error: &dyn std::fmt::Display| HardenError::Filter(error.to_string());
    let arch = std::env::consts::ARCH.try_into().map_err(|error: seccompiler::BackendError| refused(&error))?;
    let filter = SeccompFilter::new(calls, otherwise, on_match, arch).map_err(|error| refused(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| refused(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| refused(&error))
}
