//! The report that the runtime of a crashed process wrote itself: HotSpot's `hs_err` file (the option `-XX:ErrorFile=`), or the diagnostic report of
//! Node.js (`--report-on-fatalerror`). The shim opens it while the process waits, and it is read when the process has gone.

use super::blocking::run_blocking;
use super::connection::ConnectionError;
use super::crash_source::CrashSource;
use super::inspect::ask_reader;
use super::naming::with_reader;
use super::process_handles::ProcessHandles;
use super::record_builder::RecordBuilder;
use super::shared::Shared;
use crate::crash::text::{file_name, from_bytes, to_bytes};
use crate::crash::{Module, Record, RuntimeReport};
use crate::reader::{Place, Reader, ReaderScope};
use coreward_wire::{MAX_PATHS, Offer};
use nix::sys::stat::fstat;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long reading options from the environment may take, while the process waits. A local read takes microseconds.
const ENVIRONMENT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long reading the report may take, which nobody waits for but the crash's place in the catalog.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// A runtime that writes reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    HotSpot,
    Node,
}

impl Runtime {
    /// That of the process, by its mapped files.
    fn of(record: &Record) -> Option<Self> {
        let file_names = || record.modules.iter().map(Module::file_name);
        let has = |start: &str| file_names().any(|name| name.starts_with(start));
        if has("libjvm.so") && !has("libj9") {
            return Some(Self::HotSpot);
        }
        let is_node = ["node", "nodejs"].contains(&file_name(record.exe_path())) || has("libnode.so");
        is_node.then_some(Self::Node)
    }

    /// The name in records.
    fn name(self) -> &'static str {
        match self {
            Self::HotSpot => "hotspot",
            Self::Node => "node",
        }
    }

    /// Variables of the environment with options.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::HotSpot => &["_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS"],
            Self::Node => &["NODE_OPTIONS"],
        }
    }

    /// The options of the process, those that overrule others first. `environment` has lines with the variables.
    fn options(self, record: &Record, environment: &str) -> Vec<String> {
        let arguments = || record.arguments.first.iter().chain(&record.arguments.last).rev().cloned().collect();
        let variable = |name: &str| {
            let value = environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.into_iter().flat_map(words).rev().collect()
        };
        let sources: Vec<Vec<String>> = match self {
            Self::HotSpot => vec![
                variable("_JAVA_OPTIONS"),
                arguments(),
                variable("JDK_JAVA_OPTIONS"),
                variable("JAVA_TOOL_OPTIONS"),
            ],
            Self::Node => vec![arguments(), variable("NODE_OPTIONS")],
        };
        sources.concat()
    }

    /// Where the report may be, the most likely path first.
    fn paths(self, record: &Record, environment: &str) -> Vec<Vec<u8>> {
        let pid = record.pid_inside().unwrap_or(record.key.pid).to_string();
        let options = self.options(record, environment);
        let mut paths = match self {
            Self::HotSpot => hotspot_paths(&options, &pid),
            Self::Node => node_paths(&options, &pid),
        };
        paths.truncate(MAX_PATHS);
        paths
    }
}

/// The path that `-XX:ErrorFile=` names, then the working directory, then `/tmp` (`VMError::prepare_log_file`).
fn hotspot_paths(options: &[String], pid: &str) -> Vec<Vec<u8>> {
    let named = options.iter().filter_map(|option| option.strip_prefix("-XX:ErrorFile="));
    let named = named.filter(|path| !path.is_empty()).take(2).map(|path| to_bytes(&expand_pid(path, pid)).into_owned());
    let name = format!("hs_err_pid{pid}.log");
    named.chain([name.clone().into_bytes(), format!("/tmp/{name}").into_bytes()]).collect()
}

/// `%p` is the PID, and `%%` a percent sign (`Arguments::copy_expand_pid`).
fn expand_pid(path: &str, pid: &str) -> String {
    let parts: Vec<String> = path.split("%%").map(|part| part.replace("%p", pid)).collect();
    parts.join("%")
}

/// In the directory and with the name that options give; without, `report.DATE.TIME.PID.THREAD.NUMBER.json` in the working directory.
fn node_paths(options: &[String], pid: &str) -> Vec<Vec<u8>> {
    // The value follows the option, and the options are in reverse order.
    let value = |name: &str| {
        let position = |option: &String| option == name;
        let apart = options.iter().position(position).and_then(|at| options.get(at.checked_sub(1)?));
        apart
            .map(String::as_str)
            .or_else(|| options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('=')))
    };
    let directories = ["--report-directory", "--report-dir", "--diagnostic-dir"].into_iter().filter_map(value);
    let directories: Vec<&str> = directories.filter(|directory| !directory.is_empty()).chain(["."]).collect();
    let name = value("--report-filename").filter(|name| !name.is_empty() && !name.contains('*'));
    let names: Vec<String> =
        name.map(str::to_owned).into_iter().chain([format!("report.*.*.{pid}.*.*.json")]).collect();
    let paths = directories.iter().flat_map(|directory| names.iter().map(move |name| (directory, name)));
    let join = |(directory, name): (&&str, &String)| match *directory {
        "." => name.clone(),
        directory => format!("{}/{name}", directory.trim_end_matches('/')),
    };
    paths.map(join).map(|path| to_bytes(&path).into_owned()).collect()
}

/// The words of a variable with options, without the quotes.
fn words(value: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in value.chars() {
        match (character, quote) {
            (_, Some(open)) if character == open => quote = None,
            ('"' | '\'', None) => quote = Some(character),
            (space, None) if space.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Finds and opens the report, if the process has a runtime that writes any. A process that may have had more rights than its user chose the path with
/// them: then none is looked for.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn open_report(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    offer: &Offer,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
) -> Result<(), ConnectionError> {
    let record = builder.record();
    let Some(runtime) = Runtime::of(record).filter(|_| !record.privileged && offer.opens_written_files) else {
        return Ok(());
    };
    let variables: Vec<String> = runtime.variables().iter().map(|name| (*name).to_owned()).collect();
    let ask = move |reader: &mut Reader| reader.environment(variables, Instant::now() + ENVIRONMENT_TIMEOUT);
    let environment = if handles.memory.has_memory() { ask_reader(shared, handles, ask).await } else { None };
    let paths = runtime.paths(builder.record(), &environment.unwrap_or_default());
    let Some((path, file)) = source.request_written_file(offer, paths).await? else { return Ok(()) };
    let path = from_bytes(&path);
    let path = match builder.record().cwd.as_str() {
        directory if !path.starts_with('/') => format!("{}/{path}", directory.trim_end_matches('/')),
        _ => path,
    };
    let bytes = fstat(&file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0);
    builder.set_runtime_report(RuntimeReport { runtime: runtime.name().to_owned(), path, bytes, kept: 0 });
    handles.runtime_report = Some(file);
    Ok(())
}

/// Reads the beginning of the report. `scope` says which readers may read it, and `place` whether one may. Empty if it cannot be read.
pub(super) async fn read_report(
    shared: &Arc<Shared>,
    scope: Option<ReaderScope>,
    place: Option<Arc<Place>>,
    file: Option<OwnedFd>,
) -> Vec<u8> {
    let Some(((scope, place), file)) = scope.zip(place).zip(file) else { return Vec::new() };
    let shared = Arc::clone(shared);
    let read = run_blocking(move || copy_report(&shared, scope, &place, &file));
    read.await.and_then(|read| read).unwrap_or_else(|error| {
        tracing::warn!("the report of the runtime is not kept: {error}");
        Vec::new()
    })
}

/// Blocks.
fn copy_report(shared: &Shared, scope: ReaderScope, place: &Place, file: &OwnedFd) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let copied =
        with_reader(shared, scope, place, |reader| reader.copy_beginning(file, RuntimeReport::MAX_KEPT, deadline))?;
    let mut copied = copied.ok_or(io::ErrorKind::InvalidData)?;
    let mut report = Vec::new();
    copied.rewind()?;
    copied.take(RuntimeReport::MAX_KEPT).read_to_end(&mut report)?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures;
    use nix::unistd::Pid;

    fn record(exe: &str, modules: &[&str], arguments: &[&str]) -> Record {
        let mut record = fixtures::record(77);
        record.exe = exe.to_owned();
        record.arguments.first = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        record.modules = modules.iter().map(|path| fixtures::module(path)).collect();
        record
    }

    #[track_caller]
    fn assert_paths(record: &Record, environment: &str, expected: &[&str]) {
        let paths = Runtime::of(record).map(|runtime| runtime.paths(record, environment)).unwrap_or_default();
        let paths: Vec<String> = paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect();
        assert_eq!(paths, expected);
    }

    #[test]
    fn hotspots_report_is_where_its_options_say_else_in_its_directory_else_in_tmp() {
        const JVM: &str = "/usr/lib/jvm/lib/server/libjvm.so";
        let default = ["hs_err_pid77.log", "/tmp/hs_err_pid77.log"];
        let plain = record("/usr/bin/java", &[JVM], &["java", "-jar", "app.jar"]);
        assert_paths(&plain, "", &default);
        let mut inside = plain.clone();
        inside.status = "NSpid:\t77\t1\n".to_owned();
        assert_eq!(inside.pid_inside(), Some(Pid::from_raw(1)));
        assert_paths(&inside, "", &["hs_err_pid1.log", "/tmp/hs_err_pid1.log"]);
        let with_option =
            record("/usr/bin/java", &[JVM], &["java", "-XX:ErrorFile=x", "-XX:ErrorFile=/var/log/%p%%p.log"]);
        let expected = ["/var/log/77%p.log", "x", default[0], default[1]];
        assert_paths(&with_option, "JAVA_TOOL_OPTIONS=-Xmx1g -XX:ErrorFile=/no\n", &expected);
        let environment = "JAVA_TOOL_OPTIONS=-Xmx1g '-XX:ErrorFile=/srv/a b.log'\n";
        assert_paths(&plain, environment, &["/srv/a b.log", default[0], default[1]]);
        let environment = "_JAVA_OPTIONS=-XX:ErrorFile=/last\n";
        assert_paths(&with_option, environment, &["/last", "/var/log/77%p.log", default[0], default[1]]);
        assert_paths(&record("/usr/bin/java", &[JVM, "/opt/openj9/libj9vm29.so"], &[]), "", &[]);
        assert_paths(&record("/usr/bin/segv", &["/usr/lib/libc.so.6"], &["java"]), "", &[]);
    }

    #[test]
    fn nodes_report_has_the_pid_in_its_name_unless_an_option_names_it() {
        let default = "report.*.*.77.*.*.json";
        assert_paths(&record("/usr/bin/node (deleted)", &[], &["node", "app.js"]), "", &[default]);
        assert_paths(&record("/opt/app", &["/usr/lib/libnode.so.108"], &["app"]), "", &[default]);
        let arguments = ["node", "--report-directory=/var/log/", "--report-filename", "crash.json", "app.js"];
        let expected = ["/var/log/crash.json".to_owned(), format!("/var/log/{default}"), "crash.json".to_owned()];
        let expected: Vec<&str> = expected.iter().map(String::as_str).chain([default]).collect();
        assert_paths(&record("/usr/bin/nodejs", &[], &arguments), "", &expected);
        let environment = "NODE_OPTIONS=--report-on-fatalerror --diagnostic-dir=\"/var/log/x y\"\n";
        assert_paths(&record("/usr/bin/node", &[], &[]), environment, &[&format!("/var/log/x y/{default}"), default]);
        assert_paths(&record("/usr/bin/nodeenv", &[], &[]), environment, &[]);
    }
}
