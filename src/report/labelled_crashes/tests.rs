use super::*;
use crate::crash::Module;
use nix::unistd::Uid;
use std::collections::BTreeMap;

fn labelled(labels: &[CrashLabel]) -> LabelledCrashes {
    let mut labelled = LabelledCrashes::default();
    labelled.set_labels(labels);
    labelled
}

fn crash(uid: u32, container: &str) -> Record {
    let mut record = crate::crash::fixtures::record(1);
    record.uid = Some(Uid::from_raw(uid));
    record.cgroup.path = String::new();
    record.cgroup.unit = None;
    record.cgroup.container = Some(container.to_owned()).filter(|name| !name.is_empty());
    record
}

/// The counters, by the values of their labels in the order of the labels' names.
fn counts(labelled: &LabelledCrashes) -> BTreeMap<Vec<String>, f64> {
    let families = labelled.collect();
    let metrics = families.iter().flat_map(MetricFamily::get_metric);
    metrics
        .map(|metric| {
            let labels = metric.get_label().iter().map(|label| format!("{}={}", label.name(), label.value()));
            (labels.collect(), metric.get_counter().get_value())
        })
        .collect()
}

fn sum(labelled: &LabelledCrashes) -> f64 {
    counts(labelled).values().sum()
}

#[test]
fn without_labels_nothing_is_counted() {
    let mut labelled = LabelledCrashes::default();
    assert_eq!(labelled.count(&crash(1000, "a"), Instant::now()), [""; 0]);
    assert!(labelled.collect().is_empty());
}

#[test]
fn a_crash_has_the_labels_that_were_asked_for() {
    let mut labelled = labelled(&[CrashLabel::Unit, CrashLabel::Container]);
    let now = Instant::now();
    let mut service = crash(0, "");
    service.cgroup.unit = Some("nginx.service".to_owned());
    for record in [&crash(1000, "a"), &crash(1000, "a"), &service] {
        assert_eq!(labelled.count(record, now), [""; 0]);
    }
    let found: Vec<(String, f64)> = counts(&labelled)
        .into_iter()
        .map(|(labels, count)| {
            (labels.into_iter().filter(|label| !label.starts_with("program=")).collect::<Vec<_>>().join(" "), count)
        })
        .collect();
    let host = service.hostname;
    assert_eq!(
        found,
        [
            (format!("container= hostname={host} signal=SEGV unit=nginx.service"), 1.0),
            (format!("container=a hostname={host} signal=SEGV unit="), 2.0),
        ]
    );
}

#[test]
fn other_labels_start_at_zero_and_the_same_ones_go_on() {
    let mut labelled = labelled(&[CrashLabel::Unit]);
    labelled.count(&crash(1000, "a"), Instant::now());
    labelled.set_labels(&[CrashLabel::Unit]);
    assert_eq!(sum(&labelled), 1.0);
    labelled.set_labels(&[CrashLabel::Container]);
    assert_eq!(sum(&labelled), 0.0);
    labelled.set_labels(&[]);
    assert!(labelled.collect().is_empty());
}

#[test]
fn the_names_of_one_user_leave_room_for_others_and_every_crash_is_counted() {
    let mut labelled = labelled(&[CrashLabel::Container, CrashLabel::Signature]);
    let now = Instant::now();
    let mut overflow: BTreeMap<&str, u32> = BTreeMap::new();
    let mut host = |uid: u32, name: String| {
        let mut record = crash(uid, "");
        record.hostname = name;
        for label in labelled.count(&record, now) {
            *overflow.entry(label).or_default() += 1;
        }
    };
    (0..300).for_each(|number| host(1000, format!("h{number}")));
    (0..10).for_each(|number| host(1001, format!("i{number}")));
    assert_eq!(overflow, BTreeMap::from([("hostname", 175)]), "an eighth of the values is a user's share");
    assert_eq!(sum(&labelled), 310.0);
    let counted = counts(&labelled);
    assert!(counted.keys().any(|labels| labels.contains(&"hostname=i9".to_owned())));
    let other = |labels: &Vec<String>| labels.contains(&"hostname=other".to_owned());
    assert_eq!(counted.iter().filter(|(labels, _)| other(labels)).map(|(_, count)| count).sum::<f64>(), 175.0);
}

#[test]
fn combinations_are_bounded_as_well_and_the_rest_is_other() {
    let mut labelled = labelled(&[CrashLabel::Signature]);
    let now = Instant::now();
    let mut overflow = 0;
    for number in 0..10_000_u32 {
        let mut record = crash(1000 + number % 6, "");
        record.hostname = format!("h{}", number / 6 % 40);
        record.exe = format!("/opt/{}", number / 240);
        overflow += labelled.count(&record, now).iter().filter(|label| **label == ALL).count();
    }
    assert!(labelled.series.len() <= MAX_SERIES.all + 1, "{}", labelled.series.len());
    assert!(overflow > 0);
    assert_eq!(sum(&labelled), 10_000.0);
}

#[test]
fn what_was_not_counted_for_an_hour_makes_way() {
    let mut labelled = labelled(&[CrashLabel::Container]);
    let begun = Instant::now();
    let mut host = |name: String, at: Duration| {
        let mut record = crash(1000, "");
        record.hostname = name;
        labelled.count(&record, begun + at)
    };
    for number in 0..130 {
        host(format!("h{number}"), Duration::ZERO);
    }
    assert_eq!(host("late".to_owned(), IDLE / 2), ["hostname"]);
    host("h0".to_owned(), IDLE / 2);
    assert_eq!(host("later".to_owned(), IDLE + NEXT_LOOK), [""; 0]);
    assert_eq!(sum(&labelled), 9.0, "h0 twice, six that were other, and the new one");
    let hosts: Vec<String> = counts(&labelled).into_keys().map(|labels| labels[1].clone()).collect();
    assert!(hosts.contains(&"hostname=h0".to_owned()) && !hosts.contains(&"hostname=h1".to_owned()), "{hosts:?}");
}

#[test]
fn hostile_values_are_escaped_and_cut() {
    let mut labelled = labelled(&[CrashLabel::Container]);
    labelled.count(&crash(1000, &format!("a\u{1b}\n{}", "x".repeat(10_000))), Instant::now());
    let labels = counts(&labelled).into_keys().next().unwrap();
    assert!(
        labels[0].starts_with("container=a\\u{1b}\\nxxx") || labels[0].starts_with("container=a\\x1b\\nxxx"),
        "{labels:?}"
    );
    assert!(labels[0].len() < 300);
}

#[test]
fn duplicates_whose_records_lack_the_package_are_counted_with_it() {
    let mut labelled = labelled(&[CrashLabel::Package]);
    let mut record = crash(1000, "");
    record.exe_build_id = Some("abcd".to_owned());
    record.modules = vec![Module {
        path: record.exe.clone(),
        build_id: record.exe_build_id.clone(),
        package: Some(r#"{"type":"deb","name":"nginx","version":"1.26.3-3"}"#.to_owned()),
        owner: None,
        bias: 0,
        start: 0,
        end: 1,
    }];
    labelled.count(&record, Instant::now());
    record.shorten();
    labelled.count(&record, Instant::now());
    let counted = counts(&labelled);
    assert_eq!(counted.len(), 1);
    let (labels, count) = counted.into_iter().next().unwrap();
    assert!(labels.contains(&"package=nginx=1.26.3-3".to_owned()) && count == 2.0, "{labels:?}");
}
