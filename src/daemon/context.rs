//! What every conversation shares.

use crate::capture::{CaptureResources, CompressorPool, HealthMonitor, LargeCoreLimiter, MemoryBudget};
use crate::config::{self, Config, Loaded, THREADS_MAX};
use crate::crash::{CrashId, Decision, Record};
use crate::policy::storm::{StormEvent, StormPolicy};
use crate::report::{ErrorKind, Metrics};
use crate::store::{Catalog, Layout, Ledger, OpenReport, RecentCore};
use coreward_sys::clock;
use coreward_wire::paths::Root;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};

pub(super) struct Context {
    pub(super) root: Root,
    pub(super) metrics: Metrics,
    pub(super) ledger: Arc<Ledger>,
    pub(super) catalog: Catalog,
    pub(super) health: HealthMonitor,
    /// Captures at once; they share their resources. The others wait with their processes parked.
    pub(super) captures: Semaphore,
    pub(super) resources: CaptureResources,
    /// One core is sealed at a time, by all who can: nobody waits for it but the next one, and two at once would only contend for
    /// the same room.
    pub(super) sealing: Semaphore,
    /// Reads of crashed processes' memory at once. One of them may hang for ever on a dead mount; when all do, crashes are
    /// recorded without what those reads would have told.
    pub(super) probes: Arc<Semaphore>,
    loaded: Mutex<Loaded>,
    storms: Mutex<StormPolicy>,
    turns: Mutex<HashMap<CrashId, Weak<tokio::sync::Mutex<()>>>>,
    cancels: Mutex<Vec<Weak<AtomicBool>>>,
    stopping: watch::Sender<bool>,
    recorded: AtomicU64,
    /// Evictions that the metrics know of.
    evictions: AtomicU64,
}

const PROBES: usize = 16;
/// Small crashes must not wait for a large one that holds all places.
const CAPTURES: usize = 16;
/// What keeps a disk busy.
const COPY_BUFFERS: usize = 2;
/// Of the unit's MemoryMax=256M so much may hold what is copied and not compressed yet.
const STAGED: u64 = 128 << 20;

impl Context {
    /// Opens the store and starts the catalog's writer. A catalog that can't be opened stops nobody: crashes stay in the
    /// spool until it can.
    pub(super) fn start(root: Root, layout: &Layout, metrics: Metrics) -> io::Result<Arc<Self>> {
        let ledger = Arc::new(Ledger::new(open_cores(layout)?));
        let health = HealthMonitor::default();
        let heartbeat = health.register("the catalog's writer");
        let (opened, open_reports) = std::sync::mpsc::channel();
        let counted = metrics.clone();
        let on_open = move |report: OpenReport| {
            counted.restore(&report.counts);
            tell(&report, &counted);
            let _ = opened.send(report.recent);
        };
        let catalog = Catalog::start(
            layout.catalog.clone(),
            Arc::clone(&ledger),
            Box::new(on_open),
            Box::new(move || heartbeat.tick()),
        );
        let (catalog, failed) = catalog?;
        if let Some(error) = failed {
            tracing::error!("{error}: crashes stay in the spool until it can be opened");
            metrics.error(ErrorKind::Catalog);
        }
        let context = Self {
            root,
            metrics,
            ledger,
            catalog,
            health,
            captures: Semaphore::new(CAPTURES),
            sealing: Semaphore::new(1),
            resources: CaptureResources {
                compressors: CompressorPool::new(1),
                copy_buffers: CompressorPool::new(COPY_BUFFERS),
                large_cores: LargeCoreLimiter::default(),
                memory_budget: MemoryBudget::new(STAGED),
            },
            probes: Arc::new(Semaphore::new(PROBES)),
            loaded: Mutex::default(),
            storms: Mutex::default(),
            turns: Mutex::default(),
            cancels: Mutex::default(),
            stopping: watch::Sender::new(false),
            recorded: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        };
        context.reload();
        context.replay(open_reports.try_recv().unwrap_or_default());
        Ok(Arc::new(context))
    }

    /// Reads the configuration and puts it in force; what is wrong in it is said, line by line.
    pub(super) fn reload(&self) {
        let loaded = config::load(&self.root);
        for problem in &loaded.problems {
            tracing::warn!("{problem}");
        }
        self.metrics.config_problems.set(i64::try_from(loaded.problems.len()).unwrap_or(i64::MAX));
        self.ledger.set_limits(loaded.config.quotas);
        self.catalog.set_retention(loaded.config.max_records, loaded.config.record_max_age);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if loaded.config.compress_threads == 0 { processors } else { loaded.config.compress_threads };
        // One more than there are processors: one of them may be waiting for the disk.
        self.resources.compressors.set_limit(threads.min(THREADS_MAX) + 1);
        *lock(&self.loaded) = loaded;
        self.refresh();
    }

    /// What the storm policy and the rates say of a crash, now.
    pub(super) fn decide(&self, config: &Config, record: &Record) -> Decision {
        let signature = record.signature_key();
        let first = !self.ledger.has_signature(&signature);
        let event = StormEvent { signature, principal: record.principal(), uid: record.uid, first };
        lock(&self.storms).decide(&config.rules, &event, clock::since_boot())
    }

    /// Lets the policy see again what an earlier daemon kept: a restart opens no new windows, and fills no buckets.
    fn replay(&self, recent: Vec<RecentCore>) {
        let rules = self.config().rules;
        let (now, wall) = (clock::since_boot(), SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        let mut storms = lock(&self.storms);
        for RecentCore { time_us, signature, principal, uid } in recent {
            let age = wall.saturating_sub(Duration::from_micros(time_us));
            if let Some(at) = now.checked_sub(age) {
                storms.decide(&rules, &StormEvent { signature, principal, uid, first: false }, at);
            }
        }
    }

    pub(super) fn config(&self) -> Config {
        lock(&self.loaded).config.clone()
    }

    /// What is in force for a crash: its unit and its executable may have values of their own.
    pub(super) fn config_for(&self, record: &Record) -> Config {
        let loaded = lock(&self.loaded);
        loaded.overrides.apply(&loaded.config, record.cgroup.unit.as_deref(), &record.program())
    }

    /// One conversation about a crash at a time: who offers it again waits for the one before.
    pub(super) fn turn(&self, id: &CrashId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        if let Some(turn) = turns.get(id).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(id.clone(), Arc::downgrade(&turn));
        turn
    }

    /// A switch that calls a capture off, and that [`Self::cancel_all`] throws as well.
    pub(super) fn cancel_switch(&self) -> Arc<AtomicBool> {
        let switch = Arc::new(AtomicBool::new(false));
        let mut cancels = lock(&self.cancels);
        cancels.retain(|switch| switch.strong_count() > 0);
        cancels.push(Arc::downgrade(&switch));
        switch
    }

    pub(super) fn cancel_all(&self) {
        for switch in lock(&self.cancels).iter().filter_map(Weak::upgrade) {
            switch.store(true, Ordering::Relaxed);
        }
    }

    /// From now on nothing new is begun.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns when the daemon stops.
    pub(super) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as this context.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    pub(super) fn recorded_one(&self) {
        self.recorded.fetch_add(1, Ordering::Relaxed);
        self.refresh();
    }

    /// Brings the gauges up to date.
    pub(super) fn refresh(&self) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (bytes, cores) = self.ledger.usage();
        let limits = self.ledger.limits();
        self.metrics.stored_bytes.set(gauge(bytes));
        self.metrics.stored_cores.set(gauge(cores as u64));
        self.metrics.quota_max_use.set(gauge(limits.max_use));
        self.metrics.quota_keep_free.set(gauge(limits.keep_free));
        self.metrics.catalog_up.set(i64::from(self.catalog.is_open()));
        let evictions = self.ledger.evictions();
        let known = self.evictions.swap(evictions, Ordering::Relaxed);
        self.metrics.evicted.inc_by(evictions.saturating_sub(known));
    }

    /// The line for `systemctl status`.
    pub(super) fn status(&self) -> String {
        let (bytes, cores) = self.ledger.usage();
        let problems = match self.metrics.config_problems.get() {
            0 => String::new(),
            count => format!("; {count} lines of the configuration are not in force (see the log)"),
        };
        format!(
            "{} crashes since the start, {cores} cores stored ({} MiB of {} MiB){problems}",
            self.recorded.load(Ordering::Relaxed),
            bytes >> 20,
            self.ledger.limits().max_use >> 20,
        )
    }

    /// The directories that shims may have saved crashes in.
    pub(super) fn spools(&self) -> [PathBuf; 2] {
        [self.root.state_dir(), self.root.run_dir()]
    }
}

fn tell(report: &OpenReport, metrics: &Metrics) {
    if let Some(aside) = &report.quarantined {
        tracing::error!("the catalog was damaged: put aside as {} and rebuilt from the cores", aside.display());
        metrics.error(ErrorKind::Catalog);
    }
    if report.restored > 0 {
        tracing::info!("{} cores had no row in the catalog: they have one again", report.restored);
    }
    if report.missing > 0 {
        tracing::warn!("{} cores of the catalog are gone", report.missing);
    }
}

fn open_cores(layout: &Layout) -> io::Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", layout.cores.display()));
    match std::fs::DirBuilder::new().mode(0o755).create(&layout.cores) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Read-only: there may still be a directory.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
        made => made.map_err(at)?,
    }
    layout.open_cores().map_err(at)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here is left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
