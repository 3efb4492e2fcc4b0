//! What the verbs show of crashes.

use crate::machine::records;
use crate::{Machine, assert_output, one_field_a_line};

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
    assert_output("info_json", &one_field_a_line(&machine.coreward(&["info", "1f00c0de00000001", "--json"])));
}

#[test]
fn groups() {
    let machine = Machine::with_crashes();
    assert_output("groups", &machine.coreward(&["groups"]));
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
        ("info", &["info"]),
        ("groups", &["groups"]),
        ("usage", &["usage"]),
    ] {
        assert_output(&format!("none_{name}"), &machine.coreward(arguments));
    }
    let machine = Machine::with_crashes();
    for (name, arguments) in [
        ("no_match", ["info", "no-such-program"].as_slice()),
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
