use super::*;

fn count(program: &str, count: u64) -> CrashCount {
    CrashCount {
        hostname: "h".into(),
        program: program.into(),
        signal: "SEGV".into(),
        core_exists: true,
        count,
        last_us: 1_700_000_000_999_999,
    }
}

#[test]
fn the_contract_that_alerts_are_written_against() {
    let metrics = Metrics::new().unwrap();
    metrics.restore(&[count("/usr/bin/a", 7)]);
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let line = "coredump_process_count{core_exists=\"true\",hostname=\"h\",program=\"/usr/bin/a\",signal=\"SEGV\"} 7";
    assert!(text.lines().any(|found| found == line), "{text}");
    assert!(text.contains("# TYPE coredump_process_count counter"));
    assert!(text.contains("coreward_errors_total{kind=\"disk_full\"} 0"), "every kind is there from the start");
}

#[test]
fn hostile_names_stay_inside_their_label() {
    let metrics = Metrics::new().unwrap();
    metrics.restore(&[count("/tmp/a\"} 1\nevil_metric 5\u{1b}", 1)]);
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_label_set_that_leaves_is_counted_as_other() {
    let metrics = Metrics::new().unwrap();
    metrics.restore(&[count("/usr/bin/a", 7), count("/usr/bin/b", 2)]);
    metrics.count(&Counted { raised: count("/usr/bin/c", 1), left: Some(count("/usr/bin/a", 7)), new_bug: false });
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let mut samples: Vec<&str> = text.lines().filter(|line| line.starts_with("coredump_process_count{")).collect();
    samples.sort_unstable_by_key(|line| line.len());
    let programs: Vec<&str> = samples.iter().map(|line| line.split("program=\"").nth(1).unwrap()).collect();
    assert_eq!(
        programs,
        ["other\",signal=\"SEGV\"} 7", "/usr/bin/b\",signal=\"SEGV\"} 2", "/usr/bin/c\",signal=\"SEGV\"} 1"]
    );
}

#[test]
fn ages_are_those_of_the_moment_of_the_scrape() {
    let metrics = Metrics::new().unwrap();
    let value = |name: &str| -> f64 {
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    };
    assert_eq!((value("coreward_inflight_oldest_seconds"), value("coreward_held_oldest_seconds")), (0.0, 0.0));
    let crash = metrics.count_in_flight(Duration::from_secs(90));
    assert!(value("coreward_held_oldest_seconds") >= 90.0);
    crash.release();
    assert_eq!(value("coreward_held_oldest_seconds"), 0.0);
    assert!(value("coreward_inflight_oldest_seconds") >= 90.0);
    assert_eq!(value("coreward_inflight_crashes"), 1.0);
}

#[test]
fn the_time_of_a_new_signature_is_only_there_when_there_was_one() {
    let metrics = Metrics::new().unwrap();
    let text = || String::from_utf8(metrics.render().unwrap()).unwrap();
    assert!(!text().contains("\ncoreward_last_new_signature_timestamp_seconds"));
    metrics.new_signature(1_700_000_002_000_000);
    metrics.new_signature(1_700_000_001_000_000);
    assert!(text().contains("\ncoreward_last_new_signature_timestamp_seconds 1700000002\n"));
    assert!(text().contains("\ncoreward_new_signatures_total 2\n"));
}
