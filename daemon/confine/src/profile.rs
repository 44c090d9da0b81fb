//! Who keeps what: the three profiles, and the system calls they are made of. Nothing here but data.
//!
//! Found with `strace -f` over whole tasks, libtorch's and wasmtime's threads included, and kept to what was seen. No
//! call that takes a path is in a profile without [`Profile::readable`]: Landlock does not hide names and sizes from
//! `stat`, so the filter has to.

/// What a process keeps.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Private writable memory in bytes (`RLIMIT_DATA`), which is what a process can really fill; `None`: no limit.
    pub data: Option<u64>,
    /// Address space in bytes (`RLIMIT_AS`); far more than `data` where memory is reserved and not used.
    pub address_space: Option<u64>,
    /// Highest number of open descriptors.
    pub descriptors: u64,
    /// System calls that go through; every other one answers `EPERM`, because libraries probe.
    pub calls: &'static [&'static [i64]],
    /// System calls that end the process: nothing honest asks for these, so somebody else is in control.
    pub fatal: &'static [&'static [i64]],
    /// Files and folders that may be opened by name and read.
    pub readable: &'static [&'static str],
    /// Beginnings of the names of device files that may be opened, read, written and controlled by `ioctl`.
    pub devices: &'static [&'static str],
}

impl Profile {
    /// One batch of records and one plugin. wasmtime reserves 4 GiB of address space for each instance's memory, so
    /// that it needs no bounds checks: two threads use well under 64 GiB.
    pub const SANDBOX: Self = Self {
        data: Some(1 << 30),
        address_space: Some(64 << 30),
        descriptors: 16,
        calls: &[COMMON, JIT],
        fatal: &[HOSTILE, SOCKETS],
        readable: &[],
        devices: &[],
    };

    /// A task of libtorch on processors. Memory is as large as the model: the unit's `MemoryMax` bounds it. One frame
    /// brings up to 128 files.
    pub const ENGINE_CPU: Self = Self {
        data: None,
        address_space: None,
        descriptors: 192,
        calls: &[COMMON, WEIGHTS],
        fatal: &[HOSTILE, SOCKETS],
        readable: &[],
        devices: &[],
    };

    /// A task of libtorch on a GPU. UNTESTED: written from what NVIDIA's driver is known to ask for, never run on one.
    /// The driver library is loaded at its first call, reads `/proc` and `/sys`, and works through `ioctl` on
    /// `/dev/nvidia*`. Sockets are refused and not fatal, because it tries a Unix socket for sharing memory, which
    /// nothing here does. Files by name are held back by landlock alone.
    pub const ENGINE_CUDA: Self = Self {
        data: None,
        address_space: None,
        descriptors: 1024,
        calls: &[COMMON, WEIGHTS, GPU],
        fatal: &[HOSTILE],
        readable: &["/proc", "/sys", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/urandom"],
        devices: &["/dev/nvidia"],
    };

    /// Whether the process may still open anything by name.
    pub fn opens_by_name(&self) -> bool {
        !self.readable.is_empty() || !self.devices.is_empty()
    }
}

/// New connections. What is there already is read and written with [`COMMON`].
pub const SOCKETS: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// Other programs, other processes, the kernel itself.
pub const HOSTILE: &[i64] = &[
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

/// What it takes to talk over an open socket, compute on several threads, and end. Beside these go `clone` for
/// threads, `prctl` for a thread's name and `tgkill` for oneself: the filter looks at their arguments.
pub const COMMON: &[i64] = &[
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
    // threads; `clone3` only to hear that it does not exist
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    // signals: how wasmtime sees a guest's trap, and Rust a stack that overflows
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

/// wasmtime publishes the code that it has just compiled.
pub const JIT: &[i64] = &[libc::SYS_membarrier];

/// Weights are read by position; how much of them fits is planned from the free memory.
pub const WEIGHTS: &[i64] = &[libc::SYS_pread64, libc::SYS_sysinfo];

/// What NVIDIA's driver library is known to ask for.
pub const GPU: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_ioctl,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_sched_setaffinity,
    libc::SYS_get_mempolicy,
    libc::SYS_mbind,
    libc::SYS_mincore,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_prlimit64,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];
