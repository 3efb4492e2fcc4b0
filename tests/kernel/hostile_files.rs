//! Root looks at the crash of a user who planted something else where the program was. strace(1) shows what is opened, and as whom.

use crate::testbed::{RunToEnd, TestBed, coreward, eventually, run_tool, text};
use coreward::store::module_file_name;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The owner of the state directory, as user `coreward` is on a machine.
const OWNER: u32 = 65001;
/// The user whose program crashes.
const USER: u32 = 65002;
const LIMIT: Duration = Duration::from_secs(10);

/// A crash of a user's program in a directory of theirs. The state directory belongs to somebody who is not root.
struct HostileCrash {
    bed: TestBed,
    home: PathBuf,
    exe: PathBuf,
    id: String,
}

fn chown(path: &Path, uid: u32) {
    run_tool("chown", &["-hR", &format!("{uid}:{uid}"), path.to_str().unwrap()]);
}

impl HostileCrash {
    fn new() -> Self {
        let bed = TestBed::new();
        let home = bed.path("home/user");
        fs::create_dir_all(&home).unwrap();
        let exe = home.join("segv");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/segv.c");
        // Split DWARF: the functions' names are in a file that the program names.
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-gsplit-dwarf", "-O1", "-o"]).arg(&exe).arg(source).current_dir(&home);
        assert!(gcc.run_to_end().success());
        chown(&home, USER);
        let daemon = bed.daemon();
        let as_user = [format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()];
        Command::new("setpriv").args(as_user).arg(&exe).current_dir(&home).run_to_end();
        let crash = bed.wait_for(1).remove(0);
        let id = crash.id().to_string();
        let module = module_file_name(crash.record.exe_build_id.as_deref().unwrap()).unwrap();
        eventually(Duration::from_secs(20), || bed.path("var/lib/coreward/modules").join(&module).exists());
        assert_eq!(daemon.stop(), Some(0));
        chown(&bed.root.state_dir(), OWNER);
        Self { bed, home, exe, id }
    }

    /// Runs the command as root in the user's directory, and returns its output and the system calls that open files or change
    /// the user.
    fn trace(&self, arguments: &[&str]) -> (Output, Vec<String>) {
        let log = self.bed.path("strace");
        let begun = Instant::now();
        let output = Command::new("timeout")
            .args(["-s", "KILL", "60", "strace", "-f", "-e", "trace=open,openat,openat2,setresuid", "-o"])
            .arg(&log)
            .arg(env!("CARGO_BIN_EXE_coreward"))
            .arg("--root")
            .arg(self.bed.root.path())
            .args(arguments)
            .current_dir(&self.home)
            .output()
            .unwrap();
        assert!(begun.elapsed() < LIMIT, "{arguments:?} took {:?}", begun.elapsed());
        let calls = fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
        (output, calls)
    }

    /// The same, and nothing of the user's was opened, nor anything of the store as root.
    #[track_caller]
    fn opens_nothing(&self, arguments: &[&str]) -> Output {
        let (output, calls) = self.trace(arguments);
        let home = self.home.to_str().unwrap();
        let opened: Vec<&String> = calls
            .iter()
            .filter(|call| {
                // The debugger's tree has a module in the place of the user's file.
                let in_tree =
                    call.contains("\"/var/tmp/coreward-") || call.contains("\"/proc/") && call.contains("/fd/");
                let failed = call.ends_with("(No such file or directory)");
                call.contains(home) && !in_tree && !call.contains("O_PATH") && !failed
            })
            .collect();
        assert!(opened.is_empty(), "{arguments:?}: {opened:#?}");
        let state = self.bed.root.state_dir();
        let first = calls.iter().position(|call| call.contains(state.to_str().unwrap())).expect("the store is read");
        let dropped = calls.iter().position(|call| call.contains(&format!("setresuid({OWNER}, {OWNER}, {OWNER})")));
        assert!(dropped.is_some_and(|dropped| dropped < first), "{arguments:?}: opened as root: {}", calls[first]);
        output
    }
}

#[test]
fn root_opens_nothing_that_a_user_planted() {
    let it = HostileCrash::new();
    let (exe, whole) = (&it.exe, fs::read(&it.exe).unwrap());
    let script = format!("shell touch {}\n", it.bed.path("pwned").display());
    for name in [".gdbinit", "segv-gdb.gdb"] {
        fs::write(it.home.join(name), &script).unwrap();
    }
    let python = format!("open({:?}, 'w')\n", it.bed.path("pwned"));
    fs::write(it.home.join("segv-gdb.py"), python).unwrap();
    let fifo = |path: &Path| {
        let _ = fs::remove_file(path);
        run_tool("mkfifo", &[path.to_str().unwrap()]);
    };
    for name in ["segv.dwp", "segv.debug", ".gdb_history"] {
        fifo(&it.home.join(name));
    }
    for name in fs::read_dir(&it.home).unwrap().map(|entry| entry.unwrap().path()) {
        if name.extension().is_some_and(|extension| extension == "dwo") {
            fifo(&name);
        }
    }

    let plants: [(&str, &dyn Fn()); 6] = [
        ("the program", &|| fs::write(exe, &whole).unwrap()),
        ("a FIFO", &|| fifo(exe)),
        ("a link to a device", &|| symlink("/dev/zero", exe).unwrap()),
        ("a device", &|| run_tool("mknod", &[exe.to_str().unwrap(), "c", "1", "5"])),
        ("the first 2 KiB of the program", &|| fs::write(exe, &whole[..2048]).unwrap()),
        ("a program of 1 TiB", &|| {
            fs::write(exe, &whole).unwrap();
            fs::File::options().write(true).open(exe).unwrap().set_len(1 << 40).unwrap();
        }),
    ];
    for (name, plant) in plants {
        let _ = fs::remove_file(exe);
        plant();
        chown(&it.home, USER);
        println!("{name}");
        let info = text(&it.opens_nothing(&["info", &it.id]));
        // The module store has what the process had.
        assert!(info.contains(" innermost ") && info.contains(exe.to_str().unwrap()), "{name}: {info}");
        text(&it.opens_nothing(&["groups"]));
        let debug = it.opens_nothing(&["debug", &it.id, "--", "-batch", "-ex", "bt"]);
        let shown = String::from_utf8_lossy(&debug.stdout);
        // It also has the module; what it makes of the missing half of its DWARF is its own matter.
        assert!(shown.contains("Program terminated with signal SIGSEGV"), "{name}: gdb has opened the core: {debug:?}");
        assert!(!String::from_utf8_lossy(&debug.stderr).contains("--executable"), "{name}: {debug:?}");
        // Asked to read the file, a process of its own does, and never waits.
        let (info, calls) = it.trace(&["info", "--all-symbols", &it.id]);
        assert!(text(&info).contains("Stack trace"), "{name}: {info:?}");
        let home = it.home.to_str().unwrap();
        assert!(calls.iter().all(|call| !call.contains(home) || call.contains("O_PATH")), "{name}: {calls:#?}");
    }
    assert!(!it.bed.path("pwned").exists(), "gdb ran a script of the user");
    let left = fs::read_dir("/var/tmp").unwrap().flatten().filter(|entry| {
        entry.file_name().to_string_lossy().starts_with("coreward-")
            && entry.metadata().is_ok_and(|it| it.uid() == OWNER)
    });
    assert_eq!(left.count(), 0, "directories of debug are left behind");
}

#[test]
fn names_are_read_on_request_and_endless_dwarf_ends() {
    let it = HostileCrash::new();
    // Without split DWARF; compressed, as that of debug packages is.
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/segv.c");
    let build_id = format!("-Wl,--build-id=0x{}", it.bed.crashes()[0].record.exe_build_id.as_ref().unwrap());
    let build = |compression: &str| {
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-O1", compression, &build_id, "-o"]).arg(&it.exe).arg(&source);
        assert!(gcc.run_to_end().success());
        chown(&it.home, USER);
    };
    build("-gz=zlib");
    let (info, _) = it.trace(&["info", "--all-symbols", &it.id]);
    let info = text(&info);
    assert!(info.contains("innermost (segv.c:") && !info.contains("Note: "), "{info}");

    // A table of lines that takes longer than anybody waits.
    build("-gz=none");
    let lines = it.bed.path("lines");
    let exe = it.exe.to_str().unwrap();
    run_tool("objcopy", &["--dump-section", &format!(".debug_line={}", lines.display()), exe, "/dev/null"]);
    let mut table = fs::read(&lines).unwrap();
    // A special opcode: one more row of the table (DWARF 5, 6.2.5.1).
    table.resize(300 << 20, 0xff);
    let length = u32::try_from(table.len() - 4).unwrap();
    table[..4].copy_from_slice(&length.to_le_bytes());
    fs::write(&lines, table).unwrap();
    run_tool("objcopy", &["--update-section", &format!(".debug_line={}", lines.display()), exe]);
    chown(&it.home, USER);
    let (info, _) = it.trace(&["info", "--all-symbols", &it.id]);
    let info = text(&info);
    assert!(info.contains("Stack trace"), "{info}");
    assert!(info.contains("__libc_start_main"), "the names of other files: {info}");
}

#[test]
fn root_keeps_its_files_and_the_owner_keeps_the_catalog() {
    let it = HostileCrash::new();
    // SQLite gives the shared memory of the catalog to the owner of the catalog, if root opens it.
    let (secret, shared) = (it.bed.path("secret"), it.bed.root.state_dir().join("catalog.db-shm"));
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let _ = fs::remove_file(&shared);
    fs::hard_link(&secret, &shared).unwrap();
    for verb in [["list"].as_slice(), &["info"], &["groups"], &["usage"], &["status"]] {
        it.trace(verb);
        let metadata = fs::metadata(&secret).unwrap();
        assert_eq!((metadata.uid(), fs::read(&secret).unwrap().as_slice()), (0, b"secret".as_slice()), "{verb:?}");
    }
    fs::remove_file(&shared).unwrap();

    // What root could do before it still can: write where only root may, change what the daemon's user owns.
    let private = it.bed.path("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, Permissions::from_mode(0o700)).unwrap();
    let (core, compressed) = (private.join("core"), private.join("core.zst"));
    text(&it.opens_nothing(&["export", &it.id, "-o", core.to_str().unwrap()]));
    text(&it.opens_nothing(&["export", &it.id, "--compressed", "-o", compressed.to_str().unwrap()]));
    assert_eq!(fs::read(&core).unwrap(), fs::read(it.bed.core(&it.bed.crashes()[0])).unwrap());
    assert_eq!((fs::metadata(&core).unwrap().uid(), fs::metadata(&core).unwrap().mode() & 0o777), (0, 0o600));
    let again = coreward(&it.bed, &["export", &it.id, "-o", core.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"), "{again:?}");
    let none = coreward(&it.bed, &["export", "no-such-crash", "-o", private.join("none").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no-such-crash"), "{none:?}");
    assert_eq!(fs::read_dir(&private).unwrap().count(), 2, "no temporary file is left");
    let debug = ["debug", &it.id, "--executable", it.exe.to_str().unwrap(), "--", "-batch", "-ex", "bt"];
    assert!(text(&coreward(&it.bed, &debug)).contains("innermost ("));
    let as_root = [&["debug", "--as-root"], &debug[1..]].concat();
    assert!(text(&coreward(&it.bed, &as_root)).contains("innermost ("));
    for verb in [["pin"].as_slice(), &["unpin"], &["rm"]] {
        text(&it.opens_nothing(&[verb, &[it.id.as_str()]].concat()));
    }
    assert!(it.bed.names("var/lib/coreward/cores").is_empty());
}
