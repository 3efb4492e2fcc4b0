//! The page of `coreward report` as a browser shows it: 5,000 crashes of 60 bugs, with hostile names, at the width of a telephone and of a
//! desk. Needs Chromium.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use coreward::crash::{CrashId, CrashKey, Frame, FrameTrust, Level, Module, Record, Signature, Symbol};
use coreward::store::{Catalog, Layout, Ledger};
use coreward_wire::paths::Root;
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const CRASHES: u64 = 5000;
const BUGS: u64 = 60;
const HOSTILE: &str = "/opt/<script>document.title='bad'</script>/\"x' onload='y\u{202e}";

/// A week of crashes: bugs of which some are frequent and most are rare, on some hosts, in units and containers.
fn records() -> Vec<Record> {
    let examples: Vec<Record> = serde_json::from_str(include_str!("output/records.json")).unwrap();
    let now = u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    let week = 7 * 24 * 3_600_000_000;
    (0..CRASHES)
        .map(|number| {
            // A few bugs have most of the crashes.
            let bug = if number < BUGS { number } else { (number * number + number / 3) % BUGS * (number % 7 + 1) / 7 };
            let mut record = examples[usize::try_from(bug).unwrap() % examples.len()].clone();
            let pid = Pid::from_raw(i32::try_from(number + 300).unwrap());
            record.key = CrashKey { pid, ..record.key };
            record.id = CrashId::parse(&format!("{number:016x}")).unwrap();
            record.time_us = now - week + week / CRASHES * number;
            record.exe = if bug == 7 { HOSTILE.to_owned() } else { format!("/usr/lib/service-{bug}/bin/worker") };
            record.hostname = format!("web-{}", number % 5);
            record.cgroup.unit = Some(format!("service-{bug}.service"));
            record.signature =
                Some(Signature { id: format!("s2-{bug:020x}"), level: Level::Stack, variant: None, previous: None });
            let module = |path: String| Module {
                path,
                build_id: Some(format!("{bug:040x}")),
                package: None,
                owner: None,
                bias: 0x1000,
                start: 0x1000,
                end: 0x9000,
            };
            record.modules = vec![module(record.exe.clone()), module("/usr/lib/libexample.so.1".to_owned())];
            record.stack = (0..12)
                .map(|depth| Frame {
                    address: 0x1000 + depth * 16,
                    module: Some(u32::from(depth % 3 == 1)),
                    offset: bug * 64 + depth * 16,
                    trust: FrameTrust::CallFrameInfo,
                    symbol: (depth % 3 == 1)
                        .then(|| Symbol { name: "_ZN8requests6handleEv".to_owned(), offset: depth }),
                    compiler: None,
                })
                .collect();
            record
        })
        .collect()
}

fn page(dir: &Path) -> PathBuf {
    let root = Root::new(dir.join("root"));
    let layout = Layout::new(&root);
    fs::create_dir_all(&layout.cores).unwrap();
    let ledger = Arc::new(Ledger::new(layout.open_cores().unwrap()));
    let (catalog, failed) = Catalog::start(layout.catalog, ledger, Box::new(|_| {}), Box::new(|| {})).unwrap();
    assert_eq!(failed, None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async {
        let mut inserts = tokio::task::JoinSet::new();
        for record in records() {
            let catalog = catalog.clone();
            inserts.spawn(async move { catalog.insert(Arc::new(record)).await.map(drop) });
        }
        inserts.join_all().await.into_iter().for_each(|inserted| inserted.unwrap());
    });
    let page = dir.join("report.html");
    let begun = SystemTime::now();
    let status = Command::new(env!("CARGO_BIN_EXE_coreward"))
        .args(["--root", root.path().to_str().unwrap(), "report", "-o", page.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(status.success());
    println!("coreward report: {:?}", begun.elapsed().unwrap());
    page
}

/// Measures the page in frames of two widths, and writes what it found into the title of this document, whose load event waits for
/// the frames.
const MEASURE: &str = r#"<!doctype html><meta charset="utf-8"><title>waiting</title><body><script>
const found = [], begun = performance.now();
for (const width of [390, 1280]) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const page = frame.contentDocument;
    found.push({
      width, needs: page.documentElement.scrollWidth, laid_out_ms: performance.now() - begun, title: page.title,
      bugs: page.querySelectorAll("section.bug").length, scripts: page.querySelectorAll("script").length,
      handlers: [...page.querySelectorAll("*")].filter(one => [...one.attributes].some(name => name.name.startsWith("on"))).length,
      outside: page.querySelectorAll("img,link,iframe,object,[src],a[href^=http]").length,
      hostile: page.body.textContent.includes("<script>document.title='bad'</" + "script>"),
    });
    document.title = JSON.stringify(found.sort((a, b) => a.width - b.width));
  };
  frame.src = "report.html";
  document.body.append(frame);
}
</script>"#;

#[derive(serde::Deserialize)]
struct Measured {
    width: f64,
    laid_out_ms: f64,
    needs: f64,
    title: String,
    bugs: u64,
    scripts: u64,
    handlers: u64,
    outside: u64,
    hostile: bool,
}

fn measure(dir: &Path) -> Vec<Measured> {
    fs::write(dir.join("measure.html"), MEASURE).unwrap();
    let output = Command::new("timeout")
        .args(["60", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", dir.join("measure.html").display()))
        .output()
        .expect("chromium (apt install chromium)");
    let dom = String::from_utf8_lossy(&output.stdout);
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).unwrap_or_else(|| {
        panic!("no page: {dom}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    serde_json::from_str(title.0).unwrap_or_else(|error| panic!("{error}: {}", title.0))
}

#[test]
fn a_week_of_crashes_is_a_page_that_every_screen_shows_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let page = page(dir.path());
    let bytes = fs::metadata(&page).unwrap().len();
    println!("{bytes} bytes");
    assert!(bytes < 2 << 20, "{bytes}");
    if let Some(copy) = std::env::var_os("COREWARD_KEEP_PAGE") {
        fs::copy(&page, copy).unwrap();
    }
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let found = measure(dir.path());
        assert_eq!(found.iter().map(|one| one.width).collect::<Vec<_>>(), [390.0, 1280.0]);
        for one in &found {
            println!("{} px: loaded and laid out in {:.0} ms", one.width, one.laid_out_ms);
            assert!(one.needs <= one.width, "at {} px it is {} px wide", one.width, one.needs);
            assert!(one.title.starts_with("Crashes on "), "{}", one.title);
            assert_eq!((one.bugs, one.scripts, one.handlers, one.outside), (BUGS, 0, 0, 0));
            assert!(one.hostile, "a hostile name is text");
        }
        best = best.min(found.iter().map(|one| one.laid_out_ms).fold(0.0, f64::max));
        if best < Duration::from_secs(1).as_secs_f64() * 1000.0 {
            return;
        }
    }
    panic!("loaded and laid out in {best} ms at best");
}
