//! Where `coreward info` finds debug symbols: the module store, and debuginfod servers. Damaged files cost their own names only.

use crate::testbed::{RunToEnd, TestBed, run_tool, text};
use coreward::store::Listed;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The owner of the state directory, as user `coreward` is on a machine.
const OWNER: u32 = 65001;

/// A crash of a stripped program whose debug symbols are in a file that nothing finds.
struct StrippedCrash {
    bed: TestBed,
    listed: Listed,
    exe: PathBuf,
    whole: Vec<u8>,
    debug: Vec<u8>,
}

impl StrippedCrash {
    fn new() -> Self {
        let bed = TestBed::new();
        let exe = bed.path("program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/traced.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-O2", "-pthread", "-o"]).arg(&exe).arg(source);
        assert!(gcc.run_to_end().success());
        let whole = fs::read(&exe).unwrap();
        let (path, debug) = (exe.to_str().unwrap(), bed.path("debug"));
        run_tool("objcopy", &["--only-keep-debug", path, debug.to_str().unwrap()]);
        run_tool("strip", &[path]);
        let daemon = bed.daemon();
        Command::new(&exe).arg("1").run_to_end();
        let listed = bed.wait_for(1).remove(0);
        assert_eq!(daemon.stop(), Some(0));
        let debug = fs::read(debug).unwrap();
        Self { bed, listed, exe, whole, debug }
    }

    fn build_id(&self) -> &str {
        self.listed.record.exe_build_id.as_ref().unwrap()
    }

    fn info(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let begun = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_coreward"));
        command.arg("--root").arg(self.bed.root.path()).args(["info", self.listed.id().as_str()]).args(arguments);
        command.env_remove("DEBUGINFOD_URLS").env("HOME", self.bed.path("home"));
        let output = command.envs(environment.iter().copied()).output().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{arguments:?}: {:?}", begun.elapsed());
        output
    }

    /// Puts `elf` into the module store.
    fn store(&self, elf: &[u8]) {
        let dir = self.bed.root.state_dir().join("modules");
        fs::create_dir_all(&dir).unwrap();
        let file = self.bed.path("elf");
        fs::write(&file, elf).unwrap();
        let to = dir.join(format!("{}.zst", self.build_id()));
        run_tool("zstd", &["-qf", file.to_str().unwrap(), "-o", to.to_str().unwrap()]);
    }
}

const LINE: &str = "innermost (traced.c:22) inlined in program";

#[test]
fn a_program_that_is_gone_has_its_lines_from_the_module_store() {
    let it = StrippedCrash::new();
    fs::remove_file(&it.exe).unwrap();
    let without = text(&it.info(&[], &[]));
    assert!(!without.contains("traced.c") && without.contains("__libc_start_call_main"), "{without}");
    it.store(&it.whole);
    let with = text(&it.info(&[], &[]));
    assert!(with.contains(LINE) && with.contains("main (traced.c:"), "{with}");
}

/// Whoever maps a file with the build-id of another one supplies the store with it.
#[test]
fn roots_own_file_goes_before_that_of_the_module_store() {
    let it = StrippedCrash::new();
    let mut forged = it.whole.clone();
    let name = b"innermost";
    let places: Vec<usize> = (0..forged.len() - name.len()).filter(|at| forged[*at..].starts_with(name)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| forged[*at..at + name.len()].copy_from_slice(b"forgemost"));
    it.store(&forged);
    fs::write(&it.exe, &it.whole).unwrap();
    let info = text(&it.info(&[], &[]));
    assert!(info.contains(LINE) && !info.contains("forgemost"), "{info}");
    let bundle = it.bed.path("crash.tar");
    let (id, bundle) = (it.listed.id().as_str(), bundle.to_str().unwrap());
    text(&crate::testbed::coreward(&it.bed, &["export", id, "--bundle", bundle]));
    let unpack = format!("tar xOf {bundle} crash-{id}/modules/{}.zst | zstd -dqc", it.build_id());
    let module = Command::new("sh").args(["-c", &unpack]).output().unwrap().stdout;
    assert!(module == it.whole, "{} bytes", module.len());
    fs::remove_file(&it.exe).unwrap();
    assert!(text(&it.info(&[], &[])).contains("forgemost"), "there is no other");
}

#[test]
fn damaged_files_cost_their_own_names_only() {
    let it = StrippedCrash::new();
    fs::remove_file(&it.exe).unwrap();
    let check = |what: &str, elf: &[u8]| {
        it.store(elf);
        let info = text(&it.info(&[], &[]));
        assert!(info.contains("__libc_start_call_main") && info.contains("Stack trace"), "{what}: {info}");
    };
    // From the section headers to within the DWARF.
    for part in [1, 2, 3, 5, 8, 20, 60] {
        check("truncated", &it.whole[..it.whole.len() - it.whole.len() / 64 * part]);
    }
    // Always the same numbers (xorshift), so a failure can be repeated.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 20).unwrap()
    };
    for round in 0..24 {
        let mut elf = it.whole.clone();
        // Behind the notes, which have the build-id.
        let begin = 0x1000;
        for _ in 0..1 << (round % 12) {
            let at = begin + random() % (elf.len() - begin);
            elf[at] = u8::try_from(random() & 0xff).unwrap();
        }
        check(&format!("round {round}"), &elf);
    }
    // A section that claims to expand to 2^50 bytes.
    let compressed = it.bed.path("compressed");
    fs::write(&compressed, &it.whole).unwrap();
    run_tool("objcopy", &["--compress-debug-sections=zlib", compressed.to_str().unwrap()]);
    let mut elf = fs::read(&compressed).unwrap();
    // Elf64_Chdr: ELFCOMPRESS_ZLIB in 4 bytes, 4 reserved, then the size (gABI).
    let headers: Vec<usize> = (0x1000..elf.len() - 26)
        .filter(|at| elf[*at..].starts_with(&[1, 0, 0, 0, 0, 0, 0, 0]) && elf[at + 24] == 0x78)
        .collect();
    assert!(!headers.is_empty());
    for at in headers {
        elf[at + 8..at + 16].copy_from_slice(&(1_u64 << 50).to_le_bytes());
    }
    check("a bomb", &elf);
}

/// A debuginfod server of one file.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                answer(connection.unwrap(), &files, &seen);
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(mut connection: TcpStream, files: &HashMap<String, Vec<u8>>, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
    let (status, body) = match files.get(&path) {
        Some(body) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", b"not found".as_slice()),
    };
    seen.lock().unwrap().push(path);
    let header = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = connection.write_all(header.as_bytes()).and_then(|()| connection.write_all(body));
}

#[test]
fn debuginfod_is_asked_on_request_and_once() {
    let it = StrippedCrash::new();
    let path = format!("/buildid/{}/debuginfo", it.build_id());
    let server = Server::start(HashMap::from([(path.clone(), it.debug.clone())]));
    let cache = it.bed.path("cache");
    let environment = [("DEBUGINFOD_URLS", server.url.as_str()), ("DEBUGINFOD_CACHE_PATH", cache.to_str().unwrap())];
    let without = text(&it.info(&[], &environment));
    assert!(!without.contains("traced.c") && server.requests().is_empty(), "{without}");
    let with = text(&it.info(&["--debuginfod"], &environment));
    assert!(with.contains(LINE), "{with}");
    assert!(fs::read(cache.join(it.build_id()).join("debuginfo")).unwrap() == it.debug);
    let asked = server.requests();
    assert_eq!(asked.iter().filter(|asked| **asked == path).count(), 1, "{asked:?}");
    // What is cached is used without the option; what no server has is not asked for again.
    assert!(text(&it.info(&[], &environment)).contains(LINE));
    assert!(text(&it.info(&["--debuginfod"], &environment)).contains(LINE));
    assert_eq!(server.requests(), asked);
    // The cache of other clients, by its usual names.
    let home = it.bed.path("home/.cache/debuginfod_client").join(it.build_id());
    fs::create_dir_all(home.parent().unwrap()).unwrap();
    fs::rename(cache.join(it.build_id()), home).unwrap();
    assert!(text(&it.info(&[], &[])).contains(LINE));
}

#[test]
fn what_goes_wrong_with_debuginfod_names_the_url_and_the_way_out() {
    let it = StrippedCrash::new();
    let path = format!("/buildid/{}/debuginfo", it.build_id());
    let cache = it.bed.path("cache");
    let cache = ("DEBUGINFOD_CACHE_PATH", cache.to_str().unwrap());
    let output = it.info(&["--debuginfod"], &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("DEBUGINFOD_URLS"), "{output:?}");

    let closed = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let url = format!("http://{closed}");
    let info = text(&it.info(&["--debuginfod"], &[cache, ("DEBUGINFOD_URLS", &url)]));
    assert_eq!(info.matches(&format!("Note: {url}/buildid/")).count(), 1, "{info}");
    assert!(info.contains("check DEBUGINFOD_URLS"), "{info}");

    // One that accepts, and is silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let info = text(&it.info(&["--debuginfod"], &[cache, ("DEBUGINFOD_URLS", &url), ("DEBUGINFOD_TIMEOUT", "1")]));
    assert!(info.contains(&format!("Note: {url}/buildid/")), "{info}");

    let server = Server::start(HashMap::from([(path.clone(), it.debug.clone())]));
    let urls = ("DEBUGINFOD_URLS", server.url.as_str());
    let info = text(&it.info(&["--debuginfod"], &[cache, urls, ("DEBUGINFOD_MAXSIZE", "1000")]));
    assert!(info.contains("set DEBUGINFOD_MAXSIZE") && !info.contains("traced.c"), "{info}");
    let server = Server::start(HashMap::from([(path.clone(), b"<html>log in first</html>".to_vec())]));
    let info = text(&it.info(&["--debuginfod"], &[cache, ("DEBUGINFOD_URLS", &server.url)]));
    assert!(info.contains("not an ELF file") && !info.contains("traced.c"), "{info}");
    // Another build: the reader compares the build-id.
    let other = fs::read("/bin/sh").unwrap();
    let server = Server::start(HashMap::from([(path, other)]));
    let info = text(&it.info(&["--debuginfod"], &[cache, ("DEBUGINFOD_URLS", &server.url)]));
    assert!(!info.contains("traced.c") && info.contains("__libc_start_call_main"), "{info}");
}

#[test]
fn roots_downloads_belong_to_the_owner_of_the_state_directory() {
    let it = StrippedCrash::new();
    let path = format!("/buildid/{}/debuginfo", it.build_id());
    let server = Server::start(HashMap::from([(path, it.debug.clone())]));
    let cache = it.bed.path("var/cache/coreward");
    fs::create_dir_all(&cache).unwrap();
    for path in [&cache, &it.bed.root.state_dir()] {
        run_tool("chown", &["-R", &format!("{OWNER}:{OWNER}"), path.to_str().unwrap()]);
    }
    let info = text(&it.info(&["--debuginfod"], &[("DEBUGINFOD_URLS", &server.url)]));
    assert!(info.contains(LINE), "{info}");
    let file = cache.join("debuginfod_client").join(it.build_id()).join("debuginfo");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(file).unwrap()), OWNER);
    assert!(!it.bed.path("home").exists(), "nothing was written to root's home");
}
