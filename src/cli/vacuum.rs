//! `coreward vacuum`: deletes cores in the daemon's order of eviction until the given limits are met.

use super::error::{ChangeError, CliError};
use super::remove::{open_cores, write_down_removal};
use super::{human, time};
use crate::config::{parse_duration, parse_size};
use crate::crash::CrashId;
use crate::store::{self, StoredCore, core_file_name};
use clap::{ArgGroup, Args};
use coreward_wire::paths::Root;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::statvfs::fstatvfs;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Options of `vacuum`.
#[derive(Args, Debug)]
#[group(skip)]
#[command(group = ArgGroup::new("limits").required(true).multiple(true).args(["max_use", "keep_free", "max_age", "max_cores"]))]
pub(super) struct VacuumOptions {
    /// Until all cores together take at most this, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_use: Option<u64>,
    /// Until this much of the volume is free
    #[arg(long, value_name = "SIZE", value_parser = size)]
    keep_free: Option<u64>,
    /// All cores older than this, such as 30d
    #[arg(long, value_name = "TIME", value_parser = age)]
    max_age: Option<Duration>,
    /// Until at most N cores are left
    #[arg(long, value_name = "N")]
    max_cores: Option<usize>,
    /// Show what would be deleted, but delete nothing
    #[arg(long)]
    dry_run: bool,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "not a size such as 512M".to_owned())
}

fn age(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "not a time such as 30d or \"1h 30min\"".to_owned())
}

pub(super) fn run(root: &Root, options: &VacuumOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (layout, dir) = open_cores(root)?;
    let free = fstatvfs(&dir).map_or(0, |volume| volume.blocks_available() * volume.fragment_size());
    let doomed = choose(store::stored_cores(root)?, options, free, time::now_us());
    let bytes: u64 = doomed.iter().map(|core| core.bytes).sum();
    if options.dry_run {
        for core in &doomed {
            writeln!(out, "Would delete the core of crash {}, {}.", core.id, human::size(core.bytes))?;
        }
        writeln!(out, "{}, {}.", human::count(doomed.len() as u64, "core"), human::size(bytes))?;
        return Ok(ExitCode::SUCCESS);
    }
    let progress = ProgressBar::new(doomed.len() as u64).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} cores").unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut deleted: Vec<CrashId> = Vec::with_capacity(doomed.len());
    let outcome = doomed.iter().try_for_each(|core| {
        let path = layout.cores.join(core_file_name(&core.id));
        store::delete_core(&dir, &core.id).map_err(|error| ChangeError::new(path, error))?;
        deleted.push(core.id.clone());
        progress.inc(1);
        Ok::<_, ChangeError>(())
    });
    progress.finish_and_clear();
    write_down_removal(root, &deleted);
    outcome?;
    writeln!(
        out,
        "Deleted {}, {}; their records stay.",
        human::count(doomed.len() as u64, "core"),
        human::size(bytes)
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The cores to delete, in that order. Pinned cores stay. `free` is the free space on the volume in bytes.
fn choose(cores: Vec<StoredCore>, options: &VacuumOptions, free: u64, now_us: u64) -> Vec<StoredCore> {
    let age_us = options.max_age.map_or(u64::MAX, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    let before_us = now_us.saturating_sub(age_us);
    let is_expired = |core: &StoredCore| core.time_us < before_us && !core.pinned;
    let (mut doomed, mut left): (Vec<_>, Vec<_>) = cores.into_iter().partition(is_expired);
    let mut freed: u64 = doomed.iter().map(|core| core.bytes).sum();
    loop {
        let used: u64 = left.iter().map(|core| core.bytes).sum();
        let exceeds_limit = options.max_use.is_some_and(|limit| used > limit)
            || options.keep_free.is_some_and(|limit| free.saturating_add(freed) < limit)
            || options.max_cores.is_some_and(|limit| left.len() > limit);
        let Some(index) = store::least_valuable(&left).filter(|_| exceeds_limit) else { return doomed };
        let core = left.swap_remove(index);
        freed += core.bytes;
        doomed.push(core);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{CrashKey, Party, Principal, SignatureKey};
    use crate::policy::evict::Attribution;
    use nix::unistd::Pid;

    #[test]
    fn each_limit_takes_what_it_must_and_no_pinned_core() {
        let all = || -> Vec<StoredCore> {
            (0..5)
                .map(|number| StoredCore {
                    id: CrashKey { boot_id: String::new(), pid: Pid::from_raw(number), start_time: 0 }.id(),
                    attribution: Attribution {
                        principal: Principal::Unknown,
                        party: Party::Unknown,
                        program: "p".to_owned(),
                        signature: SignatureKey::new("g"),
                    },
                    time_us: u64::from(number.unsigned_abs()) * 1_000_000,
                    bytes: 100,
                    pinned: number == 1,
                })
                .collect()
        };
        let none = || VacuumOptions { max_use: None, keep_free: None, max_age: None, max_cores: None, dry_run: false };
        let gone = |options: VacuumOptions| -> Vec<u64> {
            choose(all(), &options, 50, 4_000_000).iter().map(|core| core.time_us / 1_000_000).collect()
        };
        assert_eq!(gone(VacuumOptions { max_use: Some(350), ..none() }), [2, 3]);
        assert_eq!(gone(VacuumOptions { keep_free: Some(150), ..none() }), [2]);
        assert_eq!(gone(VacuumOptions { max_cores: Some(0), ..none() }), [2, 3, 0, 4], "the first and the newest last");
        assert_eq!(gone(VacuumOptions { max_age: Some(Duration::from_secs(2)), ..none() }), [0]);
    }
}
