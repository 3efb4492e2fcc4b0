//! What one test works on: a temporary root directory, with core_pattern pointing at the shim in it.

mod cgroup;
mod command;
mod container;
mod core_pattern;
mod daemon;
mod interpreter_roots;
mod memory_limit;
mod programs;
mod query_service;
mod served;
mod volume;

pub(crate) use cgroup::{Cgroup, MemoryCgroup};
pub(crate) use command::{RunToEnd, coreward, run_tool, text};
pub(crate) use container::Container;
pub(crate) use daemon::{Daemon, unsupervised};
pub(crate) use interpreter_roots::{compile_for_php, compile_ruby_extension, interpreter_root};
pub(crate) use memory_limit::MemoryLimit;
pub(crate) use programs::{program, shim, source};
pub(crate) use query_service::QueryService;
pub(crate) use served::Served;
pub(crate) use volume::Volume;

use core_pattern::CorePattern;
use coreward::crash::Record;
use coreward::store::{Filter, Listed, list};
use coreward_wire::paths::Root;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A temporary root directory. Until it is dropped, all crashes of the machine go to the shim in it.
pub(crate) struct TestBed {
    pub(crate) root: Root,
    _core_pattern: CorePattern,
    dir: tempfile::TempDir,
    journal: UnixDatagram,
}

impl TestBed {
    /// # Panics
    /// The test is not run by root. A kernel test that cannot run fails, so that no run passes without testing anything.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::with_shim("shim")
    }

    /// A test bed that also stores, as `kernel/PID`, the core of each crash exactly as the kernel writes it.
    #[track_caller]
    pub(crate) fn with_kernel_cores() -> Self {
        let bed = Self::with_shim("shim.both");
        fs::create_dir(bed.path("kernel")).expect("a directory");
        fs::copy(program("both"), bed.dir.path().join("shim.both")).expect("a helper");
        bed
    }

    /// A test bed whose shims are held back by `tests/programs/late.c`. `ending` is `late`, or `old` for shims without a pidfd.
    #[track_caller]
    pub(crate) fn with_late_shim(ending: &str) -> Self {
        let helper = format!("shim.{ending}");
        let bed = Self::with_shim(&helper);
        fs::copy(program("late"), bed.dir.path().join(helper)).expect("a helper");
        bed
    }

    #[track_caller]
    fn with_shim(helper: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the kernel tests set kernel.core_pattern, which only root may do: run them as root"
        );
        // A short name: the kernel limits core_pattern, with the shim's path, the root and all arguments, to 127 bytes.
        let dir = tempfile::Builder::new().prefix("cw").rand_bytes(4).tempdir_in("/tmp").expect("a directory in /tmp");
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let root = Root::new(dir.path());
        for path in [
            "run/coreward/spool",
            "var/lib/coreward/cores",
            "var/lib/coreward/spool",
            "run/systemd/journal",
            "dev",
            "usr/libexec/coreward",
        ] {
            fs::create_dir_all(dir.path().join(path)).expect("a directory of the root");
        }
        fs::write(root.join("/dev/kmsg"), "").expect("a file in place of the kernel's log");
        fs::copy(shim(), root.shim_exe()).expect("the shim");
        fs::copy(env!("CARGO_BIN_EXE_corewardd"), root.daemon_exe()).expect("the daemon");
        let journal = UnixDatagram::bind(root.journal_socket()).expect("a journal");
        journal.set_nonblocking(true).expect("a non-blocking journal socket");
        setsockopt(&journal, sockopt::PassCred, &true).expect("SO_PASSCRED");
        let short = dir.path().join("shim");
        std::os::unix::fs::symlink(root.shim_exe(), &short).expect("a short name");
        let core_pattern = CorePattern::set(&root.core_pattern(&dir.path().join(helper)).expect("a pattern that fits"));
        Self { root, _core_pattern: core_pattern, dir, journal }
    }

    /// A path below the root.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The daemon's log when it has this text: a thread of its own writes it, some time after what it tells of.
    #[track_caller]
    pub(crate) fn log_with(&self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            if log.contains(text) {
                return log;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the log has no {text:?}: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes the main configuration file.
    pub(crate) fn configure(&self, text: &str) {
        fs::create_dir_all(self.path("etc/coreward")).expect("etc");
        fs::write(self.path("etc/coreward/coreward.conf"), text).expect("the configuration");
    }

    /// Starts a daemon, and the next one whenever it ends, as systemd does.
    pub(crate) fn daemon(&self) -> Daemon {
        Daemon::start(&self.root)
    }

    /// Removes the sockets of a daemon that was stopped, so that [`Self::daemon`] can be called again.
    pub(crate) fn clear_sockets(&self) {
        for socket in ["notify", "run/coreward/intake.sock", "run/coreward/delete.sock"] {
            fs::remove_file(self.path(socket)).expect("a socket of the previous daemon");
        }
    }

    /// All recorded crashes, oldest first.
    pub(crate) fn crashes(&self) -> Vec<Listed> {
        list(&self.root, &Filter::default()).unwrap_or_default()
    }

    /// Waits until `count` crashes are recorded, and 100 ms more so that a surplus one would be noticed.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Listed> {
        eventually(Duration::from_secs(60), || self.crashes().len() >= count);
        std::thread::sleep(Duration::from_millis(100));
        let crashes = self.crashes();
        assert_eq!(crashes.len(), count, "kernel log: {}", self.kmsg());
        crashes
    }

    /// The core of a crash as the kernel wrote it (needs [`Self::with_kernel_cores`]).
    pub(crate) fn kernel_core(&self, listed: &Listed) -> PathBuf {
        let path = self.path("kernel").join(listed.record.key.pid.to_string());
        eventually(Duration::from_secs(120), || path.with_extension("done").exists());
        path
    }

    /// The messages that shims wrote to the kernel's log, here a file below the root.
    pub(crate) fn kmsg(&self) -> String {
        fs::read_to_string(self.path("dev/kmsg")).unwrap_or_default()
    }

    /// The next entry that is sent to the journal, and the uid under whose name.
    pub(crate) fn journal_entry(&self) -> (Vec<u8>, u32) {
        let mut found = None;
        eventually(Duration::from_secs(10), || {
            let mut buffer = vec![0; 65536];
            let mut control = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
            let (count, uid) = {
                let mut bytes = [std::io::IoSliceMut::new(&mut buffer)];
                let flags = MsgFlags::MSG_DONTWAIT;
                let Ok(received) = recvmsg::<()>(self.journal.as_raw_fd(), &mut bytes, Some(&mut control), flags)
                else {
                    return false;
                };
                let uid = received.cmsgs().expect("control messages").find_map(|message| match message {
                    ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.uid()),
                    _ => None,
                });
                (received.bytes, uid)
            };
            buffer.truncate(count);
            found = Some((buffer, uid.expect("credentials")));
            true
        });
        found.expect("an entry")
    }

    /// The entries that were sent to the journal since the last call.
    pub(crate) fn journal(&self) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        let mut buffer = vec![0; 65536];
        while let Ok(count) = self.journal.recv(&mut buffer) {
            entries.push(buffer[..count].to_vec());
        }
        entries
    }

    /// The names in a directory below the root, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).expect("a directory").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The path of a crash's core, decompressed with zstd(1).
    pub(crate) fn core(&self, listed: &Listed) -> PathBuf {
        let to = self.dir.path().join(format!("{}.core", listed.id()));
        let from = listed.core_file.as_ref().expect("a core file");
        let status = std::process::Command::new("zstd").args(["-dqf", "-o"]).arg(&to).arg(from).status().expect("zstd");
        assert!(status.success(), "zstd -d {}", from.display());
        to
    }
}

/// Whether a record has the texts from /proc that the shim sends after the offer: status, limits, working directory.
pub(crate) fn has_texts(record: &Record) -> bool {
    let here = std::env::current_dir().expect("a directory");
    record.status.starts_with(&format!("Name:\t{}\n", record.comm))
        && record.limits.contains("Max core file size")
        && Path::new(&record.cwd) == here
}

/// Whether a record also has the list of open descriptors, which only records with a core have.
pub(crate) fn has_details(record: &Record) -> bool {
    has_texts(record) && record.open_fds.contains("/dev/null")
}

/// The output of gdb for `commands` on a core.
pub(crate) fn gdb(exe: &Path, core: &Path, commands: &[&str]) -> String {
    let mut gdb = std::process::Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set debuginfod enabled off"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(exe).arg(core).output().expect("gdb is installed");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits until `condition` holds; fails the test after `limit`.
#[track_caller]
pub(crate) fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "still not true after {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that a core is the same as the kernel's, byte for byte, and deletes it.
#[track_caller]
pub(crate) fn assert_same_core(ours: &Path, kernels: &Path) {
    let output = std::process::Command::new("cmp").arg(ours).arg(kernels).output().expect("cmp");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    fs::remove_file(ours).expect("the decompressed core");
}
