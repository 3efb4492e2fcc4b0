//! What the verbs show of crashes.

use crate::machine::records;
use crate::{Machine, assert_output, one_field_a_line};
use coreward::crash::{
    Dump, Frame, FrameTrust, InterpreterFrame, InterpreterStack, PidPin, Reason, Record, RuntimeReport, Symbol,
    ThreadStacks,
};

#[test]
fn list() {
    let machine = Machine::with_crashes();
    for (name, arguments) in [
        ("list", ["list"].as_slice()),
        ("list_without_legend", &["list", "--no-legend"]),
        ("list_of_a_unit", &["list", "--unit", "nginx"]),
        ("list_of_a_signature", &["list", "s1-4d5e6f708192a3b4c5d6e7f8"]),
        ("list_without_container_and_host", &["list", "worker"]),
        ("list_newest", &["list", "-n", "2"]),
        ("list_of_a_user_unit", &["list", "editor"]),
        ("list_of_a_signal", &["list", "--signal", "sigabrt"]),
        ("list_without_match", &["list", "no-such-program"]),
        ("list_of_fields", &["list", "COREDUMP_SIGNAL=11", "COREDUMP_SIGNAL=ABRT", "COREDUMP_UID=0"]),
        ("list_reverse", &["list", "--reverse", "-n", "3", "--no-legend"]),
        ("list_field", &["list", "-F", "COREDUMP_EXE"]),
        ("list_several_fields", &["list", "-F", "id,COREDUMP_SIGNAL_NAME,COREDUMP_UNIT,core.stored"]),
        ("list_columns", &["list", "-o", "id,sig,function,COREDUMP_CMDLINE,core.stored", "-n", "3"]),
        ("list_titles", &["list", "--fields", "Title,SIGNATURE", "--no-legend"]),
        ("list_title_field", &["list", "-F", "COREWARD_TITLE", "-n", "3"]),
        ("list_quiet", &["list", "-q", "no-such-program"]),
    ] {
        assert_output(name, &machine.coreward(arguments));
    }
    assert_output("list_json", &one_field_a_line(&machine.coreward(&["list", "--json"])));
}

#[test]
fn info() {
    let machine = Machine::with_crashes();
    for (record, name) in records().iter().zip([
        "with_stacks",
        "storm",
        "container_truncated",
        "spooled_without_executable",
        "hostile_text",
        "evicted",
        "missing",
    ]) {
        assert_output(&format!("info_{name}"), &machine.coreward(&["info", record.id.as_str()]));
    }
    assert_output("info_json_pretty", &machine.coreward(&["info", "2e00c0de00000004", "--json=pretty"]));
    assert_output("info_json", &one_field_a_line(&machine.coreward(&["info", "1f00c0de00000001", "--json"])));
}

#[test]
fn a_dump_is_told_from_a_crash() {
    let mut record = records().remove(0);
    record.dump = Some(Dump { reason: "slow\n  Storage: none\u{1b}[31m".to_owned() });
    (record.signal, record.signal_name) = (None, Dump::SIGNAL_NAME.to_owned());
    (record.signature, record.siginfo, record.failure, record.fault) = (None, None, None, None);
    record.decision.reason = Reason::Requested;
    (record.dumpable, record.pidfd, record.tid) = (Some(1), Some(PidPin::Shim), Some(record.key.pid));
    let machine = Machine::with_crash(&record);
    assert_output("list_of_a_dump", &machine.coreward(&["list", "--signal", "dump"]));
    assert_output("info_of_a_dump", &machine.coreward(&["info"]));
    assert_output("groups_without_a_dump", &machine.coreward(&["groups"]));
}

/// The page of a crash as text: its elements on lines of their own, without its style and what differs from machine to machine.
fn page_of(record: &Record) -> String {
    let page = Machine::with_crash(record).coreward(&["report", record.id.as_str()]);
    let (_, body) = page.split_once("<main>").unwrap();
    let (heading, rest) = body.split_once(" on ").unwrap();
    let (_, rest) = rest.split_once(", ").unwrap();
    let (rest, _) = rest.split_once("<footer>").unwrap();
    format!("{heading} on HOST, {rest}").replace("</", "\n</").replace("><", ">\n<").replace("\n</", "</")
}

/// All that a record can have about its stacks is on the page of the crash and in `info`, and hostile names add no element to the one and no line to
/// the other.
#[test]
fn the_page_of_a_crash_has_what_info_has() {
    const HOSTILE: &str = "</b><script>alert(1)</script>\n\u{1b}[31m\u{202e}\"'&";
    let mut record = records().into_iter().find(|record| record.failure.is_some()).unwrap();
    let symbol = |name: &str| Some(Symbol { name: name.to_owned(), offset: 4 });
    let frame = |address, symbol| Frame {
        address,
        module: None,
        offset: 0,
        trust: FrameTrust::CallFrameInfo,
        symbol,
        compiler: None,
    };
    record.maps = format!("7000-8000 r-xp 00000000 00:00 0 [anon:v8 {HOSTILE}]\n").replace("\n\u{1b}", "\u{1b}");
    record.stack = vec![
        Frame { trust: FrameTrust::Context, ..frame(0x1000, symbol("vm_exec")) },
        frame(0x7010, None),
        frame(0x1200, symbol(HOSTILE)),
        Frame { trust: FrameTrust::Scan, ..frame(0x1300, None) },
    ];
    // Deeper than the page about many crashes shows.
    record.stack.extend((0..30).map(|depth| frame(0x2000 + depth, symbol("recurse"))));
    record.failure.as_mut().unwrap().handler = vec![frame(0x3000, symbol("on_fault")), frame(0x3001, symbol(HOSTILE))];
    record.other_threads =
        vec![ThreadStacks { count: 2, tids: vec![71, 72], frames: vec![frame(0x4000, symbol("poll"))] }];
    let function = |name: &str, entry| InterpreterFrame {
        function: name.to_owned(),
        file: format!("app/{HOSTILE}.rb"),
        line: Some(7),
        entry,
    };
    record.interpreter = Some(InterpreterStack {
        runtime: "ruby".to_owned(),
        version: "3.1.2".to_owned(),
        frames: vec![function("save", false), function(HOSTILE, true), function("main", true)],
        loops: vec![0],
        incomplete: None,
    });
    record.stack[3].compiler = Some(HOSTILE.to_owned());
    let (runtime, path) = (HOSTILE.to_owned(), format!("/srv/{HOSTILE}.log"));
    record.runtime_report = Some(RuntimeReport { runtime, path, bytes: 58_058, kept: 4096 });
    let page = page_of(&record);
    assert!(!page.contains("<script>") && !page.contains(['\u{1b}', '\u{202e}']), "{page}");
    assert_output("page_all_stacks", &page);
    assert_output("info_all_stacks", &Machine::with_crash(&record).coreward(&["info", record.id.as_str()]));
}

#[test]
fn groups() {
    let machine = Machine::with_crashes();
    assert_output("groups", &machine.coreward(&["groups"]));
    assert_output("groups_columns", &machine.coreward(&["groups", "-o", "name,count"]));
    assert_output("groups_of_one", &machine.coreward(&["groups", "s1-4d5e"]));
    assert_output("groups_json", &one_field_a_line(&machine.coreward(&["groups", "--json"])));
    assert_output("groups_of_one_json", &one_field_a_line(&machine.coreward(&["groups", "s1-4d5e", "--json"])));
}

#[test]
fn top() {
    let machine = Machine::with_crashes();
    let time = ["--since", "2026-01-01", "--until", "2027-01-01"];
    assert_output("top", &machine.coreward(&[["top", "-n", "3"].as_slice(), &time].concat()));
    assert_output("top_by_user", &machine.coreward(&[["top", "--by", "user"].as_slice(), &time].concat()));
    let columns = ["--by", "unit", "-o", "name,count", "--no-legend"];
    assert_output("top_columns", &machine.coreward(&[["top"].as_slice(), &time, &columns].concat()));
    assert_output("top_json", &one_field_a_line(&machine.coreward(&[["top", "--json"].as_slice(), &time].concat())));
}

#[test]
fn usage() {
    let machine = Machine::with_crashes();
    for by in ["unit", "user", "executable", "signature"] {
        assert_output(&format!("usage_by_{by}"), &machine.coreward(&["usage", "--by", by]));
    }
    assert_output("usage_json", &one_field_a_line(&machine.coreward(&["usage", "--json"])));
}

#[test]
fn cores_are_pinned_and_removed() {
    let machine = Machine::with_crashes();
    for (name, arguments) in [
        ("pin", ["pin", "1f00c0de00000001"].as_slice()),
        ("rm_pinned", &["rm", "1f00c0de00000001"]),
        ("unpin", &["unpin", "1f00c0de00000001"]),
        ("rm_dry_run", &["rm", "--dry-run", "1f00c0de00000001"]),
        ("vacuum_dry_run", &["vacuum", "--max-cores", "1", "--dry-run"]),
        ("rm", &["rm", "1f00c0de00000001"]),
        ("info_removed", &["info", "1f00c0de00000001"]),
        ("vacuum", &["vacuum", "--max-use", "0"]),
    ] {
        assert_output(name, &machine.coreward(arguments));
    }
}

#[test]
fn nothing_to_show() {
    let machine = Machine::new();
    for (name, arguments) in [
        ("list", ["list"].as_slice()),
        ("list_json", &["list", "--json"]),
        ("list_json_pretty", &["list", "--json=pretty"]),
        ("list_quiet", &["list", "--quiet"]),
        ("info", &["info"]),
        ("groups", &["groups"]),
        ("usage", &["usage"]),
    ] {
        assert_output(&format!("none_{name}"), &machine.coreward(arguments));
    }
    let machine = Machine::with_crashes();
    for (name, arguments) in [
        ("no_match", ["info", "no-such-program"].as_slice()),
        ("similar_unit", &["info", "ngnix"]),
        ("similar_field", &["info", "COREDUMP_UNIT=nginx.servce"]),
        ("similar_program", &["rm", "/usr/sbin/ngins"]),
        ("similar_id", &["export", "1f00c0de00000009", "-o", "core"]),
        ("no_directory", &["export", "1f00c0de00000001", "-o", "/no/such/directory/core"]),
        ("no_core_missing", &["export", "2e00c0de00000007", "-o", "core"]),
        ("no_core_gone", &["rm", "2e00c0de00000004"]),
        ("ambiguous", &["info", "2e0"]),
        ("no_core_storm", &["export", "1f00c0de00000002", "-o", "core"]),
        ("no_core_evicted", &["export", "2e00c0de00000006", "-o", "core"]),
        ("damaged", &["export", "1f00c0de00000001"]),
        ("groups_no_match", &["groups", "s1-none"]),
    ] {
        assert_output(&format!("error_{name}"), &machine.coreward(arguments));
    }
    let registering = machine.coreward(&["register", "--shim", "/no/such/shim"]);
    let name = if nix::unistd::Uid::effective().is_root() { "error_shim" } else { "error_register_as_user" };
    assert_output(name, &registering);
}
