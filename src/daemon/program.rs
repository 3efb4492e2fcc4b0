//! The whole program: start-up in its order, signals, the end.

use super::notify::Notifier;
use super::shared::Shared;
use super::sockets::{SocketError, Sockets};
use super::{deletion, events, import, listener, maintenance, registration_watch, spool};
use crate::confine::confine_daemon;
use crate::reader::ReaderPool;
use crate::report::{LogGuard, Metrics, serve, start_log};
use crate::store::Layout;
use clap::Parser;
use coreward_sys::essential;
use coreward_sys::fdpass::reserve_descriptors;
use coreward_wire::paths::Root;
use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::os::fd::{AsFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio::time::interval;

/// The crash collector's daemon. systemd starts it with its sockets (coreward.socket, coreward-metrics.socket,
/// coreward-delete.socket).
#[derive(Debug, Parser)]
#[command(name = "corewardd", version)]
struct Arguments {
    /// Directory below which every path lies; for tests.
    #[arg(long, value_name = "DIR", env = "COREWARD_ROOT", default_value = "/")]
    root: PathBuf,
}

/// How long an earlier daemon on the same state may take to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often gauges and the status line are refreshed, and readers forget crashes that they need no more.
const REFRESH: Duration = Duration::from_secs(5);
/// Threads for blocking work, far below the unit's TasksMax=: captures start threads of their own.
const BLOCKING_THREADS: usize = 96;
/// How long the shutdown waits for threads that block, for example on a crashed process' memory behind a dead mount.
const THREADS_TIMEOUT: Duration = Duration::from_millis(200);

/// Why the daemon ends.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("{path}: {error}")]
    State { path: PathBuf, error: std::io::Error },
    #[error("another corewardd already runs on {0}: stop it first (systemctl stop coreward.service)")]
    Locked(PathBuf),
    #[error("{0}")]
    Sockets(#[from] SocketError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("a task that the daemon depends on ended{}: systemd starts the next daemon", .0.as_ref().map(|error| format!(" ({error})")).unwrap_or_default())]
    TaskEnded(Option<JoinError>),
}

/// Descriptors for which there is room from the start: some crashes' with their mapped files.
const DESCRIPTORS: RawFd = 1024;

/// Runs the daemon until systemd stops it.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before anything that readers must not have.
    let readers = ReaderPool::start();
    reserve_descriptors(std::io::stdin().as_fd(), DESCRIPTORS);
    let log = start_log("corewardd");
    let ended = readers.map_err(DaemonError::from).and_then(|readers| run(arguments, readers));
    exit(ended, log)
}

fn exit(ended: Result<(), DaemonError>, log: LogGuard) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.end_with(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, readers: ReaderPool) -> Result<(), DaemonError> {
    // For all threads, those of the log included. Nothing after this executes a program or forks.
    if let Err(error) = confine_daemon() {
        tracing::warn!("the daemon's system calls are restricted by its unit only: {error}");
    }
    // The order matters: the names of sockets before listenfd removes the variables, both before any thread.
    let mut sockets = Sockets::inherit()?;
    let watchdog = sd_notify::watchdog_enabled();
    let root = Root::new(arguments.root);
    let layout = Layout::new(&root);
    let _lock = lock_state(&root.state_dir())?;
    let shared = Shared::open(root, &layout, Metrics::new()?, readers)?;
    if let Some(listener) = sockets.take_metrics() {
        serve_metrics(listener, shared.metrics.clone())?;
    }
    let notifier = Notifier::start(watchdog, shared.health.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve_until_stopped(sockets, &shared, &notifier));
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    ended
}

/// Starts the thread that answers scrapers. It is the only one: whatever they do, those that work on crashes have nothing to do with it.
fn serve_metrics(listener: TcpListener, metrics: Metrics) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    essential::spawn("metrics", move || runtime.block_on(serve(listener, metrics)))?;
    Ok(())
}

async fn serve_until_stopped(sockets: Sockets, shared: &Arc<Shared>, notifier: &Notifier) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let sockets = sockets.into_tokio()?;
    // Tasks without which the daemon would seem to work and do not: when one ends, the daemon does.
    let mut tasks = JoinSet::new();
    let with_readers = Arc::clone(shared);
    tasks.spawn(async move {
        if let Err(error) = with_readers.readers.maker_ended().await {
            tracing::error!("the process that makes readers cannot be watched: {error}");
        }
    });
    tasks.spawn(shared.shutdown.track(listener::listen(sockets.intake, Arc::clone(shared))));
    if let Some(listener) = sockets.deletion {
        tasks.spawn(shared.shutdown.track(deletion::listen(listener, Arc::clone(shared))));
    }
    tasks.spawn(shared.shutdown.track(spool::import_spool(Arc::clone(shared))));
    tasks.spawn(shared.shutdown.track(import::import_crashes(Arc::clone(shared))));
    tasks.spawn(shared.shutdown.track(maintenance::expire(Arc::clone(shared))));
    tasks.spawn(shared.shutdown.track(events::announce(Arc::clone(shared))));
    tasks.spawn(shared.shutdown.track(registration_watch::watch(Arc::clone(shared))));
    if let Err(error) = maintenance::watch_deletions(shared) {
        tracing::warn!("deleted cores are noticed only at the next start: {error}");
    }
    notifier.ready();
    let mut tick = interval(REFRESH);
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            Some(ended) = tasks.join_next() => break Err(DaemonError::TaskEnded(ended.err())),
            _ = hangup.recv() => {
                notifier.reloading();
                shared.reload();
                notifier.ready();
            }
            _ = tick.tick() => {
                shared.refresh_metrics();
                shared.readers.close_idle();
                notifier.status(&shared.status_line());
            }
        }
    };
    notifier.stopping();
    let begun = Instant::now();
    shared.shutdown.stop().await;
    // Whatever a task was in the middle of, the spool keeps.
    tasks.shutdown().await;
    shared.catalog.flush().await;
    tracing::info!("stopped after {} ms", begun.elapsed().as_millis());
    ended
}

/// Locks the state directory for this daemon (flock(2) on the directory itself, which works read-only).
fn lock_state(state: &Path) -> Result<File, DaemonError> {
    let failed = |error| DaemonError::State { path: state.to_owned(), error };
    let dir = File::open(state).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(dir),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => return Err(DaemonError::Locked(state.to_owned())),
            Err(TryLockError::Error(error)) => {
                // systemd runs one daemon.
                tracing::warn!("{}: it cannot be locked ({error}): a second daemon is not noticed", state.display());
                return Ok(dir);
            }
        }
    }
}
