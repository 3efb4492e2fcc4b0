use super::*;
use crate::crash::fixtures::{self, record};
use crate::crash::plumbing::GROUPS;
use crate::crash::{Failure, FrameTrust, InterpreterStack};
use proptest::prelude::*;

fn module(path: &str) -> Module {
    Module { end: 1 << 20, ..fixtures::module(path) }
}

/// A frame of the `number`-th module in the function of this name, or in none.
fn frame(number: u32, name: &str) -> Frame {
    let symbol = (!name.is_empty()).then(|| Symbol::new(name.as_bytes(), 4));
    Frame {
        address: 0x1000,
        module: Some(number),
        offset: 0x118b,
        trust: FrameTrust::CallFrameInfo,
        symbol,
        compiler: None,
    }
}

/// The title of a crash with these frames: module and function of each.
fn title(frames: &[(&str, &str)]) -> String {
    let mut record = record(1);
    for (number, (path, name)) in (0..).zip(frames) {
        record.modules.push(module(path));
        record.stack.push(frame(number, name));
    }
    record.title()
}

/// The title of a crash in which these functions of a program are on the stack.
fn of(names: &[&str]) -> String {
    title(&names.iter().map(|name| ("/srv/app", *name)).collect::<Vec<_>>())
}

#[test]
fn the_first_two_frames_that_are_no_plumbing_are_named() {
    assert_eq!(of(&["hash_key", "render", "main"]), "SIGSEGV in hash_key <- render");
    assert_eq!(
        title(&[("/usr/lib/libc.so.6", "raise"), ("/usr/lib/oj.so", ""), ("/usr/bin/ruby", "rb_call")]),
        "SIGSEGV in oj.so+0x118b <- rb_call"
    );
    assert_eq!(title(&[("[vdso]", "__vdso_clock_gettime"), ("/srv/app", "in_vdso")]), "SIGSEGV in in_vdso");
    assert_eq!(of(&["deep", "deep", "deep", "main"]), "SIGSEGV in deep <- main");
    assert_eq!(of(&["main", "__libc_start_main", "_start"]), "SIGSEGV in main");
}

#[test]
fn what_an_interpreter_executes_is_named_and_not_its_own_frames() {
    let interpreted = |frames: &[(&str, &str)], loops: &[u32], functions: &[&str]| {
        let mut record = record(1);
        for (path, name) in frames {
            let number = record.modules.iter().position(|known| known.path == *path).unwrap_or_else(|| {
                record.modules.push(module(path));
                record.modules.len() - 1
            });
            record.stack.push(frame(u32::try_from(number).unwrap(), name));
        }
        let function = |name: &&str| InterpreterFrame {
            function: (*name).to_owned(),
            file: "/srv/app.rb".to_owned(),
            line: Some(7),
            entry: true,
        };
        record.interpreter = Some(InterpreterStack {
            runtime: "ruby".to_owned(),
            version: String::new(),
            frames: functions.iter().map(function).collect(),
            loops: loops.to_vec(),
            incomplete: None,
        });
        record.title()
    };
    let (ruby, extension) = ("/usr/lib/libruby.so", "/usr/lib/oj.so");
    let frames =
        [(extension, "hash_key"), (ruby, "vm_call"), (ruby, "vm_exec"), (extension, "parse"), (ruby, "vm_exec")];
    assert_eq!(
        interpreted(&frames, &[2, 4], &["Cache#fetch", "main"]),
        "SIGSEGV in hash_key <- Cache#fetch (app.rb:7)"
    );
    assert_eq!(interpreted(&frames, &[2, 4], &[]), "SIGSEGV in hash_key", "what it executes is not known");
    assert_eq!(interpreted(&frames, &[], &["run"]), "SIGSEGV in hash_key <- vm_call <- run (app.rb:7)");
    let called = [(extension, "write"), ("/usr/lib/libffi.so.8.1.2", ""), (extension, "glue"), (ruby, "vm_exec")];
    assert_eq!(interpreted(&called, &[3], &["run"]), "SIGSEGV in write <- glue <- run (app.rb:7)");
    // The interpreter's own bugs.
    let aborts =
        [("/usr/lib/libc.so.6", "raise"), ("/usr/lib/libc.so.6", "free"), (ruby, "obj_free"), (ruby, "vm_exec")];
    assert_eq!(interpreted(&aborts, &[3], &["run"]), "SIGSEGV in obj_free <- run (app.rb:7)");
    let copies = [("/usr/lib/libc.so.6", "memcpy"), (ruby, "vm_exec")];
    assert_eq!(interpreted(&copies, &[1], &["run"]), "SIGSEGV in vm_exec <- run (app.rb:7)");
    assert_eq!(interpreted(&frames[1..3], &[1], &["run"]), "SIGSEGV in vm_call <- run (app.rb:7)");
    assert_eq!(interpreted(&frames[2..3], &[0], &["run"]), "SIGSEGV in vm_exec <- run (app.rb:7)");
    assert_eq!(interpreted(&[], &[], &["ru\x1bn"]), r"SIGSEGV in ru\u{1b}n (app.rb:7)");
}

#[test]
fn where_all_is_plumbing_the_first_frame_is_named_and_without_a_stack_the_program() {
    assert_eq!(
        title(&[("/usr/lib/libc.so.6", ""), ("/usr/lib/ld-linux-x86-64.so.2", "")]),
        "SIGSEGV in libc.so.6+0x118b"
    );
    assert_eq!(title(&[("/usr/lib/libc.so.6", "pthread_kill"), ("/srv/app", "_start")]), "SIGSEGV in pthread_kill");
    assert_eq!(title(&[]), "SIGSEGV in /usr/bin/segv");
    let mut jump = record(1);
    jump.stack = vec![Frame { module: None, ..frame(0, "") }];
    let mut compiled = jump.clone();
    compiled.stack[0].compiler = Some("Lua\u{1b}JIT".to_owned());
    compiled
        .stack
        .push(Frame { symbol: Some(Symbol::new(b"JS:*store /srv/a.js:3:1", 0)), ..compiled.stack[0].clone() });
    assert_eq!(compiled.title(), "SIGSEGV in code compiled by Lua\\u{1b}JIT <- JS:*store /srv/a.js:3:1");
    assert_eq!(jump.title(), "SIGSEGV in /usr/bin/segv");
    jump.signal = None;
    jump.signal_name = "unknown".to_owned();
    assert_eq!(jump.title(), "SIGunknown in /usr/bin/segv".replace("SIG", "signal "));
}

#[test]
fn a_crash_whose_handler_ended_it_is_titled_by_what_was_interrupted() {
    let mut handled = record(1);
    (handled.signal, handled.signal_name) = (Some(6), "ABRT".to_owned());
    handled.modules = vec![module("/srv/app")];
    handled.stack = vec![frame(0, "read_other"), frame(0, "worker")];
    handled.failure = Some(Failure {
        tid: 1,
        thread_name: String::new(),
        dumped: 1,
        signal: 11,
        signal_name: "SEGV".to_owned(),
        code: None,
        address: None,
        threads: 1,
        handler: vec![frame(0, "crash_report"), frame(0, "abort")],
    });
    assert_eq!(handled.title(), "SIGSEGV in read_other <- worker");
}

#[test]
fn every_entry_of_the_list_is_skipped() {
    for group in GROUPS {
        assert!(!group.source.is_empty() && !group.names.is_empty(), "{}", group.of);
        let file = group.files.first().copied().unwrap_or("app");
        for name in group.names {
            let function = name.replace('*', "");
            for function in [function.clone(), format!("{function}{}", if name.ends_with('*') { "more" } else { "" })] {
                let shown =
                    title(&[(&format!("/srv/{file}"), &function), ("/srv/app", "the_bug"), ("/srv/app", "main")]);
                assert_eq!(shown, "SIGSEGV in the_bug <- main", "{name} of {}", group.of);
            }
            if !name.ends_with('*') && !name.starts_with("operator") {
                let longer = format!("{function}_of_mine");
                assert!(
                    of(&[&longer, "the_bug"]).contains(&longer) || is_plumbing(&longer, "app"),
                    "{name} of {}",
                    group.of
                );
            }
        }
    }
}

#[test]
fn no_entry_stands_in_the_list_twice() {
    let mut names: Vec<&str> = GROUPS.iter().flat_map(|group| group.names).copied().collect();
    names.sort_unstable();
    let twice: Vec<&str> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert_eq!(twice, [""; 0]);
}

#[test]
fn names_of_an_interpreter_count_in_its_own_files_only() {
    assert_eq!(of(&["die", "git_main"]), "SIGSEGV in die <- git_main");
    assert_eq!(
        title(&[("/usr/lib/libruby-3.1.so.3.1.2", "die"), ("/usr/lib/oj.so", "hash_key")]),
        "SIGSEGV in hash_key"
    );
    assert_eq!(of(&["fatal_error", "parse"]), "SIGSEGV in fatal_error <- parse");
    assert_eq!(title(&[("/usr/bin/python3.13", "fatal_error"), ("/srv/x.so", "parse")]), "SIGSEGV in parse");
}

#[test]
fn mangled_names_are_shown_as_their_authors_wrote_them() {
    for (mangled, shown) in [
        ("_ZN3app3runE", "app::run"),
        ("_ZN3app3run17h0123456789abcdefE", "app::run"),
        ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ("_ZN4node5Cache3getERKSs", "node::Cache::get"),
        ("_ZNSt6vectorIiSaIiEE2atEm", "std::vector::at"),
        ("_ZlsRSoRK5Point", "operator<<"),
        ("_ZN5PointltERKS_", "Point::operator<"),
        ("_ZN3PtrIiEptEv", "Ptr::operator->"),
        ("_ZN12_GLOBAL__N_14lockEv", "(anonymous namespace)::lock"),
        ("_ZN5Cache3getEi.cold", "Cache::get"),
        ("parse.isra.0", "parse"),
        ("parse.constprop.0.cold", "parse"),
        ("pthread_getname_np@@GLIBC_2.34", "pthread_getname_np"),
        ("main.(*Server).Handle", "main.(*Server).Handle"),
        ("main.handle.func1", "main.handle.func1"),
        ("main.crash.abi0", "main.crash"),
        ("main.coldStart", "main.coldStart"),
        ("app.part.Load", "app.part.Load"),
        ("_ZN", "_ZN"),
    ] {
        assert_eq!(of(&[mangled, "below"]), format!("SIGSEGV in {shown} <- below"), "{mangled}");
    }
}

#[test]
fn generic_arguments_are_left_out() {
    for (name, shown) in [
        ("app::store::<alloc::string::String>", "app::store"),
        ("core::ptr::drop_in_place<alloc::vec::Vec<u8>>", "core::ptr::drop_in_place"),
        ("<alloc::vec::Vec<T> as core::ops::Index<I>>::index", "<alloc::vec::Vec as core::ops::Index>::index"),
        ("core::slice::<impl [T]>::sort", "core::slice::<impl [T]>::sort"),
        ("<fn() -> i32 as app::Call<u8>>::call", "<fn() -> i32 as app::Call>::call"),
        ("app::Map<K, fn(u8) -> u8>::get", "app::Map::get"),
        ("app::main::{{closure}}", "app::main::{{closure}}"),
        ("std::map<int, std::string>::operator[]", "std::map::operator[]"),
        ("a<b", "a"),
        ("a>b", "a>b"),
    ] {
        assert_eq!(without_generics(name), shown, "{name}");
    }
}

#[test]
fn a_long_name_is_cut_at_its_beginning() {
    let shown = of(&[&format!("{}::method", "x".repeat(200)), "below"]);
    assert!(shown.starts_with("SIGSEGV in …xxx") && shown.ends_with("x::method <- below"), "{shown}");
    assert_eq!(shown.chars().count(), "SIGSEGV in … <- below".len() - 2 + MAX_NAME);
}

#[test]
fn a_short_name_that_stands_for_a_long_one_stays_mangled() {
    // Each part has the one before it twice.
    let bomb = format!("_Z1fI1a{}EvT_", "S_IS0_S0_E".repeat(20));
    assert!(of(&[&bomb]).len() < 300);
}

proptest! {
    #[test]
    fn any_name_makes_a_line(names in prop::collection::vec("(_ZN?|_R|)[ -~\u{1}\u{e9}]{0,60}|_Z[A-Za-z0-9_]{1,60}", 0..4)) {
        let frames: Vec<(&str, &str)> = names.iter().map(|name| ("/srv/app", name.as_str())).collect();
        let shown = title(&frames);
        prop_assert!(shown.lines().count() == 1 && shown.len() < 3000);
        let has_control = shown.chars().any(char::is_control);
        prop_assert!(!has_control);
    }
}
