//! What a profile denies and what it leaves, tried. Each probe runs in a process of its own that is this program
//! again, before it has a second thread: the usual test harness would have started one, so this one is its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

use cloister_confine::{ConfineError, Profile, confine};
use rustix::process::{PidfdFlags, Resource, Rlimit, Signal, getppid, getrlimit, kill_process, pidfd_open, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const PROBE: &str = "CLOISTER_CONFINE_PROBE";

type Check = fn();

const CHECKS: &[(&str, Check)] = &[
    ("files_are_denied", files_are_denied),
    ("names_and_sizes_of_files_are_denied", names_and_sizes_of_files_are_denied),
    ("sockets_and_programs_are_fatal", sockets_and_programs_are_fatal),
    ("threads_memory_time_and_chance_are_left", threads_memory_time_and_chance_are_left),
    ("a_signal_reaches_only_oneself", a_signal_reaches_only_oneself),
    ("weights_are_read_by_position", weights_are_read_by_position),
    ("limits_cannot_be_raised_again", limits_cannot_be_raised_again),
    ("a_second_thread_is_refused", a_second_thread_is_refused),
    ("without_a_filter_it_fails", without_a_filter_it_fails),
    ("without_landlock_it_warns_and_the_filter_holds", without_landlock_it_warns_and_the_filter_holds),
    ("a_gpu_reads_the_system_and_nothing_else", a_gpu_reads_the_system_and_nothing_else),
];

fn main() {
    if let Ok(probe) = std::env::var(PROBE) {
        return run_probe(&probe);
    }
    for (name, check) in CHECKS {
        check();
        println!("test {name} ... ok");
    }
}

/// Both profiles that open nothing.
const CLOSED: [&str; 2] = ["sandbox", "engine"];

fn files_are_denied() {
    for profile in CLOSED {
        passes(profile, "open");
        passes(profile, "create");
    }
}

fn names_and_sizes_of_files_are_denied() {
    CLOSED.iter().for_each(|profile| passes(profile, "stat"));
}

fn sockets_and_programs_are_fatal() {
    for profile in CLOSED {
        for fatal in ["socket", "unix", "exec", "pidfd"] {
            let status = probe(profile, fatal);
            assert_eq!(status.signal(), Some(libc::SIGSYS), "`{fatal}` under `{profile}`: {status}");
        }
    }
}

fn threads_memory_time_and_chance_are_left() {
    for profile in CLOSED {
        passes(profile, "thread");
        passes(profile, "memory");
    }
}

fn a_signal_reaches_only_oneself() {
    for profile in CLOSED {
        passes(profile, "signal");
        assert_eq!(probe(profile, "abort").signal(), Some(libc::SIGABRT));
    }
}

fn weights_are_read_by_position() {
    passes("engine", "pread");
}

fn limits_cannot_be_raised_again() {
    CLOSED.iter().for_each(|profile| passes(profile, "limits"));
}

fn a_second_thread_is_refused() {
    passes("sandbox", "second thread");
}

fn without_a_filter_it_fails() {
    passes("engine", "no seccomp");
}

fn without_landlock_it_warns_and_the_filter_holds() {
    passes("engine", "no landlock");
    passes("gpu", "no landlock, gpu");
}

fn a_gpu_reads_the_system_and_nothing_else() {
    passes("gpu", "gpu");
}

fn passes(profile: &str, what: &str) {
    let status = probe(profile, what);
    assert!(status.success(), "`{what}` under `{profile}`: {status}");
}

fn probe(profile: &str, what: &str) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    // A pipe, as under the daemon: a log that is a plain file lifts one limit.
    let output = child.env(PROBE, format!("{profile}/{what}")).stdin(Stdio::null()).output().unwrap();
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    output.status
}

fn run_probe(probe: &str) {
    let (profile, what) = probe.split_once('/').unwrap();
    let profile = match profile {
        "sandbox" => Profile::SANDBOX,
        "engine" => Profile::ENGINE_CPU,
        _ => Profile::ENGINE_CUDA,
    };
    match what {
        "second thread" => second_thread(&profile),
        "no seccomp" => no_seccomp(&profile),
        "no landlock" => no_landlock(&profile, "seccomp alone"),
        "no landlock, gpu" => no_landlock(&profile, "whatever its user may"),
        "pread" => pread(&profile),
        "signal" => signal(&profile),
        "gpu" => gpu(&profile),
        _ => {
            let _ = confine(&profile).unwrap();
            confined_probe(what);
        }
    }
}

fn confined_probe(what: &str) {
    match what {
        "open" => denied(File::open("/etc/passwd")),
        "create" => denied(File::create("/tmp/cloister-confine-probe")),
        "stat" => denied(std::fs::metadata("/etc/passwd")),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "unix" => drop(std::os::unix::net::UnixStream::pair()),
        "exec" => drop(Command::new("/bin/true").exec()),
        "pidfd" => drop(pidfd_open(rustix::process::getpid(), PidfdFlags::empty())),
        "thread" => {
            assert_eq!(std::thread::Builder::new().name("named".into()).spawn(|| 7).unwrap().join().unwrap(), 7)
        }
        "memory" => {
            assert!(std::hint::black_box(vec![1u8; 64 << 20]).iter().all(|byte| *byte == 1));
            assert!(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() > 0);
            std::thread::sleep(std::time::Duration::from_millis(1));
            // Every hash map draws its keys from `getrandom`.
            drop(std::collections::HashMap::<u8, u8>::new());
        }
        "abort" => std::process::abort(),
        "limits" => {
            let more = Rlimit { current: Some(4096), maximum: Some(4096) };
            assert!(setrlimit(Resource::Fsize, more).is_err());
        }
        other => panic!("no probe `{other}`"),
    }
}

fn denied<T: std::fmt::Debug>(outcome: std::io::Result<T>) {
    assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EPERM));
}

fn second_thread(profile: &Profile) {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || held.recv());
    assert!(matches!(confine(profile), Err(ConfineError::Threads(2))));
    drop(hold);
    assert!(thread.join().unwrap().is_err());
}

fn pread(profile: &Profile) {
    let weights = File::open("/etc/passwd").unwrap();
    let _ = confine(profile).unwrap();
    let mut bytes = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&weights, &mut bytes, 1).unwrap();
    assert!(rustix::fs::fstat(&weights).unwrap().st_size > 4);
    assert!(std::io::Write::write_all(&mut &weights, b"x").is_err());
}

fn signal(profile: &Profile) {
    let parent = getppid().unwrap();
    let _ = confine(profile).unwrap();
    assert_eq!(kill_process(parent, Signal::TERM), Err(rustix::io::Errno::PERM));
}

/// A kernel that has no system-call filter.
fn no_seccomp(profile: &Profile) {
    without(&[libc::SYS_seccomp]);
    assert!(matches!(confine(profile), Err(ConfineError::Filter(_))));
}

/// A kernel that has no landlock.
fn no_landlock(profile: &Profile, said: &str) {
    without(&[libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self]);
    let warning = confine(profile).unwrap().warning().unwrap();
    assert!(warning.contains(said), "{warning}");
    if !profile.opens_by_name() {
        denied(File::open("/etc/passwd"));
    }
}

/// A kernel without these calls, as an older one is.
fn without(calls: &[i64]) {
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, missing, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// As far as a machine without a GPU can tell: the driver itself has never run under this profile.
fn gpu(profile: &Profile) {
    let landlocked = confine(profile).unwrap().warning().is_none();
    let limit = getrlimit(Resource::Core);
    assert_eq!(limit.maximum, Some(0));
    File::open("/proc/cpuinfo").unwrap();
    File::open("/sys/devices/system/cpu/possible").unwrap();
    denied(std::net::UdpSocket::bind("127.0.0.1:0"));
    if landlocked {
        let refused = [File::open("/etc/passwd"), File::create("/tmp/cloister-confine-probe"), File::open("/dev/zero")];
        for outcome in refused {
            assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EACCES));
        }
    } else {
        eprintln!("not tried: this kernel has no landlock, so a GPU's profile leaves files open");
    }
}
