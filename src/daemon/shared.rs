//! What all sessions share: the store, the limiter, the capture's resources, the configuration in force.

use super::host_packages::HostPackages;
use super::identity::Host;
use super::local_users::OwnProcesses;
pub(super) use super::lock::lock;
use super::module_queue::ModuleQueue;
use super::record_builder::RecordBuilder;
use super::shutdown::Shutdown;
use crate::capture::{CaptureResources, CompressorPool, HealthMonitor, LargeCoreLimiter, MemoryBudget};
use crate::config::{self, CrashConfig, LoadedConfig, THREADS_MAX};
use crate::crash::CrashId;
use crate::policy::admission::{self, Admission, AdmissionConfig, AdmissionFacts};
use crate::policy::rate::Rate;
use crate::policy::storm::{StormEvent, StormPolicy};
use crate::reader::{Places, ReaderPool};
use crate::report::{ErrorKind, Metrics};
use crate::store::{
    Catalog, CatalogEvent, Layout, Ledger, ModuleStore, OpenReport, RecentCore, SHARE_OF_MEMORY, Volume,
    memory_of_this_process,
};
use coreward_sys::clock;
use coreward_wire::paths::Root;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, Semaphore};

/// Work of [`super::blocking::run_with_timeout`] at once, that which hangs included.
const ABANDONABLE: usize = 4;
/// Cores that are finished at once, of as many principals.
const FINALIZING: usize = 3;
/// Threads that have processes copied to disk: two keep a disk busy.
const COPY_BUFFERS: usize = 2;
/// The most bytes of memory that what is copied and not yet compressed may take: half of the unit's MemoryMax=. The cores of one
/// principal may take five eighths of these: one of the largest that are copied into memory.
const STAGED: u64 = 128 << 20;

pub(super) struct Shared {
    pub(super) root: Root,
    pub(super) host: Host,
    pub(super) metrics: Metrics,
    pub(super) ledger: Arc<Ledger>,
    pub(super) modules: ModuleStore,
    pub(super) module_queue: ModuleQueue,
    pub(super) host_packages: HostPackages,
    pub(super) catalog: Catalog,
    pub(super) health: HealthMonitor,
    pub(super) shutdown: Shutdown,
    pub(super) resources: CaptureResources,
    /// Whose processes are read and captured; the others wait.
    pub(super) places: Arc<Places>,
    /// Read the memory of crashed processes.
    pub(super) readers: ReaderPool,
    /// One core of a principal is finished at a time, by all compressors: two at once would only contend for the same memory. Nobody
    /// waits for all those of another.
    pub(super) finalizing: Arc<Places>,
    /// For [`super::blocking::run_with_timeout`].
    pub(super) abandonable: Arc<Semaphore>,
    /// There is a crash to tell about.
    pub(super) new_bugs: Notify,
    pub(super) own_processes: Mutex<OwnProcesses>,
    loaded: Mutex<LoadedConfig>,
    limiter: Mutex<StormPolicy>,
    crash_locks: Mutex<HashMap<CrashId, Weak<tokio::sync::Mutex<()>>>>,
    recorded: AtomicU64,
    /// Evictions that the metrics have counted.
    evictions: AtomicU64,
    /// The same of modules.
    module_evictions: AtomicU64,
}

impl Shared {
    /// Opens the store and starts the catalog's writer. A catalog that cannot be opened does not end the daemon: crashes stay in
    /// the spool until it can be.
    ///
    /// # Errors
    /// The directory of the cores cannot be opened, or no thread can be started.
    pub(super) fn open(root: Root, layout: &Layout, metrics: Metrics, readers: ReaderPool) -> io::Result<Arc<Self>> {
        let ledger = Arc::new(Ledger::new(open_directory(&layout.cores, || layout.open_cores())?));
        for limitation in ledger.volume().limitations() {
            tracing::warn!("{}: {limitation}", layout.cores.display());
        }
        let module_dir = open_directory(&layout.modules, || layout.open_modules())?;
        let modules = ModuleStore::new(module_dir, Arc::clone(&ledger));
        let staged = staged_bytes(ledger.volume());
        let health = HealthMonitor::default();
        let heartbeat = health.register("the catalog's writer");
        let (sender, opened) = std::sync::mpsc::channel();
        let counters = metrics.clone();
        let on_event = move |event: CatalogEvent| match event {
            CatalogEvent::Opened(report) => {
                counters.restore(&report.counts);
                log_opening(&report, &counters);
                let _ = sender.send(report.recent);
            }
            CatalogEvent::Counted(counted) => counters.count(&counted),
        };
        let tick = Box::new(move || heartbeat.tick());
        let started = Catalog::start(layout.catalog.clone(), Arc::clone(&ledger), Box::new(on_event), tick);
        let (catalog, error) = started?;
        if let Some(error) = error {
            tracing::error!("{error}: crashes stay in the spool until the catalog can be opened");
            metrics.error(ErrorKind::Catalog);
        }
        let shared = Self {
            host: Host::read(&root),
            host_packages: HostPackages::new(&root),
            root,
            metrics,
            ledger,
            modules,
            module_queue: ModuleQueue::default(),
            catalog,
            health,
            shutdown: Shutdown::default(),
            resources: CaptureResources {
                compressors: CompressorPool::new(1),
                finalizers: CompressorPool::new(1),
                copy_buffers: CompressorPool::new(COPY_BUFFERS),
                large_cores: LargeCoreLimiter::default(),
                memory_budget: MemoryBudget::new(staged, staged * 5 / 8),
            },
            places: Arc::new(Places::for_captures()),
            readers,
            finalizing: Arc::new(Places::new(FINALIZING, 1)),
            abandonable: Arc::new(Semaphore::new(ABANDONABLE)),
            new_bugs: Notify::new(),
            own_processes: Mutex::default(),
            loaded: Mutex::default(),
            limiter: Mutex::default(),
            crash_locks: Mutex::default(),
            recorded: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            module_evictions: AtomicU64::new(0),
        };
        shared.readers.refill();
        shared.reload();
        shared.replay(opened.try_recv().unwrap_or_default());
        Ok(Arc::new(shared))
    }

    /// Reads the configuration and puts it in force; every line that is wrong is logged.
    pub(super) fn reload(&self) {
        let loaded = config::load(&self.root);
        for problem in &loaded.problems {
            tracing::warn!("{problem}");
        }
        self.metrics.config_problems.set(i64::try_from(loaded.problems.len()).unwrap_or(i64::MAX));
        self.ledger.set_limits(loaded.config.quotas);
        self.metrics.set_labels(&loaded.config.metric_labels);
        self.catalog.set_retention(loaded.config.max_records, loaded.config.record_max_age);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if loaded.config.compress_threads == 0 { processors } else { loaded.config.compress_threads };
        // One more than there are processors: one of them may wait for the disk.
        for compressors in [&self.resources.compressors, &self.resources.finalizers] {
            compressors.set_limit(threads.min(THREADS_MAX) + 1);
        }
        *lock(&self.loaded) = loaded;
        self.refresh_metrics();
    }

    /// `KeepRegistered=`: whether settings of the kernel that somebody else changed are set again.
    pub(super) fn takes_registration_back(&self) -> bool {
        lock(&self.loaded).config.keep_registered
    }

    /// `Environment=`: the variables that a record has of a process' environment.
    pub(super) fn environment(&self) -> Vec<String> {
        lock(&self.loaded).config.environment.clone()
    }

    /// `EventBurst=` and `EventIntervalSec=`.
    pub(super) fn event_rate(&self) -> Rate {
        lock(&self.loaded).config.events
    }

    /// Decides on a crash, now.
    pub(super) fn admit(&self, config: &AdmissionConfig, builder: &RecordBuilder, has_core: bool) -> Admission {
        let attribution = builder.attribution();
        let bug = attribution.bug();
        let first = !self.ledger.has_bug(&bug);
        let event = StormEvent { bug, principal: attribution.principal, first, variant: builder.variant() };
        let crash = AdmissionFacts { has_core, core_limit: builder.core_limit(), event, is_dump: builder.is_dump() };
        admission::admit(config, &crash, &mut lock(&self.limiter), clock::since_boot())
    }

    /// Replays the cores that an earlier daemon kept to the limiter: a restart opens no new windows, and fills no buckets.
    fn replay(&self, recent: Vec<RecentCore>) {
        let rules = lock(&self.loaded).config.crash.rules;
        let (uptime, now) = (clock::since_boot(), SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        let mut limiter = lock(&self.limiter);
        for RecentCore { time_us, bug, principal } in recent {
            let age = now.saturating_sub(Duration::from_micros(time_us));
            if let Some(at) = uptime.checked_sub(age) {
                limiter.decide(&rules, &StormEvent { bug, principal, first: false, variant: None }, at);
            }
        }
    }

    /// The configuration in force for a crash: its unit and its executable may have values of their own.
    pub(super) fn config_for(&self, unit: Option<&str>, program: &str) -> CrashConfig {
        let loaded = lock(&self.loaded);
        loaded.overrides.apply(loaded.config.crash, unit, program)
    }

    /// The lock on a crash: one session at a time works on it, and a second offer waits for the first.
    pub(super) fn crash_lock(&self, id: &CrashId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.crash_locks);
        if let Some(known) = locks.get(id).and_then(Weak::upgrade) {
            return known;
        }
        locks.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(id.clone(), Arc::downgrade(&new));
        new
    }

    /// Counts a crash whose record is durable.
    pub(super) fn count_recorded(&self) {
        self.recorded.fetch_add(1, Ordering::Relaxed);
        self.refresh_metrics();
    }

    /// Brings the gauges up to date.
    pub(super) fn refresh_metrics(&self) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (bytes, cores) = self.ledger.usage();
        let limits = self.ledger.limits();
        self.metrics.stored_bytes.set(gauge(bytes));
        self.metrics.stored_cores.set(gauge(cores as u64));
        let (bytes, modules) = self.modules.usage();
        self.metrics.modules_bytes.set(gauge(bytes));
        self.metrics.modules.set(gauge(modules as u64));
        self.metrics.quota_max_modules_use.set(gauge(limits.modules));
        self.metrics.set_usage_by_class(&self.ledger.usage_by_class());
        self.metrics.quota_max_use.set(gauge(limits.max_use));
        self.metrics.quota_keep_free.set(gauge(limits.keep_free));
        self.metrics.catalog_up.set(i64::from(self.catalog.is_open()));
        let evictions = self.ledger.evictions();
        let counted = self.evictions.swap(evictions, Ordering::Relaxed);
        self.metrics.evicted.inc_by(evictions.saturating_sub(counted));
        let evictions = self.modules.evictions();
        let counted = self.module_evictions.swap(evictions, Ordering::Relaxed);
        self.metrics.modules_evicted.inc_by(evictions.saturating_sub(counted));
    }

    /// The line for `systemctl status`.
    pub(super) fn status_line(&self) -> String {
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
}

/// Bytes of memory for what is copied and not yet compressed.
fn staged_bytes(volume: &Volume) -> u64 {
    STAGED.min(memory_of_this_process() / if volume.is_memory() { SHARE_OF_MEMORY } else { 2 })
}

fn log_opening(report: &OpenReport, metrics: &Metrics) {
    if let Some(quarantine) = &report.quarantined {
        tracing::error!(
            "the catalog was damaged: it was moved to {} and rebuilt from the core files",
            quarantine.display()
        );
        metrics.error(ErrorKind::Catalog);
    }
    if report.restored > 0 {
        tracing::info!("the rows of {} cores were missing from the catalog and have been restored", report.restored);
    }
    if report.missing > 0 {
        tracing::warn!("the files of {} cores in the catalog are gone", report.missing);
    }
}

/// Opens a directory of the store, and makes it first where no package did.
fn open_directory(path: &Path, open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Read-only: there may still be a directory.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
        created => created.map_err(with_path)?,
    }
    open().map_err(with_path)
}
