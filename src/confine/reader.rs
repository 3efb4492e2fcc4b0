//! A reader: a process of its own that reads one crash's memory through descriptors that are open, and answers on a socket that
//! is open.

use super::filter::{ABSENT, CallList, Condition, apply};
use super::missing::Missing;
use super::objects::deny_objects;
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCmpOp};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

/// What a reader may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderLimits {
    /// Bytes of address space, the program's own included.
    pub memory: u64,
    /// Numbers of descriptors. Those that are open stay open.
    pub descriptors: u64,
    /// Processor time, after which the kernel kills it.
    pub cpu: Duration,
}

/// What a reader and the C libraries under it call. Frequent ones have low numbers, and filters are sorted by number.
const ALLOWED_CALLS: &[libc::c_long] = &[
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_fallocate,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    // Memory. Mappings are below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    // Signals of its own.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Time, and what it is.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
];

/// What libraries try and can do without. A reader is not ended for it.
const ABSENT_CALLS: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    // A panic, if RUST_BACKTRACE is set.
    libc::SYS_getcwd,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_setpriority,
    libc::SYS_prlimit64,
    // Its flags are in memory, where no filter looks.
    libc::SYS_clone3,
];

/// What only x86_64 has.
#[cfg(target_arch = "x86_64")]
const ABSENT_HERE: &[libc::c_long] = &[libc::SYS_open, libc::SYS_access, libc::SYS_readlink, libc::SYS_stat];
#[cfg(not(target_arch = "x86_64"))]
const ABSENT_HERE: &[libc::c_long] = &[];

/// Requests of ioctl(2): of the page map and of `maps` (include/uapi/linux/fs.h: `PAGEMAP_SCAN`, `PROCMAP_QUERY`).
const REQUESTS: &[u64] = &[0xc060_6610, 0xc068_6611];

/// Commands of fcntl(2). With others a descriptor sends signals (`F_SETOWN`, `F_SETSIG`) or takes leases.
const COMMANDS: &[u64] = &[
    libc::F_DUPFD_CLOEXEC.unsigned_abs() as u64,
    libc::F_GETFD.unsigned_abs() as u64,
    libc::F_SETFD.unsigned_abs() as u64,
    libc::F_GETFL.unsigned_abs() as u64,
    libc::F_SETFL.unsigned_abs() as u64,
];

/// Options of prctl(2): names of threads and of allocations (`PR_SET_VMA`), and what precedes another filter.
const OPTIONS: &[u64] =
    &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, 0x5356_4d41, libc::PR_SET_NO_NEW_PRIVS as u64];

/// The filters of a reader. tgkill(2) is not in them: whoever calls abort(3) is killed for it.
///
/// # Errors
/// There are none for this architecture.
pub fn reader_filters() -> Result<Vec<BpfProgram>, BackendError> {
    let flag = |flag: libc::c_int| u64::from(flag.unsigned_abs());
    let (thread, empty_path) = (flag(libc::CLONE_THREAD), flag(libc::AT_EMPTY_PATH));
    let none_of = |argument: u8, values: &[u64]| -> Vec<Condition> {
        values.iter().map(|value| (argument, SeccompCmpOp::Ne, *value)).collect()
    };
    let absent = CallList::new(&[ABSENT_CALLS, ABSENT_HERE].concat())
        .with(libc::SYS_clone, &[(0, SeccompCmpOp::MaskedEq(thread), 0)])?
        // By path.
        .with(libc::SYS_statx, &[(2, SeccompCmpOp::MaskedEq(empty_path), 0)])?
        .with(libc::SYS_newfstatat, &[(3, SeccompCmpOp::MaskedEq(empty_path), 0)])?
        .with(libc::SYS_ioctl, &none_of(1, REQUESTS))?
        .with(libc::SYS_fcntl, &none_of(1, COMMANDS))?
        .with(libc::SYS_prctl, &none_of(0, OPTIONS))?;
    let not_executable = [(2, SeccompCmpOp::MaskedEq(flag(libc::PROT_EXEC)), 0)];
    let allowed = CallList::new(&[ALLOWED_CALLS, ABSENT_CALLS, ABSENT_HERE].concat())
        .with(libc::SYS_mmap, &not_executable)?
        .with(libc::SYS_mprotect, &not_executable)?;
    Ok(vec![
        absent.into_filter(ABSENT, SeccompAction::Allow)?,
        // The last one: under it no other can be added.
        allowed.into_filter(SeccompAction::Allow, SeccompAction::KillProcess)?,
    ])
}

/// The filters, made once: a process that forks readers makes them before.
///
/// # Errors
/// There are none for this architecture.
pub fn prepared_filters() -> io::Result<&'static [BpfProgram]> {
    static FILTERS: OnceLock<Option<Vec<BpfProgram>>> = OnceLock::new();
    FILTERS.get_or_init(|| reader_filters().ok()).as_deref().ok_or_else(|| Errno::ENOSYS.into())
}

/// Confines this process to what a reader does. It must have one thread only, and all its descriptors. A system call that it
/// does not need ends it. Returns what the kernel lacks.
///
/// # Errors
/// The limits cannot be set.
pub fn confine_reader(limits: &ReaderLimits) -> io::Result<Vec<Missing>> {
    let most = [
        (Resource::RLIMIT_CPU, limits.cpu.as_secs()),
        (Resource::RLIMIT_AS, limits.memory),
        (Resource::RLIMIT_NOFILE, limits.descriptors),
        (Resource::RLIMIT_CORE, 0),
    ];
    for (resource, most) in most {
        // A limit that is lower already cannot be raised.
        let most = getrlimit(resource)?.1.min(most);
        setrlimit(resource, most, most)?;
    }
    // Its memory is somebody else's: no core, and nobody of the same user looks in.
    set_dumpable(false)?;
    set_no_new_privs()?;
    let mut missing = deny_objects().unwrap_or_else(|_| vec![Missing::Files, Missing::Network, Missing::Signals]);
    if let Err(error) = prepared_filters().and_then(apply) {
        missing.push(Missing::SystemCalls(Errno::from_raw(error.raw_os_error().unwrap_or_default())));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{in_child, run_in_child, succeed};
    use super::*;
    use coreward_sys::fdpass::{recv_with_fds, send_with_fds};
    use coreward_sys::pagemap::{PAGE, PageKind, for_each_run};
    use coreward_sys::procmap::mapping_from;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;

    const LIMITS: ReaderLimits = ReaderLimits { memory: 256 << 20, descriptors: 32, cpu: Duration::from_secs(60) };

    #[test]
    fn a_reader_reads_memory_computes_and_answers() {
        const TEST: &str = "confine::reader::tests::a_reader_reads_memory_computes_and_answers";
        if !in_child() {
            run_in_child(TEST);
            return;
        }
        // Its own memory stands for a crashed process'.
        let secret = vec![7_u8; 3 * 4096];
        let address = secret.as_ptr().addr() as u64;
        let [memory, maps, pagemap] = ["mem", "maps", "pagemap"]
            .map(|name| File::options().read(true).open(format!("/proc/self/{name}")).unwrap());
        let (socket, other_end) = UnixStream::pair().unwrap();
        let staged = File::from(memfd_create(c"staged", MFdFlags::MFD_CLOEXEC).unwrap());
        staged.set_len(8192).unwrap();
        let missing = confine_reader(&LIMITS).unwrap();
        assert!(!missing.iter().any(|missing| matches!(missing, Missing::SystemCalls(_))), "{missing:?}");

        // Frequent or not, what a reader does with descriptors.
        let mut copy = vec![0; secret.len()];
        memory.read_exact_at(&mut copy, address).unwrap();
        assert_eq!(copy, secret);
        assert!(mapping_from(&maps, address).is_ok_and(|mapping| mapping.is_some()) || maps_text(&maps).contains('-'));
        let first_page = address.next_multiple_of(PAGE);
        let mut runs = 0;
        for_each_run(&pagemap, first_page..first_page + PAGE, PageKind::Populated, |_| runs += 1).unwrap();
        assert_eq!(runs, 1);
        staged.write_all_at(&copy[..4096], 4096).unwrap();
        assert_eq!(staged.metadata().unwrap().len(), 8192);
        assert_eq!(send_with_fds(socket.as_fd(), b"done", &[staged.as_raw_fd()]).unwrap(), 4);
        let (count, received) = recv_with_fds(other_end.as_fd(), &mut [0; 10]).unwrap();
        assert_eq!((count, received.len()), (4, 1));
        // Threads, time, memory, panics.
        let thread = std::thread::Builder::new().name("reads".to_owned()).spawn(|| {
            std::thread::sleep(Duration::from_millis(1));
            vec![1_u8; 1 << 20].len()
        });
        assert_eq!(thread.unwrap().join().unwrap(), 1 << 20);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        assert!(receiver.recv_timeout(Duration::from_millis(1)).is_err());
        drop(sender);
        assert!(std::panic::catch_unwind(|| panic!("a panic of a reader is an ordinary end")).is_err());
        assert!(std::thread::available_parallelism().is_ok());

        // Limits.
        assert!(Vec::<u8>::new().try_reserve_exact(512 << 20).is_err(), "address space");
        let mut descriptors = Vec::new();
        while let Ok(descriptor) = memory.try_clone() {
            descriptors.push(descriptor);
            assert!(descriptors.len() < 32, "descriptors");
        }
        descriptors.clear();

        // A file is as if it was not there, and a reader survives that.
        assert!(File::open("/etc/passwd").is_err());
        assert!(std::fs::metadata("/etc/passwd").is_err());
        succeed();
    }

    fn maps_text(mut maps: &File) -> String {
        let mut text = String::new();
        maps.rewind().unwrap();
        maps.read_to_string(&mut text).unwrap();
        text
    }
}
