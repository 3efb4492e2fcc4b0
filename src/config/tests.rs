//! The shipped file and coreward.conf(5) list the keys and defaults that are in force.

use super::keys::Key;
use super::{Config, CrashConfig};
use crate::crash::CrashLabel;
use crate::policy::admission::Storage;
use crate::policy::modules::ModulePolicy;
use crate::policy::quota::Quotas;
use crate::policy::rate::Rate;
use crate::policy::storm::{StormRule, StormRules};
use std::time::Duration;

const SHIPPED: &str = include_str!("../../systemd/coreward.conf");
const MANUAL: &str = include_str!("../../man/coreward.conf.5");

/// Keys and defaults of the shipped file, which lists them in comments.
fn shipped() -> Vec<(&'static str, &'static str)> {
    let comments = SHIPPED.lines().filter_map(|line| line.strip_prefix('#'));
    comments.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once('=')).collect()
}

/// Keys and defaults of the manual: `.B Key=` after a `.TP`, and what follows "Default:".
fn described() -> Vec<(&'static str, &'static str)> {
    let blocks = MANUAL.split("\n.TP\n.B ").skip(1);
    let pairs = blocks.map(|block| {
        let key = block.lines().next().and_then(|line| line.strip_suffix('=')).unwrap();
        let default = block.split_once("\nDefault:").map(|(_, default)| default.trim_start().lines().next().unwrap());
        (key, default.unwrap().trim_start_matches(".BR ").trim_end_matches([' ', '.']).trim_start_matches("empty"))
    });
    pairs.collect()
}

#[test]
fn the_shipped_file_and_the_manual_say_what_is_in_force() {
    // Every setting differs from its default, so a key that is not described keeps a wrong value.
    for said in [shipped(), described()] {
        let mut config = Config {
            crash: CrashConfig {
                storage: Storage::None,
                process_size_max: 1,
                external_size_max: 1,
                rules: StormRules {
                    storm: StormRule { burst: 1, stacks: 1, interval: Duration::ZERO },
                    unit: Rate { burst: 1, interval: Duration::ZERO },
                    user: Rate { burst: 1, interval: Duration::ZERO },
                    total: Rate { burst: 1, interval: Duration::ZERO },
                },
                compress: false,
                compress_level: 7,
                max_hold: Duration::ZERO,
                modules: ModulePolicy::None,
                enforce_core_limit: true,
            },
            quotas: Quotas {
                max_use: Some(1),
                keep_free: Some(1),
                per_unit: Some(1),
                per_user: Some(1),
                per_executable: Some(1),
                per_signature: Some(1),
                modules: Some(1),
                cores: 1,
                age: Duration::ZERO,
            },
            max_records: 1,
            record_max_age: Duration::ZERO,
            compress_threads: 3,
            events: Rate { burst: 1, interval: Duration::ZERO },
            keep_registered: true,
            environment: vec!["LANG".to_owned()],
            metric_labels: vec![CrashLabel::Unit],
        };
        for (key, value) in &said {
            Key::find(key).unwrap().assign(&mut config, value).unwrap();
        }
        assert_eq!(config, Config::default(), "{said:?}");
    }
    let keys = |said: Vec<(&'static str, &'static str)>| said.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(shipped()), keys(described()), "in the same order");
}

#[test]
fn the_shipped_file_is_read_without_a_complaint() {
    let dir = tempfile::tempdir().unwrap();
    let root = coreward_wire::paths::Root::new(dir.path());
    std::fs::create_dir_all(root.join("/etc/coreward")).unwrap();
    let uncommented: Vec<String> = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    for text in [SHIPPED.to_owned(), uncommented.join("\n")] {
        std::fs::write(root.join("/etc/coreward/coreward.conf"), text).unwrap();
        let loaded = crate::config::load(&root);
        assert_eq!((loaded.config, loaded.problems), (Config::default(), Vec::new()));
    }
}
