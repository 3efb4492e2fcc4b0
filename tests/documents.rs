//! What the documents say of the code: lists of names and files, sizes, links. A document that disagrees with the code fails here.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test, as intended")]

use coreward::crash::{Keep, NoCore, Reason, Truncation};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Names = BTreeSet<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below `dir`, relative to the root of the tree.
fn files_below(dir: &str, suffix: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![root().join(dir)];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else if entry.file_name().to_str().unwrap().ends_with(suffix) {
                files.push(entry.path().strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    files
}

/// The text of a section: from behind its heading to the next heading of the same level or a higher one.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let level = heading.bytes().take_while(|byte| *byte == b'#').count();
    let (_, rest) = document.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no heading \"{heading}\""));
    let is_end = |line: &str| (1..=level).any(|level| line.starts_with(&format!("{} ", "#".repeat(level))));
    let end: usize = rest.split_inclusive('\n').take_while(|line| !is_end(line)).map(str::len).sum();
    &rest[..end]
}

/// The cells of the rows of all tables in a text, without the headings.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_heading = |at: usize| lines.get(at + 1).is_some_and(|next: &&str| next.starts_with("|---"));
    let rows = (0..lines.len())
        .filter(|at| lines[*at].starts_with('|') && !lines[*at].starts_with("|---") && !is_heading(*at));
    rows.map(|at| lines[at].trim_matches('|').split('|').map(str::trim).collect()).collect::<Vec<_>>().into_iter()
}

/// What stands between backticks in a text, outside of code blocks.
fn backticked(text: &str) -> Vec<&str> {
    let mut in_code_block = false;
    let prose = text.lines().filter(|line| {
        in_code_block ^= line.starts_with("```");
        !in_code_block
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn dependencies_md_has_one_sentence_for_each_crate_that_a_manifest_names() {
    let document = read("docs/dependencies.md");
    let mut manifests = vec![("coreward".to_owned(), "Cargo.toml".to_owned())];
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        manifests.push((name.clone(), format!("crates/{name}/Cargo.toml")));
    }
    for (name, manifest) in manifests {
        let described: Names = rows(section(&document, &format!("## {name}"))).map(|row| row[0].to_owned()).collect();
        assert_eq!(described, dependencies(&read(&manifest)), "docs/dependencies.md (left) and {manifest} (right)");
    }
}

/// The dependencies in a manifest; those of tests end in " (tests)".
fn dependencies(manifest: &str) -> Names {
    let mut names = Names::new();
    let mut suffix = None;
    for line in manifest.lines() {
        if let Some(heading) = line.strip_prefix('[') {
            suffix = match heading.trim_end_matches(']') {
                "dev-dependencies" => Some(" (tests)"),
                "workspace.dependencies" => None,
                heading => heading.ends_with("dependencies").then_some(""),
            };
        } else if let (Some(suffix), Some((name, _))) = (suffix, line.split_once(['.', ' ', '=']))
            && !name.is_empty()
            && !name.starts_with('#')
        {
            names.insert(format!("{name}{suffix}"));
        }
    }
    names
}

#[test]
fn contributing_md_lists_the_scenarios_of_the_kernel_tests() {
    let document = read("CONTRIBUTING.md");
    let scenarios = rows(section(&document, "### On the kernel"));
    let described: Names = scenarios.map(|row| row[0].trim_matches('`').to_owned()).collect();
    let files = fs::read_dir(root().join("tests/kernel")).unwrap();
    let names = files.filter_map(|file| Some(file.unwrap().file_name().to_str()?.strip_suffix(".rs")?.to_owned()));
    assert_eq!(
        described,
        names.filter(|name| name != "main").collect(),
        "CONTRIBUTING.md (left) and tests/kernel (right)"
    );
}

/// All variants of an enum. Does not compile where one is missing.
macro_rules! all {
    ($enum:ident: $($variant:ident)*) => {{
        let _ = |value: $enum| match value { $($enum::$variant => {})* };
        [$($enum::$variant),*]
    }};
}

#[test]
fn the_manual_describes_every_state_and_every_reason() {
    let no_core = all!(NoCore: Storm Rate Configured Limit Empty NotElf Quota DiskFull WriteError Stalled Gone);
    let truncation = all!(Truncation: EndedEarly Stalled ProcessSizeMax ExternalSizeMax CoreLimit Quota DiskFull MaxHold
        Stacks Resumed Spool);
    let reason = all!(Reason: Unlimited First NewWindow Burst Variant StacksBurst Storm UnitRate UserRate TotalRate Configured Limit
        Gone Requested);
    let keep = all!(Keep: Record Stacks Full);
    // What `coreward list` calls the states.
    let states = ["stored", "stacks", "truncated", "none:", "evicted", "removed", "missing"].map(str::to_owned);
    let terms = terms_of_manual();
    let names = |names: &[&'static str]| names.iter().map(|name| (*name).to_owned()).collect::<Names>();
    assert_eq!(terms["States of a core"], Names::from(states));
    assert_eq!(terms["Why no core was stored"], names(&no_core.map(NoCore::name)));
    assert_eq!(terms["Why a core is truncated"], names(&truncation.map(Truncation::name)));
    assert_eq!(terms["What was decided"], names(&reason.map(Reason::name)));
    let manual = read("man/coreward.1.tail");
    for name in keep.map(Keep::name) {
        assert!(manual.contains(&format!("\n.B {name}\n")), "man/coreward.1.tail does not describe {name}");
    }
}

/// The terms of the lists in coreward(1), by subsection.
fn terms_of_manual() -> BTreeMap<String, Names> {
    let mut terms: BTreeMap<String, Names> = BTreeMap::new();
    let mut subsection = String::new();
    let mut is_term = false;
    for line in read("man/coreward.1.tail").replace(r"\-", "-").lines() {
        if let Some(heading) = line.strip_prefix(".SS ").or_else(|| line.strip_prefix(".SH ")) {
            subsection = heading.trim_matches('"').to_owned();
        } else if is_term && let Some((_, term)) = line.split_once(' ') {
            let first = term.split(' ').next().unwrap();
            terms.entry(subsection.clone()).or_default().insert(first.to_owned());
        }
        is_term = line == ".TP";
    }
    terms
}

#[test]
fn documents_that_are_read_first_stay_short() {
    for (document, most) in [("ARCHITECTURE.md", 150), ("README.md", 160)] {
        let lines = read(document).lines().count();
        assert!(lines <= most, "{document} has {lines} lines, at most {most} were meant: what can move to docs/?");
    }
}

fn documents() -> Vec<PathBuf> {
    let mut documents = files_below("docs", ".md");
    let top = fs::read_dir(root()).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name()));
    documents.extend(top.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    documents
}

#[test]
fn the_first_alert_of_the_readme_is_the_one_that_fires_in_the_virtual_machine() {
    let readme = read("README.md");
    // Not a section: a comment in its code looks like a heading.
    let (_, alert) = readme.split_once("\n## A first alert\n").expect("the heading");
    let expression = alert.lines().find(|line| line.starts_with("coredump_process_count{")).expect("an expression");
    let part = read("tests/system/package.d/40-prometheus.sh");
    assert!(part.contains(&format!("      - alert: FirstAlert\n        expr: {expression}\n")), "{expression}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let is_there = root().join(&target).exists();
            if !is_there || !(anchor.is_empty() || anchors(&read(&target)).contains(anchor)) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links to nothing: {broken:#?}");
}

/// The anchors of the headings of a document, as they are commonly made.
fn anchors(text: &str) -> Names {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

#[test]
fn paths_that_documents_name_exist() {
    const TOP: [&str; 11] = [
        "src/",
        "crates/",
        "systemd/",
        "debian/",
        "monitoring/",
        "docs/",
        "tests/",
        "fuzz/",
        "man/",
        "scripts/",
        ".ci/",
    ];
    let mut missing = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = read(document);
        let paths = backticked(&text)
            .into_iter()
            .filter(|path| TOP.iter().any(|top| path.starts_with(top)) && !path.contains([' ', '*']));
        missing.extend(paths.filter(|path| !root().join(path).exists()).map(|path| format!("{document}: {path}")));
    }
    assert!(missing.is_empty(), "documents name paths that do not exist: {missing:#?}");
}

#[test]
fn modules_use_only_the_modules_that_the_table_allows() {
    let document = read("ARCHITECTURE.md");
    let table = section(&document, "## Crates and modules");
    let modules: Vec<(String, &str)> = rows(table)
        .filter_map(|row| Some((row[0].trim_matches('`').to_owned(), *row.get(2)?)))
        .filter(|(module, _)| !module.contains(['/', ' ']))
        .collect();
    let names: Names = modules.iter().map(|(module, _)| module.clone()).collect();
    let dirs = fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap());
    let dirs = dirs.filter(|entry| entry.file_type().unwrap().is_dir() && entry.file_name() != "bin");
    assert_eq!(
        names,
        dirs.map(|dir| dir.file_name().into_string().unwrap()).collect(),
        "modules (left) and src/ (right)"
    );
    let others: Names =
        names.iter().cloned().chain(["coreward-shim", "coreward-sys", "coreward-wire"].map(str::to_owned)).collect();
    let mut violations = Vec::new();
    for (module, uses) in modules {
        let listed: Names = backticked(uses).into_iter().map(str::to_owned).collect();
        let allowed = if uses.starts_with("all but") { others.difference(&listed).cloned().collect() } else { listed };
        for file in files_below(&format!("src/{module}"), ".rs") {
            let text = read(&file);
            for other in others.difference(&allowed).filter(|other| **other != module) {
                if mentions(&text, other) {
                    violations.push(format!("{} uses {other}", file.display()));
                }
            }
        }
    }
    assert!(violations.is_empty(), "ARCHITECTURE.md does not allow: {violations:#?}");
}

/// Whether code (not a comment) names a module or a crate of the workspace.
fn mentions(text: &str, other: &str) -> bool {
    let path = match other.strip_prefix("coreward-") {
        Some(name) => format!("coreward_{name}::"),
        None => format!("crate::{other}"),
    };
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.into_iter().any(|line| {
        line.match_indices(&path).any(|(at, found)| {
            let after = line[at + found.len()..].chars().next();
            found.ends_with(':') || !after.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
        })
    })
}

/// Files of one module that import each other, directly or through others, cannot be read one after the other.
#[test]
fn the_files_of_a_module_import_each_other_without_a_circle() {
    let modules =
        fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut circles = Vec::new();
    for module in modules.filter(|name| name != "bin" && root().join("src").join(name).is_dir()) {
        let files: BTreeMap<String, PathBuf> = files_below(&format!("src/{module}"), ".rs")
            .into_iter()
            .map(|file| (path_of_module(&file), file))
            .collect();
        let imports: BTreeMap<&String, Names> =
            files.iter().map(|(name, file)| (name, imports_of(name, &read(file), &files))).collect();
        circles.extend(files.keys().filter(|name| reaches(name, name, &imports)).cloned());
    }
    assert!(circles.is_empty(), "these files are part of a circle of imports: {circles:#?}");
}

/// `a::b` for `src/a/b.rs` and for `src/a/b/mod.rs`.
fn path_of_module(file: &Path) -> String {
    let path = file.with_extension("");
    let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap()).filter(|name| *name != "mod").collect();
    names[1..].join("::")
}

/// The files that a file imports by `use`. A file above it only declares it, and its tests below belong to it.
fn imports_of(name: &str, text: &str, files: &BTreeMap<String, PathBuf>) -> Names {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let statements = code.split("\nuse ").skip(1).chain(code.split("\npub use ").skip(1));
    let mut imports = Names::new();
    for statement in statements.map(|statement| statement.split(';').next().unwrap()) {
        let Some((first, rest)) = statement.split_once("::") else { continue };
        let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent);
        let base = match first {
            "super" => parent,
            "crate" => "",
            "self" => name,
            _ => continue,
        };
        for path in expand(rest) {
            let path = if base.is_empty() { path } else { format!("{base}::{path}") };
            // The longest beginning of the path that is a file.
            let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]);
            imports
                .extend(ends.filter_map(|end| files.get_key_value(&path[..end])).last().map(|(file, _)| file.clone()));
        }
    }
    imports.retain(|other| !name.starts_with(other.as_str()) && !other.starts_with(name));
    imports
}

/// The paths that `a::{b, c::d}` stands for.
fn expand(paths: &str) -> Vec<String> {
    let Some((before, braces)) = paths.split_once('{') else { return vec![paths.trim().to_owned()] };
    let inside = braces.rsplit_once('}').unwrap().0;
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in inside.chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if letter == ',' && depth == 0 { parts.push(String::new()) } else { parts.last_mut().unwrap().push(letter) }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|path| format!("{before}{path}")).collect()
}

fn reaches(from: &str, to: &str, imports: &BTreeMap<&String, Names>) -> bool {
    let mut pending: Vec<&str> = imports[&from.to_owned()].iter().map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    while let Some(next) = pending.pop() {
        if next == to {
            return true;
        }
        if seen.insert(next) {
            pending.extend(imports[&next.to_owned()].iter().map(String::as_str));
        }
    }
    false
}

#[test]
fn the_threads_of_the_daemon_fit_into_the_unit() {
    let number = |text: &str, before: &str| -> u64 {
        let at = text.find(before).unwrap_or_else(|| panic!("no {before}")) + before.len();
        text[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let tasks = number(&read("systemd/coreward.service"), "TasksMax=");
    let blocking = number(&read("src/daemon/program.rs"), "const BLOCKING_THREADS: usize = ");
    let places = number(&read("src/reader/places.rs"), "const PLACES: usize = ");
    let hanging = number(&read("src/reader/places.rs"), "const HANGING: usize = ");
    let idle = number(&read("src/reader/pool.rs"), "const IDLE: usize = ");
    let large = number(&read("src/capture/large_core_limiter.rs"), "const AT_ONCE: usize = ");
    let compressors = number(&read("src/config/keys.rs"), "pub const THREADS_MAX: usize = ") + 1;
    let copiers = number(&read("src/daemon/shared.rs"), "const COPY_BUFFERS: usize = ");
    // Workers of the runtime, log, catalog, deletions, watchdog.
    let others = 16;
    // Of the captures: in the daemon, and as many in their readers.
    let workers = large * (compressors + copiers) + (places - large) * copiers;
    let readers = places + idle + hanging + 1;
    let threads = blocking + 2 * workers + compressors + readers + others;
    assert!(threads <= tasks, "{threads} threads at most, TasksMax={tasks}");
}

#[test]
fn every_decision_has_a_line_in_the_list_and_a_number_of_its_own() {
    let list = read("docs/decisions/README.md");
    let mut files: Vec<String> =
        files_below("docs/decisions", ".md").iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    files.retain(|file| !file.ends_with("/README.md"));
    files.sort();
    for (number, file) in (1..).zip(files) {
        let name = file.strip_prefix("docs/decisions/").unwrap();
        assert!(name.starts_with(&format!("{number:04}-")), "{file}: the next number is {number:04}");
        let line = list
            .lines()
            .find(|line| line.contains(&format!("]({name})")))
            .unwrap_or_else(|| panic!("no line for {file}"));
        assert!(line.starts_with(&format!("{number}. ")), "{line}");
        let text = read(&file);
        assert!(
            text.starts_with(&format!("# {number:04}: ")) && text.contains("\n## Decision\n"),
            "{file}: its headings"
        );
    }
}

#[test]
fn security_md_says_how_much_runs_as_root() {
    let document = read("SECURITY.md");
    for name in ["coreward-shim", "coreward-wire", "coreward-sys"] {
        let (_, after) = document.split_once(&format!("`crates/{name}` about ")).expect("a size");
        let said: usize = after.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap();
        let sources = files_below(&format!("crates/{name}/src"), ".rs");
        let sources = sources.iter().filter(|path| !path.ends_with("tests.rs"));
        let lines = |path: &PathBuf| read(path).lines().take_while(|line| *line != "#[cfg(test)]").count();
        let are: usize = sources.map(lines).sum();
        assert!(said.abs_diff(are) * 10 <= are, "SECURITY.md: crates/{name} has {are} lines, not about {said}");
    }
}

/// With systemd's own judgement, where it is of a version that the document has a column for.
#[test]
fn security_md_explains_the_exposure_of_the_units() {
    let document = read("SECURITY.md");
    let sandboxing = section(&document, "## Sandboxing");
    let heading = sandboxing.lines().find(|line| line.starts_with("| unit | systemd ")).unwrap();
    let Some(version) = systemd_analyze(&["--version"]) else {
        println!("SKIPPED: there is no systemd-analyze to compare SECURITY.md with");
        return;
    };
    let systemd: String = version.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let Some(column) = heading.trim_matches('|').split('|').position(|cell| cell.trim() == systemd) else {
        println!("SKIPPED: SECURITY.md has no column for {systemd}");
        return;
    };
    for file in files_below("systemd", ".service") {
        let unit = file.file_name().unwrap().to_str().unwrap();
        let name = format!("`{unit}`");
        let row = rows(sandboxing).find(|row| row[0] == name).unwrap_or_else(|| panic!("no exposure of {name}"));
        let path = root().join(&file);
        let judge = |format: &str| {
            systemd_analyze(&["security", "--offline=yes", "--no-pager", format, path.to_str().unwrap()]).unwrap()
        };
        let text = judge("--json=off");
        // A template is judged as an instance of it.
        let judged = unit.replace("@.", "@i.");
        let (_, exposure) = text.split_once(&format!("exposure level for {judged}: ")).unwrap();
        assert_eq!(
            row[column],
            exposure.split(' ').next().unwrap(),
            "{unit}: SECURITY.md (left) and {systemd} (right)"
        );

        let (_, left) = sandboxing.split_once(&format!("What is left of {name}, ")).unwrap();
        let table = left.lines().skip(2).take_while(|line| line.starts_with('|')).collect::<Vec<_>>().join("\n");
        let explained: Names =
            rows(&table).map(|row| format!("{} {}", setting(row[0].trim_matches('`')), row[1])).collect();
        let judged: serde_json::Value = serde_json::from_str(&judge("--json=short")).unwrap();
        let found: Names = judged
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| Some(format!("{} {}", setting(one["name"].as_str()?), one["exposure"].as_str()?)))
            .collect();
        assert_eq!(explained, found, "{unit}: SECURITY.md (left) and {systemd} (right)");
    }
}

/// The key of a setting.
fn setting(name: &str) -> &str {
    name.split(['=', '/']).next().unwrap()
}

/// The output of systemd-analyze(1); `None` if it is not installed.
fn systemd_analyze(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("systemd-analyze").args(arguments).output().ok()?;
    assert!(output.status.success(), "systemd-analyze {arguments:?}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}
