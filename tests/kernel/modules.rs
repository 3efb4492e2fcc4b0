//! Programs and libraries that are gone when somebody opens the core: of root directories and containers that were deleted, and on
//! another machine.

use crate::testbed::{RunToEnd, TestBed, coreward, eventually, program, run_tool, text};
use coreward::crash::Record;
use coreward::store::{Listed, module_file_name};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const MODULES: &str = "var/lib/coreward/modules";
/// The library is opened by the first name, and is the file of the second.
const SONAME: &str = "libextension.so.1";
const LIBRARY: &str = "opt/app/lib/libextension.so.1.2";
const APP: &str = "/opt/app/bin/app";

/// A root directory with a program, a library of its own and the C library. `number` makes it another build.
fn image(bed: &TestBed, number: u32) -> PathBuf {
    let image = bed.path(&format!("image{number}"));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    for dir in ["opt/app/bin", "opt/app/lib", "usr/bin", "usr/lib", "usr/lib64", "dev", "tmp", "proc"] {
        fs::create_dir_all(image.join(dir)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), image.join(name)).unwrap();
    }
    let define = format!("-DBUILD={number}");
    let library = image.join(LIBRARY);
    let built = ["-g", "-O1", &define, "-o"];
    let in_source = |name: &str| sources.join(name).display().to_string();
    let at = |path: &Path| path.display().to_string();
    let soname = format!("-Wl,-soname,{SONAME}");
    run_tool("gcc", &[&built[..], &[&at(&library), "-shared", "-fPIC", &soname, &in_source("extension.c")]].concat());
    symlink("libextension.so.1.2", image.join("opt/app/lib").join(SONAME)).unwrap();
    let app = at(&image.join(APP.trim_start_matches('/')));
    run_tool("gcc", &[&built[..], &[&app, &in_source("app.c"), &at(&library), "-Wl,-rpath,/opt/app/lib"]].concat());
    // What the dynamic linker finds for this program.
    let listed = Command::new("ldd").arg("/bin/true").output().unwrap();
    for path in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let resolved = fs::canonicalize(path).unwrap();
        for path in [Path::new(path), &resolved] {
            let to = image.join(path.strip_prefix("/").unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            if !to.exists() {
                fs::copy(path, to).unwrap();
            }
        }
    }
    image
}

/// Runs the program of an image, with the image as its root directory.
fn crash_in(image: &Path) {
    Command::new("chroot").arg(image).arg(APP).run_to_end();
}

fn build_ids(record: &Record) -> BTreeSet<String> {
    let modules = record.modules.iter().filter(|module| !module.path.starts_with('['));
    modules.filter_map(|module| module.build_id.clone()).collect()
}

/// Waits until all mapped files of a crash are in the store.
fn wait_for_modules(bed: &TestBed, crash: &Listed) {
    let wanted: BTreeSet<String> = build_ids(&crash.record)
        .iter()
        .map(|build_id| module_file_name(build_id).unwrap().display().to_string())
        .collect();
    assert!(wanted.len() >= 4, "app, extension, libc and the dynamic linker: {:?}", crash.record.modules);
    eventually(Duration::from_secs(30), || {
        let names: BTreeSet<String> = bed.names(MODULES).into_iter().collect();
        names.is_superset(&wanted)
    });
}

fn module_bytes(bed: &TestBed) -> u64 {
    let names = bed.names(MODULES).into_iter();
    names.filter_map(|name| bed.path(MODULES).join(name).metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[track_caller]
fn assert_has_names(trace: &str) {
    for function in ["faulty_extension (", "call_extension (", "main ("] {
        assert!(trace.contains(function), "{function} is missing in {trace}");
    }
}

const BACKTRACE: [&str; 5] = ["--", "-nx", "-batch", "-ex", "bt"];

#[test]
fn the_core_of_a_root_directory_that_is_gone_has_names_here_and_on_another_machine() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let image = image(&bed, 1);
    crash_in(&image);
    let crash = bed.wait_for(1).pop().unwrap();
    wait_for_modules(&bed, &crash);
    let id = crash.id().as_str();
    fs::remove_dir_all(&image).unwrap();
    let debugged = coreward(&bed, &[&["debug", id], &BACKTRACE[..]].concat());
    assert_has_names(&text(&debugged));
    for complaint in ["shared librar", "coreward: note", "not match", "No such file"] {
        assert!(!String::from_utf8_lossy(&debugged.stderr).contains(complaint), "{debugged:?}");
    }

    let bundle = bed.path("crash.tar");
    text(&coreward(&bed, &["export", id, "--bundle", bundle.to_str().unwrap()]));
    assert_eq!(bundle.metadata().unwrap().mode() & 0o777, 0o600);
    let members = String::from_utf8(Command::new("tar").arg("tf").arg(&bundle).output().unwrap().stdout).unwrap();
    for member in ["README", "record.json", "report.txt", "open.sh", "core.zst"] {
        assert!(members.lines().any(|line| line == format!("crash-{id}/{member}")), "{member} in {members}");
    }
    assert_eq!(members.lines().filter(|line| line.contains("/modules/")).count(), build_ids(&crash.record).len());

    // On another machine there is no state directory, and the user is nobody in particular.
    let elsewhere = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = elsewhere.path().join("crash.tar");
    fs::copy(&bundle, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    let as_user = |arguments: &[&str]| {
        let command = elsewhere.path().join("coreward");
        if !command.exists() {
            fs::copy(env!("CARGO_BIN_EXE_coreward"), &command).unwrap();
        }
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=4321", "--regid=4321", "--clear-groups", "--no-new-privs"]).arg(command);
        setpriv.arg("--root").arg(elsewhere.path()).args(arguments).env("TMPDIR", "/tmp").env_remove("HOME");
        setpriv.current_dir("/").output().unwrap()
    };
    let debugged = as_user(&[&["debug", copy.to_str().unwrap()], &BACKTRACE[..]].concat());
    assert_has_names(&text(&debugged));
    // The tree of the debugger is gone with it.
    eventually(Duration::from_secs(10), || {
        let left = fs::read_dir("/tmp").unwrap().flatten();
        !left
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("coreward-"))
            .any(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == 4321))
    });
    // Ordinary tools do as well.
    let tar = Command::new("tar").arg("xf").arg(&copy).current_dir(elsewhere.path()).status().unwrap();
    assert!(tar.success());
    let script = elsewhere.path().join(format!("crash-{id}/open.sh"));
    let opened = Command::new("sh").arg(script).args(["-nx", "-batch", "-ex", "bt"]).output().unwrap();
    assert_has_names(&text(&opened));
}

#[test]
fn each_build_is_stored_once_whatever_crashes_how_often() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nUserBurst=0\nTotalBurst=0\n");
    let _daemon = bed.daemon();
    let images: Vec<PathBuf> = (0..5).map(|number| image(&bed, number)).collect();
    // The first crash of each stores what the others find.
    for (count, image) in images.iter().enumerate() {
        crash_in(image);
        wait_for_modules(&bed, &bed.wait_for(count + 1).pop().unwrap());
    }
    let stored = |bed: &TestBed| -> Vec<(String, u64)> {
        let names = bed.names(MODULES).into_iter();
        names
            .map(|name| (bed.path(MODULES).join(&name).metadata().unwrap().ino(), name))
            .map(|(ino, name)| (name, ino))
            .collect()
    };
    let before = stored(&bed);
    for _ in 0..19 {
        images.iter().for_each(|image| crash_in(image));
    }
    let crashes = bed.wait_for(100);
    let builds: BTreeSet<String> = crashes.iter().flat_map(|crash| build_ids(&crash.record)).collect();
    assert_eq!(builds.len(), before.len(), "{before:?}");
    assert_eq!(builds.len(), 5 * 2 + 2, "five programs, five libraries, one libc, one linker");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(stored(&bed), before, "nothing was written again");
    // What one image's crash needs is there, whichever it is.
    for crash in &crashes[95..] {
        wait_for_modules(&bed, crash);
    }
}

#[test]
fn the_quota_is_held_while_new_builds_keep_coming() {
    let bed = TestBed::new();
    let limit = 1_500_000;
    bed.configure(&format!("[Coreward]\nMaxModulesUse={limit}\nStormBurst=0\n"));
    let _daemon = bed.daemon();
    for number in 0..4 {
        let image = image(&bed, number);
        // Random bytes at the end of the library do not compress.
        let noise = bed.path("noise");
        run_tool("dd", &["if=/dev/urandom", &format!("of={}", noise.display()), "bs=1k", "count=300", "status=none"]);
        let section = format!(".noise={}", noise.display());
        run_tool("objcopy", &["--add-section", &section, image.join(LIBRARY).to_str().unwrap()]);
        crash_in(&image);
        let crash = bed.wait_for(number as usize + 1).pop().unwrap();
        let library = crash.record.modules.iter().find(|module| module.path.contains("libextension")).unwrap();
        let name = module_file_name(library.build_id.as_deref().unwrap()).unwrap();
        eventually(Duration::from_secs(20), || {
            assert!(module_bytes(&bed) <= limit, "{} bytes", module_bytes(&bed));
            bed.path(MODULES).join(&name).exists()
        });
    }
    let usage: serde_json::Value = serde_json::from_str(&text(&coreward(&bed, &["usage", "--json"]))).unwrap();
    assert_eq!(
        (usage["modules_bytes"].as_u64(), usage["max_modules_use"].as_u64()),
        (Some(module_bytes(&bed)), Some(limit))
    );
    assert!(text(&coreward(&bed, &["usage"])).contains("MaxModulesUse=1.4M"));
}

#[test]
fn a_daemon_that_is_killed_leaves_no_half_module_and_the_next_crash_completes_the_store() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\n");
    let daemon = bed.daemon();
    let image = image(&bed, 1);
    let noise = bed.path("noise");
    run_tool("dd", &["if=/dev/urandom", &format!("of={}", noise.display()), "bs=1M", "count=96", "status=none"]);
    let section = format!(".noise={}", noise.display());
    let library = image.join(LIBRARY);
    run_tool("objcopy", &["--add-section", &section, library.to_str().unwrap()]);
    let mut hits = 0;
    for kill in 1..=3 {
        crash_in(&image);
        let crash = bed.wait_for(kill).pop().unwrap();
        let library = crash.record.modules.iter().find(|module| module.path.contains("libextension")).unwrap();
        let library = module_file_name(library.build_id.as_deref().unwrap()).unwrap().display().to_string();
        let is_stored = || bed.names(MODULES).contains(&library);
        // Only the library is that long: noise does not shrink.
        let begun = Instant::now();
        while bytes_being_copied(&bed, daemon.pid()) < (8 << 20) * kill as u64 && !is_stored() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the library is not copied");
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon.signal(nix::sys::signal::Signal::SIGKILL);
        hits += u32::from(!is_stored());
        for name in bed.names(MODULES) {
            let whole = Command::new("zstd").args(["-tq"]).arg(bed.path(MODULES).join(&name)).status().unwrap();
            assert!(whole.success(), "{name}");
            assert!(build_ids(&crash.record).contains(name.strip_suffix(".zst").unwrap()), "{name}");
        }
    }
    assert!(hits > 0, "no kill came while the library was copied");
    crash_in(&image);
    wait_for_modules(&bed, &bed.wait_for(4).pop().unwrap());
}

/// The length of the longest file that the daemon has open in the module store and that has no name yet.
fn bytes_being_copied(bed: &TestBed, daemon: i32) -> u64 {
    let store = fs::canonicalize(bed.path(MODULES)).unwrap();
    let open = fs::read_dir(format!("/proc/{daemon}/fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_unnamed = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.starts_with(&store) && to.to_string_lossy().ends_with(" (deleted)"))
    };
    let lengths = open.filter(is_unnamed).filter_map(|path| fs::metadata(path).ok()).map(|file| file.len());
    lengths.max().unwrap_or(0)
}

#[test]
fn what_a_package_of_the_host_has_is_left_out_and_what_was_replaced_is_not() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\n");
    let lists = bed.path("var/lib/dpkg/info");
    fs::create_dir_all(&lists).unwrap();
    let libc = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = libc
        .lines()
        .find_map(|line| line.split_whitespace().nth(5).filter(|path| path.ends_with("/libc.so.6")))
        .unwrap();
    // On Debian 12 lists have the name below /lib.
    fs::write(lists.join("libc6:amd64.list"), format!("/.\n{}\n", libc.strip_prefix("/usr").unwrap())).unwrap();
    let _daemon = bed.daemon();
    let path = bed.path("program");
    fs::copy(program("segv"), &path).unwrap();
    Command::new(&path).run_to_end();
    let crash = bed.wait_for(1).pop().unwrap();
    let build_of = |name: &str| {
        let module = crash.record.modules.iter().find(|module| module.path.contains(name)).unwrap();
        module_file_name(module.build_id.as_deref().unwrap()).unwrap().display().to_string()
    };
    let (program_module, libc_module, linker_module) =
        (build_of("/program"), build_of("libc.so"), build_of("ld-linux"));
    eventually(Duration::from_secs(20), || bed.names(MODULES).len() == 2);
    let names = bed.names(MODULES);
    assert!(names.contains(&program_module) && names.contains(&linker_module), "{names:?}");
    assert!(!names.contains(&libc_module), "a package has it");

    // An upgrade replaces the program; the debugger has the one that crashed.
    fs::remove_file(&path).unwrap();
    fs::copy(program("abrt"), &path).unwrap();
    let trace = text(&coreward(&bed, &[&["debug", crash.id().as_str()], &BACKTRACE[..]].concat()));
    assert!(trace.contains("innermost (") && trace.contains("main ("), "{trace}");
}

#[test]
fn a_program_is_of_the_package_that_it_was_of_when_it_crashed() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nMetricLabels=package\n");
    let database = bed.path("var/lib/dpkg");
    fs::create_dir_all(database.join("info")).unwrap();
    let path = bed.path("program");
    fs::write(database.join("info/app.list"), format!("/.\n{}\n", path.display())).unwrap();
    let install = |version: &str, from: &str| {
        // dpkg replaces a file by another one.
        run_tool("cp", &[program(from).to_str().unwrap(), path.with_extension("new").to_str().unwrap()]);
        fs::rename(path.with_extension("new"), &path).unwrap();
        let status = format!("Package: app\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n");
        fs::write(database.join("status"), status).unwrap();
    };
    install("1.2-3", "segv");
    let daemon = bed.daemon();
    let owner = |record: &Record| {
        let module = record.modules.iter().find(|module| module.path == path.display().to_string())?;
        let package = module.owner.clone()?;
        Some(format!("{} {}", package.name, package.version))
    };
    Command::new(&path).run_to_end();
    let first = bed.wait_for(1).pop().unwrap().record;
    assert_eq!(owner(&first).as_deref(), Some("app 1.2-3"));
    let entry = String::from_utf8_lossy(&bed.journal()[0]).into_owned();
    assert!(entry.contains("\nCOREDUMP_PACKAGE_NAME=app\nCOREDUMP_PACKAGE_VERSION=1.2-3\n"), "{entry}");
    assert_eq!(daemon.metric("coreward_crashes_by_total", "package=\"app=1.2-3\""), 1.0, "{}", daemon.scrape());

    install("1.2-4", "abrt");
    let package = |id: &str| {
        let info = text(&coreward(&bed, &["info", id]));
        info.lines().find_map(|line| line.trim_start().strip_prefix("Package: ")).map(str::to_owned)
    };
    assert!(
        package(first.id.as_str()).unwrap().starts_with("app 1.2-3"),
        "the upgrade changes nothing of what crashed"
    );
    bed.configure("[Coreward]\nStorage=none\nStormBurst=0\n");
    daemon.reload();
    Command::new(&path).run_to_end();
    let second = bed.wait_for(2).pop().unwrap().record;
    assert_eq!(owner(&second).as_deref(), Some("app 1.2-4"), "without a core as well");

    // Another file that a process sees at that path is of no package, though it has the same build ID.
    let forged = bed.path("forged");
    run_tool("cp", &[path.to_str().unwrap(), forged.to_str().unwrap()]);
    let script = format!("mount --bind '{}' '{1}' && exec '{1}'", forged.display(), path.display());
    Command::new("unshare").args(["--mount", "sh", "-c", &script]).run_to_end();
    let third = bed.wait_for(3).pop().unwrap().record;
    assert!(third.modules.iter().any(|module| module.path == path.display().to_string()), "{:?}", third.modules);
    assert_eq!(owner(&third), None);
    assert_eq!(package(third.id.as_str()), None);
}

#[test]
fn modules_none_stores_none_and_a_unit_may_have_its_own_value() {
    let bed = TestBed::new();
    // As the host sees its path.
    let image = image(&bed, 1);
    bed.configure(&format!("[Coreward]\nModules=none\n[Executable {}/*]\nModules=all\n", image.display()));
    let _daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    let without = bed.wait_for(1).pop().unwrap();
    crash_in(&image);
    let with = bed.wait_for(2).pop().unwrap();
    wait_for_modules(&bed, &with);
    // One crash at a time has its modules copied: those of the first would be there by now.
    let (without, with) = (build_ids(&without.record), build_ids(&with.record));
    let only_without: Vec<_> = without.difference(&with).filter_map(|build_id| module_file_name(build_id)).collect();
    assert!(!only_without.is_empty(), "its program at least");
    let names = bed.names(MODULES);
    assert!(only_without.iter().all(|name| !names.contains(&name.display().to_string())), "{names:?}");
    assert_eq!(names.len(), with.len());
}

#[test]
fn a_bundle_is_imported_once_and_counted_never() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let image = image(&bed, 1);
    crash_in(&image);
    let crash = bed.wait_for(1).pop().unwrap();
    wait_for_modules(&bed, &crash);
    let bundle = bed.path("crash.tar");
    let bundle = bundle.to_str().unwrap();
    text(&coreward(&bed, &["export", crash.id().as_str(), "--bundle", bundle]));
    let again = text(&coreward(&bed, &["import", bundle]));
    assert!(again.contains("already"), "{again}");
    assert_eq!(bed.wait_for(1)[0].record.origin, crash.record.origin, "what is known stays as it is");
    daemon.stop();
    fs::remove_dir_all(&image).unwrap();

    // Another machine, as far as a crash can tell.
    let kept = fs::read(bundle).unwrap();
    drop(bed);
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let copy = bed.path("copy.tar");
    fs::write(&copy, kept).unwrap();
    let before = daemon.scrape();
    text(&coreward(&bed, &["import", copy.to_str().unwrap()]));
    let imported = bed.wait_for(1).pop().unwrap();
    assert_eq!((imported.id(), serde_json::to_value(imported.record.origin).unwrap()), (crash.id(), "import".into()));
    wait_for_modules(&bed, &imported);
    assert_has_names(&text(&coreward(&bed, &[&["debug", crash.id().as_str()], &BACKTRACE[..]].concat())));
    let counted = |metrics: &str| metrics.lines().filter(|line| line.starts_with("coredump_process_count{")).count();
    assert_eq!((counted(&before), counted(&daemon.scrape())), (0, 0), "it did not crash here");
    text(&coreward(&bed, &["import", copy.to_str().unwrap()]));
    bed.wait_for(1);
}

/// Root in a container writes what it likes into a file with the build-id of the host's C library.
#[test]
fn a_library_of_this_host_replaces_one_that_root_elsewhere_wrote() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nModules=all\nStormBurst=0\n");
    let _daemon = bed.daemon();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let libc = Path::new(paths.find(|path| path.ends_with("/libc.so.6")).unwrap());
    let image = image(&bed, 1);
    let hosts = fs::read(libc).unwrap();
    let forged = [&hosts[..], b"!"].concat();
    fs::write(image.join(libc.strip_prefix("/").unwrap()), &forged).unwrap();
    crash_in(&image);
    let crash = bed.wait_for(1).pop().unwrap();
    wait_for_modules(&bed, &crash);
    let module = crash.record.modules.iter().find(|module| module.path.contains("libc.so")).unwrap();
    let stored = bed.path(MODULES).join(module_file_name(module.build_id.as_deref().unwrap()).unwrap());
    let content = || Command::new("zstd").arg("-dqc").arg(&stored).output().unwrap().stdout;
    assert!(content() == forged);
    Command::new(program("segv")).run_to_end();
    bed.wait_for(2);
    eventually(Duration::from_secs(20), || content() == hosts);
    crash_in(&image);
    bed.wait_for(3);
    std::thread::sleep(Duration::from_secs(1));
    assert!(content() == hosts, "and nothing replaces it");
}
