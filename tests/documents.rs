//! The documents say what the code does: dependencies, scenario files, paths, lengths, words that the command prints.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use coreward::crash::{Keep, NoCore, Reason, Truncation};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of the dependencies in a manifest, those of this workspace apart.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = read(manifest);
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.starts_with("[workspace");
        } else if inside && let Some((name, _)) = line.split_once(['=', '.']) {
            let name = name.trim();
            if !name.is_empty() && !name.starts_with('#') && !name.starts_with("coreward") {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_dependency_has_a_reason_and_none_is_listed_that_is_gone() {
    let manifests = [
        "Cargo.toml",
        "crates/coreward-sys/Cargo.toml",
        "crates/coreward-wire/Cargo.toml",
        "crates/coreward-shim/Cargo.toml",
    ];
    let used: BTreeSet<String> = manifests.into_iter().flat_map(dependencies).collect();
    let listed: BTreeSet<String> = read("docs/dependencies.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(" |").next())
        .map(|cell| cell.trim_matches('`').split([' ', '(']).next().unwrap_or_default().trim_matches('`').to_owned())
        .filter(|name| {
            !matches!(name.as_str(), "crate" | "") && !name.starts_with("coreward") && !name.starts_with('-')
        })
        .collect();
    assert!(used.len() > 20, "{used:?}");
    assert_eq!(used, listed);
}

#[test]
fn contributing_lists_every_scenario_file_of_the_kernel_tests() {
    let contributing = read("CONTRIBUTING.md");
    for entry in fs::read_dir(path("tests/kernel")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(scenario) = name.strip_suffix(".rs").filter(|name| *name != "main") else { continue };
        assert!(contributing.contains(scenario), "CONTRIBUTING.md does not mention tests/kernel/{name}");
    }
}

#[test]
fn the_manual_page_explains_every_word_that_a_record_may_have() {
    let page = read("man/coreward.1.tail").replace("\\-", "-");
    let no_core = [
        NoCore::Storm,
        NoCore::Rate,
        NoCore::Configured,
        NoCore::Limit,
        NoCore::Empty,
        NoCore::NotElf,
        NoCore::Quota,
        NoCore::DiskFull,
        NoCore::WriteError,
        NoCore::Stalled,
        NoCore::Gone,
    ];
    let truncations = [
        Truncation::EndedEarly,
        Truncation::Stalled,
        Truncation::ProcessSizeMax,
        Truncation::ExternalSizeMax,
        Truncation::CoreLimit,
        Truncation::Quota,
        Truncation::DiskFull,
        Truncation::MaxHold,
        Truncation::Stacks,
        Truncation::Resumed,
        Truncation::Spool,
    ];
    let keeps = [Keep::Record, Keep::Stacks, Keep::Full];
    let reasons = [Reason::First, Reason::NewWindow, Reason::StacksBurst, Reason::UnitRate, Reason::TotalRate];
    let words = no_core.map(NoCore::name).into_iter().chain(truncations.map(Truncation::name));
    let words = words.chain(keeps.map(Keep::name)).chain(reasons.map(Reason::name));
    let missing: Vec<&str> = words.filter(|word| !page.contains(word)).collect();
    assert!(missing.is_empty(), "coreward(1) does not explain {missing:?}");
}

#[test]
fn the_map_and_the_readme_stay_short() {
    for (name, most) in [("ARCHITECTURE.md", 150), ("README.md", 160)] {
        let lines = read(name).lines().count();
        assert!(lines <= most, "{name} has {lines} lines, at most {most} are allowed: details go to docs/");
    }
}

/// The Markdown files of the tree, the target directory apart.
fn markdown() -> Vec<PathBuf> {
    let dirs = ["", "docs", "docs/decisions"].map(path);
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut links = 0;
    for file in markdown() {
        let text = fs::read_to_string(&file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            links += 1;
            assert!(file.with_file_name(target).exists(), "{}: no file {target}", file.display());
        }
    }
    assert!(links > 30, "{links} links were found");
}

#[test]
fn every_path_in_the_map_exists() {
    let map = read("ARCHITECTURE.md");
    let paths: Vec<&str> = map.split('`').skip(1).step_by(2).filter(|text| is_path(text)).collect();
    assert!(paths.len() > 10, "{paths:?}");
    for name in paths {
        assert!(path(name).exists(), "ARCHITECTURE.md names {name}, which does not exist");
    }
}

fn is_path(text: &str) -> bool {
    ["src/", "crates/", "tests/", "docs/", "systemd/", "scripts/", "fuzz/"].iter().any(|dir| text.starts_with(dir))
        && !text.contains(['*', '{', ' '])
}

#[test]
fn the_reference_of_the_metrics_is_what_the_daemon_exports() {
    // The snapshot is compared with the daemon's own registry by the tests of the output; here nothing may be missing in it.
    let exposition = read("tests/output/snapshots/metrics.snap");
    let reference = read("docs/metrics.md");
    let cells = reference.lines().map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<&str>>());
    let rows: BTreeSet<[String; 3]> = cells
        .filter_map(|cells| match cells.as_slice() {
            [name, kind, _, help] if name.starts_with('`') => {
                Some([name.trim_matches('`'), kind, help].map(str::to_owned))
            }
            _ => None,
        })
        .collect();
    let comments = |word: &str| -> Vec<(String, String)> {
        let lines = exposition.lines().filter_map(|line| line.strip_prefix(word)?.split_once(' '));
        lines.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
    };
    let types = comments("# TYPE ");
    let exported: BTreeSet<[String; 3]> = comments("# HELP ")
        .into_iter()
        .map(|(name, help)| {
            let kind = types.iter().find(|(known, _)| *known == name).unwrap().1.clone();
            [name, kind, help]
        })
        .collect();
    assert_eq!(exported, rows);
    let source = read("src/report/metrics.rs");
    let names = source.split('"').filter(|text| text.starts_with("coreward_") || text.starts_with("coredump_"));
    let names: BTreeSet<&str> =
        names.filter(|text| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')).collect();
    let listed: BTreeSet<&str> = rows.iter().map(|[name, ..]| name.as_str()).collect();
    assert_eq!(names, listed, "every metric of the source is in the snapshot");
}
