//! Scrapers that are slow, stuck or hostile: they get an answer or lose their connection, and no crash waits for them.

use crate::testbed::{Daemon, RunToEnd, TestBed, program};
use flate2::read::GzDecoder;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(daemon.metrics_address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Head and body of the answer to a request.
fn answer(daemon: &Daemon, request: &str) -> (String, Vec<u8>) {
    let mut stream = connect(daemon);
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = bytes.split_off(end);
    (String::from_utf8(bytes).unwrap().to_lowercase(), body)
}

#[test]
fn the_page_compression_and_head() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    let request = |method: &str, path: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n")
    };

    let (head, plain) = answer(&daemon, &request("GET", "/metrics", ""));
    assert!(head.contains("content-type: text/plain; version=0.0.4") && !head.contains("content-encoding"), "{head}");
    let (head, compressed) = answer(&daemon, &request("GET", "/metrics", "Accept-Encoding: gzip\r\n"));
    assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{head}");
    assert!(compressed.len() * 3 < plain.len());
    let mut text = String::new();
    GzDecoder::new(&*compressed).read_to_string(&mut text).unwrap();
    assert!(text.contains("\ncoreward_crashes_total{core=\"stored\",origin=\"live\",reason=\"\"} 1\n"), "{text}");

    for (path, kind) in [("/metrics", "text/plain; version=0.0.4"), ("/", "text/html")] {
        let (head, body) = answer(&daemon, &request("HEAD", path, ""));
        assert!(head.starts_with("http/1.1 200") && head.contains(kind) && head.contains("content-length: "), "{head}");
        assert_eq!(body, b"");
    }
    let (head, page) = answer(&daemon, &request("GET", "/", ""));
    let page = String::from_utf8(page).unwrap();
    assert!(head.starts_with("http/1.1 200") && page.contains("<a href=\"/metrics\">"), "{head}{page}");
    assert!(page.contains(env!("CARGO_PKG_VERSION")) && !page.contains("segv"), "nothing about crashes: {page}");

    let (head, _) = answer(&daemon, &request("GET", "/metric", ""));
    assert!(head.starts_with("http/1.1 404"), "{head}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let (head, _) = answer(&daemon, &request(method, "/metrics", "Content-Length: 0\r\n"));
        assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head"), "{head}");
    }
    for headers in [format!("X: {}\r\n", "x".repeat(20_000)), "X: x\r\n".repeat(500)] {
        let (head, _) =
            answer(&daemon, &format!("GET /metrics HTTP/1.1\r\nHost: h\r\n{headers}Connection: close\r\n\r\n"));
        assert!(head.starts_with("http/1.1 431"), "{head}");
    }
}

#[test]
fn a_request_that_does_not_come_and_an_answer_that_nobody_reads_end() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let begun = Instant::now();
    let silent: Vec<TcpStream> = ["", "GET /met", "GET /metrics HTTP/1.1\r\nHost: x\r\n"]
        .iter()
        .map(|beginning| {
            let mut stream = connect(&daemon);
            stream.write_all(beginning.as_bytes()).unwrap();
            stream
        })
        .collect();
    // More answers than the kernel's buffers have room for.
    let mut stuck = connect(&daemon);
    stuck.set_nonblocking(true).unwrap();
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let mut sent = 0;
    let mut ended = None;
    while begun.elapsed() < Duration::from_secs(40) && ended.is_none() {
        match stuck.write(&pipelined.as_bytes()[sent % pipelined.len()..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(_) => ended = Some(begun.elapsed()),
        }
    }
    let ended = ended.expect("a connection whose answers nobody reads is closed");
    println!("closed after {ended:?}");
    assert!(ended > Duration::from_secs(9) && ended < Duration::from_secs(25), "{ended:?}");
    for mut stream in silent {
        let mut rest = Vec::new();
        // The end of the connection, or what says that the request was late.
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("coreward_"), "half a request was answered");
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(daemon.scrape().contains("coreward_build_info"));
}

/// What a hostile scraper does until the flag is set.
type Flood<'a> = dyn Fn(&AtomicBool) + Sync + 'a;

/// The seconds that a crash of the program takes, at most, while `attack` goes on, and that a scrape does.
fn worst_during(daemon: &Daemon, attack: &Flood<'_>) -> (f64, f64) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| attack(&over));
        }
        std::thread::sleep(Duration::from_millis(500));
        let (mut crash, mut scrape) = (0.0_f64, 0.0_f64);
        for _ in 0..15 {
            let begun = Instant::now();
            Command::new(program("segv")).run_to_end();
            crash = crash.max(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            let (head, _) = answer(daemon, GET);
            assert!(head.starts_with("http/1.1 200"), "{head}");
            scrape = scrape.max(begun.elapsed().as_secs_f64());
        }
        over.store(true, Ordering::SeqCst);
        (crash, scrape)
    })
}

#[test]
fn no_crash_waits_for_hostile_scrapers_and_an_honest_one_is_answered() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let address = daemon.metrics_address();
    let floods: [(&str, &Flood<'_>); 4] = [
        ("a thousand connections that send nothing", &|over| {
            let mut held = std::collections::VecDeque::new();
            while !over.load(Ordering::SeqCst) {
                held.push_back(TcpStream::connect(address));
                if held.len() > 250 {
                    held.pop_front();
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }),
        ("requests as fast as they can be sent", &|over| {
            while !over.load(Ordering::SeqCst) {
                let Ok(mut stream) = TcpStream::connect(address) else { continue };
                let _ = stream.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100).as_bytes());
                let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
                let mut buffer = [0; 65536];
                while !over.load(Ordering::SeqCst) && matches!(stream.read(&mut buffer), Ok(1..)) {}
            }
        }),
        ("answers that are read byte by byte", &|over| {
            let open = || {
                let mut stream = TcpStream::connect(address).ok()?;
                stream.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50).as_bytes()).ok()?;
                Some(stream)
            };
            let mut streams: Vec<Option<TcpStream>> = (0..10).map(|_| open()).collect();
            while !over.load(Ordering::SeqCst) {
                for stream in &mut streams {
                    if !stream.as_mut().is_some_and(|stream| matches!(stream.read(&mut [0; 1]), Ok(1))) {
                        *stream = open();
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }),
        ("garbage and huge headers", &|over| {
            let huge = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
            while !over.load(Ordering::SeqCst) {
                for bytes in [huge.as_bytes(), &[0xff; 4096], b"\r\n\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n"] {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    let _ = stream.write_all(bytes);
                }
            }
        }),
    ];
    let mut crashes = 0;
    for (name, flood) in floods {
        let (crash, scrape) = worst_during(&daemon, flood);
        crashes += 15;
        println!("{name}: a crash took {crash:.3} s at most, an honest scrape {scrape:.3} s");
        assert!(crash < 5.0 && scrape < 5.0, "{name}: {crash} s, {scrape} s");
    }
    bed.wait_for(crashes);
    assert_eq!(daemon.count("coredump_process_count", ""), crashes as u64);
    assert!(daemon.count("coreward_held_seconds_bucket", "le=\"2.5\"") >= crashes as u64, "none was held for long");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    assert!(descriptors < 256, "{descriptors} descriptors are open after the floods");
}

#[test]
fn labels_on_request_are_counted_in_a_metric_of_their_own() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let by_labels = |labels: &str| daemon.count("coreward_crashes_by_total", labels);
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    assert!(!daemon.scrape().contains("coreward_crashes_by_total"), "none without MetricLabels=");

    bed.configure("[Coreward]\nMetricLabels=container signature\n");
    daemon.reload();
    let id = "8d5f0c7a".repeat(8);
    let container = crate::testbed::Cgroup::new(&bed, &format!("system.slice/docker-{id}.scope"));
    container.command(&program("abrt")).run_to_end();
    Command::new(program("segv")).run_to_end();
    let crashes = bed.wait_for(3);
    let signature = crashes[1].record.signature_key();
    assert_eq!(by_labels(&format!("container=\"{id}\"")), 1, "{}", daemon.scrape());
    assert_eq!(by_labels(&format!("signature=\"{signature}\"")), 1);
    assert_eq!(by_labels(""), 2, "the first was before the labels were asked for");
    assert!(!daemon.scrape().contains("unit=\""));

    bed.configure("[Coreward]\nMetricLabels=unit cgroup\n");
    daemon.reload();
    assert_eq!(daemon.metric("coreward_config_problems", ""), 1.0, "cgroup is none");
}
