//! A tree of its own for one test, with the kernel pointed at it.

mod daemon;
mod pattern;
mod programs;

pub use daemon::{Daemon, once};
pub use programs::{Ended, program, shim};

use coreward::crash::Record;
use coreward::store::{Filter, Listed, list};
use coreward_wire::paths::Root;
use pattern::Pattern;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A tree, and the kernel's crashes directed to it until it is dropped.
pub struct TestBed {
    pub root: Root,
    _pattern: Pattern,
    dir: tempfile::TempDir,
    journal: UnixDatagram,
}

impl TestBed {
    /// `None`, and a word why, where this can't be: the test is skipped.
    pub fn new() -> Option<Self> {
        Self::with_shim("shim")
    }

    /// A bed on which the kernel's own core of every crash is written to `kernel/PID` as well.
    pub fn beside_the_kernel() -> Option<Self> {
        let bed = Self::with_shim("shim.both")?;
        fs::create_dir(bed.path("kernel")).expect("a directory");
        fs::copy(program("both"), bed.dir.path().join("shim.both")).expect("a helper");
        Some(bed)
    }

    fn with_shim(helper: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root may set kernel.core_pattern");
            return None;
        }
        // A short name: the shim's path, the root and all arguments must fit in 127 bytes.
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
            fs::create_dir_all(dir.path().join(path)).expect("the tree");
        }
        fs::write(root.join("/dev/kmsg"), "").expect("a kernel log of its own");
        fs::copy(shim(), root.shim_exe()).expect("the shim");
        fs::copy(env!("CARGO_BIN_EXE_corewardd"), root.daemon_exe()).expect("the daemon");
        let journal = UnixDatagram::bind(root.journal_socket()).expect("a journal");
        journal.set_nonblocking(true).expect("a journal that does not wait");
        let short = dir.path().join("shim");
        std::os::unix::fs::symlink(root.shim_exe(), &short).expect("a short name");
        let pattern = Pattern::set(&root.core_pattern(&dir.path().join(helper)).expect("a pattern that fits"));
        Some(Self { root, _pattern: pattern, dir, journal })
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Writes the main configuration file.
    pub fn configure(&self, text: &str) {
        fs::create_dir_all(self.path("etc/coreward")).expect("etc");
        fs::write(self.path("etc/coreward/coreward.conf"), text).expect("the configuration");
    }

    /// A daemon on the test's sockets; started again whenever it ends, as systemd does.
    pub fn daemon(&self) -> Daemon {
        Daemon::start(&self.root)
    }

    /// Makes way for another [`Self::daemon`] after one that was stopped.
    pub fn clear_sockets(&self) {
        for socket in ["notify", "run/coreward/intake.sock"] {
            fs::remove_file(self.path(socket)).expect("a socket of the daemon before");
        }
    }

    /// All recorded crashes, oldest first.
    pub fn crashes(&self) -> Vec<Listed> {
        list(&self.root, &Filter::default()).unwrap_or_default()
    }

    /// Waits until `count` crashes are recorded, and a moment longer for one too many.
    pub fn wait_for(&self, count: usize) -> Vec<Listed> {
        eventually(Duration::from_secs(60), || self.crashes().len() >= count);
        std::thread::sleep(Duration::from_millis(100));
        let crashes = self.crashes();
        assert_eq!(crashes.len(), count, "kernel log: {}", self.kmsg());
        crashes
    }

    /// The kernel's own core of a crash ([`Self::beside_the_kernel`]).
    pub fn kernels_core(&self, listed: &Listed) -> PathBuf {
        let path = self.path("kernel").join(listed.record.key.pid.to_string());
        eventually(Duration::from_secs(120), || path.with_extension("done").exists());
        path
    }

    /// What shims said to the kernel's log.
    pub fn kmsg(&self) -> String {
        fs::read_to_string(self.path("dev/kmsg")).unwrap_or_default()
    }

    /// The entries that the journal got so far.
    pub fn journal(&self) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        let mut buffer = vec![0; 65536];
        while let Ok(count) = self.journal.recv(&mut buffer) {
            entries.push(buffer[..count].to_vec());
        }
        entries
    }

    /// The names in a directory of the tree.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).expect("a directory").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The core of a crash, decompressed with the stock zstd into a file.
    pub fn core(&self, listed: &Listed) -> PathBuf {
        let to = self.dir.path().join(format!("{}.core", listed.id()));
        let from = listed.core_file.as_ref().expect("a core file");
        let status = std::process::Command::new("zstd").args(["-dqf", "-o"]).arg(&to).arg(from).status().expect("zstd");
        assert!(status.success(), "zstd -d {}", from.display());
        to
    }
}

/// Whether a record has the texts that only a shim could look up beside the offer.
pub fn has_texts(record: &Record) -> bool {
    let here = std::env::current_dir().expect("a directory");
    record.status.starts_with(&format!("Name:\t{}\n", record.comm))
        && record.limits.contains("Max core file size")
        && Path::new(&record.cwd) == here
}

/// The same, and the descriptors that the process had open: what a record with a core has.
pub fn has_details(record: &Record) -> bool {
    has_texts(record) && record.open_fds.contains("/dev/null")
}

/// What gdb prints for `commands` on a core.
pub fn gdb(exe: &Path, core: &Path, commands: &[&str]) -> String {
    let mut gdb = std::process::Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set debuginfod enabled off"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(exe).arg(core).output().expect("gdb is installed");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Asks again and again until it is true.
#[track_caller]
pub fn eventually(limit: Duration, mut question: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !question() {
        assert!(begun.elapsed() < limit, "still not true after {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
