//! What users see of crashes through the query service, and what they may delete.

use crate::access::{as_user, bed_with_users, copy};
use crate::testbed::{QueryService, RunToEnd, TestBed, eventually};
use coreward::store::{CoreState, Listed};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const ALICE: u32 = 1234;
const BOB: u32 = 1235;
/// A uid of no user.
const NOBODY: u32 = 1236;
/// In the test bed.
const ADM: u32 = 4;

/// Sends a call, and prints each reply as a line.
const CALL: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect(sys.argv[1])
try:
    s.sendall(sys.argv[2].encode() + b"\0")
except BrokenPipeError:
    pass  # Whoever has too many connections is answered unasked.
rest = b""
while True:
    while b"\0" not in rest:
        got = s.recv(65536)
        if not got:
            sys.exit("closed")
        rest += got
    reply, rest = rest.split(b"\0", 1)
    print(reply.decode(), flush=True)
    if b'"continues":true' not in reply:
        break
"#;

/// Who asks: a uid, and an additional group.
type Who = (u32, Option<u32>);

fn python((uid, group): Who, script: &str, bed: &TestBed, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
    command.arg(group.map_or("--clear-groups".to_owned(), |group| format!("--groups={group}")));
    command.args(["/usr/bin/python3", "-c", script]).arg(bed.root.query_socket()).args(arguments);
    command
}

fn call_text(method: &str, parameters: &Value, more: bool) -> String {
    json!({ "method": format!("io.coreward.Crashes.{method}"), "parameters": parameters, "more": more }).to_string()
}

/// All replies to a call.
#[track_caller]
fn call_more(bed: &TestBed, who: Who, method: &str, parameters: &Value, more: bool) -> Vec<Value> {
    let output = python(who, CALL, bed, &[&call_text(method, parameters, more)]).output().unwrap();
    assert!(output.status.success(), "{method}: {output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The reply to a call: its parameters, or the name of the error.
#[track_caller]
fn call(bed: &TestBed, who: Who, method: &str, parameters: &Value) -> Result<Value, String> {
    let mut replies = call_more(bed, who, method, parameters, false);
    assert_eq!(replies.len(), 1);
    let reply = replies.remove(0);
    match reply.get("error") {
        Some(error) => Err(error.as_str().unwrap().trim_start_matches("io.coreward.Crashes.").to_owned()),
        None => Ok(reply["parameters"].clone()),
    }
}

/// The ids of the crashes that somebody sees, sorted.
#[track_caller]
fn seen(bed: &TestBed, who: Who) -> Vec<String> {
    let mut ids = Vec::new();
    for reply in call_more(bed, who, "List", &json!({}), true) {
        ids.extend(
            reply["parameters"]["crashes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|crash| crash["id"].as_str().unwrap().to_owned()),
        );
    }
    ids.sort();
    ids
}

fn sorted<const N: usize>(crashes: [&Listed; N]) -> Vec<String> {
    let mut ids: Vec<String> = crashes.iter().map(|listed| listed.id().to_string()).collect();
    ids.sort();
    ids
}

/// The command, run by a user who can reach it.
fn coreward(bed: &TestBed, who: Who, arguments: &[&str]) -> Output {
    command(bed, who).args(arguments).output().unwrap()
}

fn command(bed: &TestBed, (uid, group): Who) -> Command {
    let exe = bed.path("coreward");
    if !exe.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_coreward"), &exe).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
    command.arg(group.map_or("--clear-groups".to_owned(), |group| format!("--groups={group}")));
    command.arg(exe).arg("--root").arg(bed.root.path());
    command
}

fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A test bed with users, in which no core of the program `nocore` is stored.
fn bed() -> TestBed {
    let bed = bed_with_users();
    bed.configure(&format!("[Executable {}]\nStorage=none\n", bed.path("nocore").display()));
    bed
}

/// Crashes of several users, with and without cores.
struct Crashes {
    alice: Listed,
    alice_without_core: Listed,
    bob: Listed,
    root: Listed,
    alice_setuid: Listed,
}

impl Crashes {
    fn cause(bed: &TestBed) -> Self {
        let mut count = 0;
        let mut crash = |command: &mut Command| {
            command.run_to_end();
            count += 1;
            bed.wait_for(count).pop().unwrap()
        };
        let plain = copy(bed, "plain", 0o755, 0);
        let dumpable = Path::new("/proc/sys/fs/suid_dumpable");
        let before = std::fs::read_to_string(dumpable).unwrap();
        std::fs::write(dumpable, "2").unwrap();
        let alice_setuid = crash(&mut as_user(ALICE, &copy(bed, "setuid", 0o4755, BOB)));
        std::fs::write(dumpable, before).unwrap();
        let crashes = Self {
            alice: crash(&mut as_user(ALICE, &plain)),
            alice_without_core: crash(&mut as_user(ALICE, &copy(bed, "nocore", 0o755, 0))),
            bob: crash(&mut as_user(BOB, &plain)),
            root: crash(&mut Command::new(&plain)),
            alice_setuid,
        };
        assert_eq!(crashes.alice_without_core.core_state, CoreState::None);
        assert!(crashes.alice_setuid.record.privileged && crashes.alice.core_state.is_present());
        crashes
    }
}

#[test]
fn users_see_their_own_crashes_and_no_sign_of_others() {
    let bed = bed();
    let _daemon = bed.daemon();
    let crashes = Crashes::cause(&bed);
    let _service = QueryService::start(&bed);
    let Crashes { alice, alice_without_core, bob, root, alice_setuid } = &crashes;
    assert_eq!(seen(&bed, (ALICE, None)), sorted([alice, alice_without_core]));
    assert_eq!(seen(&bed, (BOB, None)), sorted([bob]));
    assert_eq!(seen(&bed, (NOBODY, None)), [] as [String; 0]);
    let all = sorted([alice, alice_without_core, bob, root, alice_setuid]);
    assert_eq!(seen(&bed, (BOB, Some(ADM))), all);
    assert_eq!(seen(&bed, (0, None)), all);

    // What is not hers is as if it was not.
    let get = |who, name: &str| call(&bed, who, "Get", &json!({ "match": name }));
    for id in [bob.id(), root.id(), alice_setuid.id()] {
        assert_eq!(get((ALICE, None), id.as_str()), Err("NoSuchCrash".to_owned()));
        assert_eq!(get((BOB, Some(ADM)), id.as_str()).unwrap()["record"]["id"], id.as_str());
    }
    assert_eq!(get((ALICE, None), "ffffffffffffffff"), Err("NoSuchCrash".to_owned()));
    let bobs_pid = bob.record.key.pid.to_string();
    assert_eq!(get((ALICE, None), &bobs_pid), Err("NoSuchCrash".to_owned()));
    let record = get((ALICE, None), alice_without_core.id().as_str()).unwrap();
    assert_eq!((&record["record"]["uid"], &record["record"]["core_state"]), (&json!(ALICE), &json!("none")));

    let groups = call(&bed, (ALICE, None), "Groups", &json!({ "examples": true })).unwrap();
    let counts: Vec<&Value> = groups["groups"].as_array().unwrap().iter().map(|group| &group["count"]).collect();
    // The same program under two names, and not the crashes of others with the same signature.
    assert_eq!(counts, [2]);
    let usage = |who| call(&bed, who, "Usage", &json!({ "by": "user" })).unwrap();
    assert_eq!(usage((ALICE, None))["cores"], 1);
    assert_eq!(usage((ALICE, None))["shares"][0]["name"], "1234");
    assert_eq!(usage((NOBODY, None)), json!({ "cores": 0, "bytes": 0, "shares": [] }));
    assert_eq!(usage((0, None))["cores"], 4);

    // Errors of the protocol.
    let error = |method: &str, parameters: Value| call(&bed, (ALICE, None), method, &parameters).unwrap_err();
    assert_eq!(error("Subscribe", json!({})), "org.varlink.service.ExpectedMore");
    assert_eq!(error("Frobnicate", json!({})), "org.varlink.service.MethodNotFound");
    assert_eq!(error("List", json!({ "filter": { "user": "alice" } })), "org.varlink.service.InvalidParameter");
}

#[test]
fn the_command_shows_a_user_the_same_and_works_without_the_service() {
    let bed = bed();
    let _daemon = bed.daemon();
    let Crashes { alice, alice_without_core, bob, .. } = Crashes::cause(&bed);
    let service = QueryService::start(&bed);
    let user = (ALICE, None);
    let ids = |text: &str| -> Vec<String> {
        let listed: Vec<Value> = serde_json::from_str(text).unwrap();
        let mut ids: Vec<String> = listed.iter().map(|crash| crash["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let list = coreward(&bed, user, &["list", "--json"]);
    assert_eq!(ids(&String::from_utf8_lossy(&list.stdout)), sorted([&alice, &alice_without_core]), "{list:?}");
    let table = shown(&coreward(&bed, user, &["list"]));
    assert!(table.contains(alice_without_core.id().as_str()) && !table.contains(bob.id().as_str()), "{table}");
    assert!(table.contains("none:configured") && !table.contains("not active"), "{table}");
    let info = shown(&coreward(&bed, user, &["info", alice_without_core.id().as_str()]));
    assert!(info.contains("nocore") && info.contains("Signature"), "{info}");
    let info = shown(&coreward(&bed, user, &["info", bob.id().as_str()]));
    assert!(info.contains("no crash matches"), "{info}");
    let groups = shown(&coreward(&bed, user, &["groups"]));
    assert_eq!(groups.lines().count(), 2, "{groups}");
    let signature = alice.record.signature_key();
    let group = shown(&coreward(&bed, user, &["groups", signature.as_str()]));
    assert!(group.contains("2 crashes, 1 core") && group.contains(alice.id().as_str()), "{group}");
    let usage = shown(&coreward(&bed, user, &["usage", "--by", "user"]));
    assert!(usage.contains(" in 1 core "), "{usage}");
    // A core that there is, and one that there is not.
    let export = |listed: &Listed| coreward(&bed, user, &["export", listed.id().as_str()]);
    let missing = export(&alice_without_core);
    assert!(!missing.status.success() && shown(&missing).contains("has no core"), "{missing:?}");
    let others = export(&bob);
    assert!(!others.status.success() && shown(&others).contains("no crash matches"), "{others:?}");
    let none = coreward(&bed, (NOBODY, None), &["info"]);
    assert!(none.status.success() && shown(&none).contains("No crash of yours"), "{none:?}");

    // Without the service a user sees what the cores tell.
    drop(service);
    std::fs::remove_file(bed.root.query_socket()).unwrap();
    let list = coreward(&bed, user, &["list", "--json"]);
    assert_eq!(ids(&String::from_utf8_lossy(&list.stdout)), sorted([&alice]));
    assert!(shown(&list).contains("coreward-query.socket"), "{list:?}");
    let groups = coreward(&bed, user, &["groups"]);
    assert!(!groups.status.success() && shown(&groups).contains("coreward-query.socket"), "{groups:?}");
    let removed = coreward(&bed, user, &["rm", alice.id().as_str()]);
    assert!(!removed.status.success() && shown(&removed).contains("coreward-query.socket"), "{removed:?}");
}

#[test]
fn users_count_their_own_crashes_and_what_their_own_cores_take() {
    let bed = bed();
    let _daemon = bed.daemon();
    let Crashes { alice, bob, .. } = Crashes::cause(&bed);
    let service = QueryService::start(&bed);
    let json = |who, arguments: &[&str]| -> Value {
        let output = coreward(&bed, who, arguments);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let counts = |top: &Value, by: &str| -> Vec<(Value, u64)> {
        let tallies = top["by"][by].as_array().unwrap().iter();
        tallies.map(|tally| (tally["name"].clone(), tally["count"].as_u64().unwrap())).collect()
    };
    let hers = json((ALICE, None), &["top", "--json"]);
    assert_eq!(hers["crashes"], 2);
    assert_eq!(counts(&hers, "user"), [(json!("1234"), 2)]);
    assert_eq!(hers["by"]["user"][0]["cores"], 1);
    assert_eq!(counts(&hers, "executable").len(), 2);
    let his = json((BOB, None), &["top", "--json"]);
    assert_eq!((counts(&his, "user"), &his["crashes"]), (vec![(json!("1235"), 1)], &json!(1)));
    assert_eq!(json((NOBODY, None), &["top", "--json"])["crashes"], 0);
    assert_eq!(json((BOB, Some(ADM)), &["top", "--json"])["crashes"], 5);
    assert_eq!(json((ALICE, None), &["top", "--json", "--until", "-1h"])["crashes"], 0);

    for (who, own) in [((ALICE, None), &alice), ((BOB, None), &bob)] {
        for by in ["unit", "user", "executable", "signature"] {
            let usage = json(who, &["usage", "--json", "--by", by]);
            assert_eq!((&usage["cores"], &usage["bytes"]), (&json!(1), &json!(own.record.core.stored)), "{usage}");
            let holders = usage["holders"].as_array().unwrap();
            assert_eq!((holders.len(), &holders[0]["bytes"]), (1, &usage["bytes"]), "{usage}");
            assert_eq!((&usage["pinned_bytes"], holders[0].get("is_limited")), (&Value::Null, None));
        }
        let executable = json(who, &["usage", "--json", "--by", "executable"]);
        assert_eq!(executable["holders"][0]["name"], own.record.exe);
    }
    assert_eq!(json((NOBODY, None), &["usage", "--json"])["cores"], 0);
    assert_eq!(json((BOB, Some(ADM)), &["usage", "--json"])["cores"], 4);
    // The core is there, and cannot be read: the service knows of it all the same.
    let core = alice.core_file.as_ref().unwrap();
    let mode = std::fs::metadata(core).unwrap().permissions();
    std::fs::set_permissions(core, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    assert_eq!(json((ALICE, None), &["usage", "--json"])["cores"], 1);
    std::fs::set_permissions(core, mode).unwrap();

    // FUNCTION is that of crashes which the user may see; the listing has it over the service too.
    let list = shown(&coreward(&bed, (ALICE, None), &["list", "-o", "pid,function,COREDUMP_COMM", "--no-legend"]));
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains(&format!("{}  ", alice.record.key.pid)) && list.contains("nocore"), "{list}");
    let complete = shown(&coreward(&bed, (ALICE, None), &["complete", "match"]));
    assert!(complete.contains("nocore") && !complete.contains(bob.id().as_str()), "{complete}");

    // Without the service a user is told what is missing.
    drop(service);
    std::fs::remove_file(bed.root.query_socket()).unwrap();
    let top = coreward(&bed, (ALICE, None), &["top", "--by", "user"]);
    assert!(shown(&top).contains("1 crash from") && shown(&top).contains("coreward-query.socket"), "{top:?}");
    let usage = coreward(&bed, (ALICE, None), &["usage"]);
    assert!(shown(&usage).contains(" in 1 core ") && shown(&usage).contains("coreward-query.socket"), "{usage:?}");
}

/// A running `coreward watch`; dropped, it ends.
struct UsersWatch {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl UsersWatch {
    /// Returns when it has begun.
    fn start(bed: &TestBed, who: Who, arguments: &[&str]) -> Self {
        let mut child = command(bed, who).arg("watch").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut watch = Self { child, lines };
        assert!(watch.line().starts_with("ID"));
        watch
    }

    #[track_caller]
    fn line(&mut self) -> String {
        self.lines.next().expect("another line").unwrap().trim_end().to_owned()
    }
}

impl Drop for UsersWatch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn users_watch_their_own_crashes_also_while_the_service_restarts() {
    let bed = bed();
    let _daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    as_user(ALICE, &plain).run_to_end();
    bed.wait_for(1);
    let service = QueryService::start(&bed);
    let columns = ["-o", "id"];
    let mut hers = UsersWatch::start(&bed, (ALICE, None), &columns);
    let mut his = UsersWatch::start(&bed, (BOB, None), &columns);
    let mut none = UsersWatch::start(&bed, (ALICE, None), &[columns.as_slice(), &["nocore"]].concat());
    let crash = |who: u32, program: &Path, count: usize| -> String {
        as_user(who, program).run_to_end();
        bed.wait_for(count).pop().unwrap().id().to_string()
    };
    let bobs = crash(BOB, &plain, 2);
    let alices = crash(ALICE, &plain, 3);
    let without_core = crash(ALICE, &copy(&bed, "nocore", 0o755, 0), 4);
    let bobs_last = crash(BOB, &plain, 5);
    assert_eq!([hers.line(), hers.line()], [alices, without_core.clone()]);
    assert_eq!([his.line(), his.line()], [bobs, bobs_last]);
    assert_eq!(none.line(), without_core);

    drop(service);
    std::fs::remove_file(bed.root.query_socket()).unwrap();
    let in_between = crash(ALICE, &plain, 6);
    let _service = QueryService::start(&bed);
    assert_eq!(hers.line(), in_between);
    let bobs_newest = crash(BOB, &plain, 7);
    let newest = crash(ALICE, &plain, 8);
    assert_eq!((his.line(), hers.line()), (bobs_newest, newest), "once each");
}

#[test]
fn owners_delete_their_own_cores_and_no_others() {
    let bed = bed();
    let _daemon = bed.daemon();
    let crashes = Crashes::cause(&bed);
    let _service = QueryService::start(&bed);
    let exists = |listed: &Listed| listed.core_file.as_ref().unwrap().exists();
    let delete =
        |who, listed: &Listed, force: bool| call(&bed, who, "Delete", &json!({ "id": listed.id(), "force": force }));
    let refused = |error: &str| Err(error.to_owned());
    for listed in [&crashes.alice, &crashes.root, &crashes.alice_setuid] {
        assert_eq!(delete((BOB, None), listed, true), refused("NoSuchCrash"));
        let removed = coreward(&bed, (BOB, None), &["rm", listed.id().as_str()]);
        assert!(!removed.status.success() && shown(&removed).contains("no crash matches"), "{removed:?}");
        assert!(exists(listed));
    }
    assert_eq!(delete((ALICE, None), &crashes.alice_setuid, false), refused("NoSuchCrash"));
    assert_eq!(delete((ALICE, None), &crashes.alice_without_core, false), refused("NoCore"));
    assert_eq!(
        call(&bed, (ALICE, None), "Delete", &json!({ "id": &crashes.alice.id().as_str()[..15] })),
        refused("NoSuchCrash")
    );

    // A pin is an administrator's.
    let pinned = coreward(&bed, (0, None), &["pin", crashes.alice.id().as_str()]);
    assert!(pinned.status.success(), "{pinned:?}");
    assert_eq!(delete((ALICE, None), &crashes.alice, false), refused("Pinned"));
    assert_eq!(delete((ALICE, None), &crashes.alice, true), refused("Pinned"));
    let removed = coreward(&bed, (ALICE, None), &["rm", "--force", crashes.alice.id().as_str()]);
    assert!(!removed.status.success() && shown(&removed).contains("pinned"), "{removed:?}");
    assert!(coreward(&bed, (0, None), &["unpin", crashes.alice.id().as_str()]).status.success());

    let would = coreward(&bed, (ALICE, None), &["rm", "--dry-run", crashes.alice.id().as_str()]);
    assert!(would.status.success() && exists(&crashes.alice), "{would:?}");
    let removed = coreward(&bed, (ALICE, None), &["rm", &crashes.alice.record.key.pid.to_string()]);
    assert!(removed.status.success() && !exists(&crashes.alice), "{removed:?}");
    let state = |listed: &Listed| bed.crashes().iter().find(|other| other.id() == listed.id()).unwrap().core_state;
    assert_eq!(state(&crashes.alice), CoreState::Removed);
    assert_eq!(delete((ALICE, None), &crashes.alice, false), refused("NoCore"));

    assert_eq!(delete((BOB, None), &crashes.bob, false).unwrap()["id"], crashes.bob.id().as_str());
    assert_eq!(
        delete((ALICE, Some(ADM)), &crashes.alice_setuid, false).unwrap()["id"],
        crashes.alice_setuid.id().as_str()
    );
    assert!(coreward(&bed, (0, None), &["pin", crashes.root.id().as_str()]).status.success());
    assert_eq!(delete((ALICE, Some(ADM)), &crashes.root, false), refused("Pinned"));
    assert!(delete((ALICE, Some(ADM)), &crashes.root, true).is_ok());
    for listed in [&crashes.bob, &crashes.alice_setuid, &crashes.root] {
        assert!(!exists(listed));
        assert_eq!(state(listed), CoreState::Removed);
    }
    assert_eq!(bed.crashes().len(), 5, "the records stay");
}

/// A subscription; dropped, it ends.
struct Subscription {
    child: Child,
    replies: BufReader<std::process::ChildStdout>,
}

impl Subscription {
    fn start(bed: &TestBed, who: Who) -> Self {
        let text = call_text("Subscribe", &json!({}), true);
        let mut child = python(who, CALL, bed, &[&text]).stdout(Stdio::piped()).spawn().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap());
        let mut subscription = Self { child, replies };
        assert_eq!(subscription.next(), [] as [String; 0], "it has begun");
        subscription
    }

    /// The ids in the next reply.
    fn next(&mut self) -> Vec<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        let reply: Value = serde_json::from_str(&line).unwrap();
        reply["parameters"]["crashes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|crash| crash["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn subscribers_hear_of_new_crashes_within_a_second() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    as_user(ALICE, &plain).run_to_end();
    bed.wait_for(1);
    let _service = QueryService::start(&bed);
    let (mut hers, mut all) = (Subscription::start(&bed, (ALICE, None)), Subscription::start(&bed, (0, None)));
    for count in [2, 4] {
        as_user(BOB, &plain).run_to_end();
        as_user(ALICE, &plain).run_to_end();
        let crashes = bed.wait_for(count + 1);
        let recorded = Instant::now();
        let newest = crashes.last().unwrap().id().to_string();
        assert_eq!(hers.next(), std::slice::from_ref(&newest), "hers alone");
        let mut ids = all.next();
        while ids.len() < 2 {
            ids.extend(all.next());
        }
        assert_eq!(ids, [crashes[count - 1].id().to_string(), newest]);
        assert!(recorded.elapsed() < Duration::from_secs(1), "{:?}", recorded.elapsed());
    }
}

/// Opens connections until it is told to end: 1000 that do nothing, some that send garbage, some that never read.
const FLOOD: &str = r#"
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
path = sys.argv[1]
kept = []
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(0.2)
    try:
        s.connect(path)
    except OSError:
        pass
    kept.append(s)
    return s
def send(s, data):
    try:
        s.sendall(data)
    except OSError:
        pass
for data in [b"\0" * 4096, b"{" * 100000, b"x" * (64 << 20), b'{"method":' + b"[" * 30000 + b"\0", b"\xff\0", b'{"method":"' + b"a" * 40000]:
    send(connect(), data)
for s in kept:
    s.close()
del kept[:]
call = b'{"method":"io.coreward.Crashes.List","parameters":{"records":true},"more":true}\0'
for _ in range(12):
    send(connect(), call * 5000)
for _ in range(1000):
    connect()
print("flooded", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_hostile_client_costs_neither_other_users_nor_the_intake() {
    let bed = bed_with_users();
    let daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    for _ in 0..20 {
        as_user(ALICE, &plain).run_to_end();
    }
    as_user(BOB, &plain).run_to_end();
    bed.wait_for(21);
    let service = QueryService::start(&bed);
    let pid = daemon.pid();
    let mut flood =
        python((ALICE, None), FLOOD, &bed, &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(flood.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "flooded\n");

    let begun = Instant::now();
    assert_eq!(seen(&bed, (BOB, None)).len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // She has no connection left, and is told so.
    let refused = python((ALICE, None), CALL, &bed, &[&call_text("List", &json!({}), true)]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stdout).contains("TooManyConnections"), "{refused:?}");
    assert_eq!(seen(&bed, (0, None)).len(), 21);
    // The intake is as it was.
    let begun = Instant::now();
    as_user(BOB, &plain).run_to_end();
    bed.wait_for(22);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(daemon.pid(), pid);
    let memory = service.memory();
    assert!(memory < 96 << 20, "{memory} bytes");
    drop(flood.stdin.take());
    flood.wait().unwrap();
    eventually(Duration::from_secs(30), || {
        call_more(&bed, (ALICE, None), "List", &json!({}), true).iter().all(|reply| reply.get("error").is_none())
    });
    assert_eq!(seen(&bed, (ALICE, None)).len(), 20);
}

/// Passes a connection to the daemon as a service would that is not ours, and prints the answer. Bob connects to a socket with the service's
/// name. What is passed on is one of: the accepted connection, the listening socket, the end that connected, a pair of sockets, an accepted
/// connection of another socket, and the very connection to the daemon.
const LIE: &str = r#"
import array, os, socket, sys
deletion, query, request, count, what = sys.argv[1:]
def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener
if what == "other":
    query += ".other"
listener = listen(query)
os.chmod(query, 0o666)
os.setgroups([])
os.setresuid(0, 1235, 0)
connected = socket.socket(socket.AF_UNIX)
connected.connect(query)
pair = socket.socketpair(socket.AF_UNIX)
os.setresuid(0, 0, 0)
accepted, _ = listener.accept()
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
s.connect(deletion)
passed = {"accepted": accepted, "listening": listener, "connected": connected, "pair": pair[0], "other": accepted, "deletion": s}[what]
s.sendmsg([request.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()] * int(count)))])
answer = s.recv(4096).decode()
os.unlink(query)
print(answer)
"#;

/// The daemon decides by the connection that it is given, not by who gives it.
#[test]
fn the_daemon_deletes_nothing_for_a_service_that_lies() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    as_user(ALICE, &plain).run_to_end();
    as_user(BOB, &plain).run_to_end();
    let crashes = bed.wait_for(2);
    let [hers, his] = crashes.as_slice() else { panic!("{crashes:?}") };
    let ask = |request: &str, descriptors: usize, what: &str| -> String {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", LIE]).arg(bed.root.deletion_socket()).arg(bed.root.query_socket());
        let output = command.args([request, &descriptors.to_string(), what]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let request = format!("{}!", hers.id());
    assert_eq!(ask(&request, 1, "accepted"), "no-such-crash");
    for (request, descriptors) in [(request.as_str(), 2), ("0123456789abcdef?", 1), ("../../../../etc/x", 1)] {
        assert_eq!(ask(request, descriptors, "accepted"), "", "no answer");
    }
    // The kernel names root at a socket on which root listens, and at the end that connected to it: whoever passes those on is not root.
    for what in ["listening", "connected", "pair", "other", "deletion"] {
        assert_eq!(ask(&request, 1, what), "", "{what}");
        assert_eq!(ask(&format!("{}!", his.id()), 1, what), "", "{what}");
    }
    // No connection at all.
    let mut stream = UnixStream::connect(bed.root.deletion_socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(std::io::read_to_string(stream).unwrap(), "");
    let exists = |listed: &Listed| listed.core_file.as_ref().unwrap().exists();
    assert!(exists(hers) && exists(his));
    assert!(ask(&format!("{}!", his.id()), 1, "accepted").starts_with("deleted "), "his own, and he is connected");
    assert!(exists(hers) && !exists(his));
}
