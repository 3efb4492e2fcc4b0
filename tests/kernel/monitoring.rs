//! What comes with the package for Prometheus, Alertmanager and Grafana, with the programs themselves and the metrics of a daemon that
//! recorded real crashes.

use crate::testbed::{Cgroup, Daemon, RunToEnd, TestBed, eventually, program};
use serde_json::{Value, json};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring").join(name)
}

/// A server on a port of the loopback interface; stopped when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(bed: &TestBed, program: &str, arguments: &[String]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = fs::File::create(bed.path(&format!("{program}.log"))).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} (scripts/install-deps check): {error}"));
        let server = Self { child, port };
        eventually(Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok() && server.try_get("/-/ready", &[]).is_some()
        });
        server
    }

    /// The answer to a GET with these parameters; `None` if it is an error.
    fn try_get(&self, path: &str, parameters: &[(&str, &str)]) -> Option<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail-with-body", "--max-time", "20", "--get"]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.arg(format!("http://127.0.0.1:{}{path}", self.port)).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let text = self.try_get(path, parameters).unwrap_or_else(|| panic!("{path} {parameters:?} fails"));
        serde_json::from_str(&text).unwrap()
    }

    fn post(&self, path: &str, body: &Value) {
        let status = Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "20", "--header", "Content-Type: application/json", "--data"])
            .arg(body.to_string())
            .arg(format!("http://127.0.0.1:{}{path}", self.port))
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Prometheus that scrapes the daemon every second and evaluates the shipped rules.
fn prometheus(bed: &TestBed, daemon: &Daemon) -> Server {
    let config = bed.path("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [ {} ]\nscrape_configs:\n  - job_name: coreward\n    \
         static_configs: [ targets: [ \"{}\" ] ]\n",
        shipped("coreward.rules.yml").display(),
        daemon.metrics_address()
    );
    fs::write(&config, text).unwrap();
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", bed.path("prometheus").display()),
    ];
    Server::start(bed, "prometheus", &arguments)
}

/// The queries of all panels, with the title of the panel.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(shipped("grafana-dashboard.json")).unwrap()).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((panel["title"].as_str().unwrap().to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    assert!(queries.len() > 30, "{}", queries.len());
    queries
}

/// What Grafana puts in place of its variables.
fn substituted(query: &str) -> String {
    let values =
        [("$__rate_interval", "10s"), ("$__interval", "5s"), ("$__range", "10m"), ("$job", ".*"), ("$instance", ".*")];
    let text = values.iter().fold(query.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!text.contains('$'), "a variable without a value: {text}");
    text
}

/// The queries that fail or find nothing, with the reason. A value that is no number is nothing.
fn unanswered(prometheus: &Server) -> Vec<String> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let mut unanswered = Vec::new();
    for (title, query) in queries() {
        let text = substituted(&query);
        let (start, end) = ((now - 8.0).to_string(), now.to_string());
        let parameters = [("query", text.as_str()), ("start", &start), ("end", &end), ("step", "1")];
        let Some(answer) = prometheus.try_get("/api/v1/query_range", &parameters) else {
            unanswered.push(format!("{title}: {text} fails"));
            continue;
        };
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let series = answer["data"]["result"].as_array().unwrap();
        let values = series.iter().flat_map(|one| one["values"].as_array().unwrap());
        let numbers = values.filter_map(|pair| pair[1].as_str()?.parse::<f64>().ok()).filter(|value| value.is_finite());
        if answer["status"] != "success" || !answer["warnings"].is_null() || numbers.count() == 0 {
            unanswered.push(format!("{title}: {text}: {answer}"));
        }
    }
    unanswered
}

#[test]
fn the_dashboard_shows_something_in_each_panel_and_the_rules_find_the_crash() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nMetricLabels=unit container signature package\n");
    let daemon = bed.daemon();
    let prometheus = prometheus(&bed, &daemon);
    let id = "5ca1ab1e".repeat(8);
    let container = Cgroup::new(&bed, &format!("system.slice/docker-{id}.scope"));
    container.command(&program("abrt")).run_to_end();
    // Stored, stacks only, and neither.
    for _ in 0..12 {
        Command::new(program("segv")).run_to_end();
    }
    let mut unanswered_queries = Vec::new();
    for _ in 0..20 {
        // Quantiles need crashes within the window.
        Command::new(program("segv")).run_to_end();
        Command::new(program("threads")).run_to_end();
        std::thread::sleep(Duration::from_secs(2));
        unanswered_queries = unanswered(&prometheus);
        if unanswered_queries.is_empty() {
            break;
        }
    }
    assert!(unanswered_queries.is_empty(), "{} queries: {unanswered_queries:#?}", unanswered_queries.len());

    // The alert has executable, host and container.
    let abrt = program("abrt");
    eventually(Duration::from_secs(20), || {
        let alerts = prometheus.get("/api/v1/alerts", &[]);
        alerts["data"]["alerts"].as_array().unwrap().iter().any(|alert| {
            let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
            label("alertname") == "ProcessCrashed"
                && label("program") == abrt.to_str().unwrap()
                && label("container") == id
                && !label("hostname").is_empty()
                && alert["state"] == "firing"
        })
    });
    let alerts = prometheus.get("/api/v1/alerts", &[]);
    let fires = |name: &str| {
        alerts["data"]["alerts"].as_array().unwrap().iter().any(|alert| alert["labels"]["alertname"] == name)
    };
    assert!(fires("NewSignature"), "{alerts}");
    for quiet in ["CollectorDown", "CrashesNotRecorded", "ProcessHeld", "CoresNotStored", "CrashesSpooled"] {
        assert!(!fires(quiet), "{quiet}: {alerts}");
    }
    // Every rule is evaluated without an error.
    let rules = prometheus.get("/api/v1/rules", &[]);
    for rule in rules["data"]["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    // promtool complains about one name only, which is a contract.
    fs::write(bed.path("metrics.txt"), daemon.scrape().split_once("\r\n\r\n").unwrap().1).unwrap();
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(fs::File::open(bed.path("metrics.txt")).unwrap())
        .output()
        .unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    let others: Vec<&str> = complaints.lines().filter(|line| !line.starts_with("coredump_process_count ")).collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn a_storm_silences_the_single_crashes_of_its_program_and_of_no_other() {
    let bed = TestBed::new();
    let arguments = [
        format!("--config.file={}", shipped("alertmanager.yml").display()),
        format!("--storage.path={}", bed.path("alertmanager").display()),
        "--cluster.listen-address=".to_owned(),
    ];
    let alertmanager = Server::start(&bed, "prometheus-alertmanager", &arguments);
    let alert = |name: &str, severity: &str, instance: &str, program: &str| {
        json!({ "labels": {
            "alertname": name, "severity": severity, "job": "coreward", "instance": instance, "program": program
        } })
    };
    alertmanager.post(
        "/api/v2/alerts",
        &json!([
            alert("CrashStorm", "critical", "a", "/opt/app"),
            alert("ProcessCrashed", "warning", "a", "/opt/app"),
            alert("ProcessCrashed", "warning", "a", "/usr/sbin/nginx"),
            alert("ProcessCrashed", "warning", "b", "/opt/app"),
            alert("NewSignature", "warning", "a", ""),
        ]),
    );
    let states = || -> Vec<(String, String)> {
        let alerts = alertmanager.get("/api/v2/alerts", &[]);
        let mut states: Vec<(String, String)> = alerts
            .as_array()
            .unwrap()
            .iter()
            .map(|alert| {
                let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default();
                let name = format!("{} {} {}", label("alertname"), label("instance"), label("program"));
                (name.trim().to_owned(), alert["status"]["state"].as_str().unwrap().to_owned())
            })
            .collect();
        states.sort();
        states
    };
    eventually(Duration::from_secs(30), || {
        let states = states();
        states.len() == 5 && states.iter().all(|(_, state)| state != "unprocessed")
    });
    let silenced: Vec<String> =
        states().into_iter().filter(|(_, state)| state == "suppressed").map(|(name, _)| name).collect();
    assert_eq!(silenced, ["ProcessCrashed a /opt/app"]);
}
