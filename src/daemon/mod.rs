//! Start-up order, the inherited sockets, admission, watchdog, reload, shutdown: the room that knows everybody.

mod connection;
mod context;
mod core;
mod details;
mod fds;
mod giver;
mod intake;
mod look;
mod memo;
mod notify;
mod opened;
mod others;
mod probe;
mod road;
mod sight;
mod sockets;
mod spool;
mod stack;
mod triage;
mod upkeep;

use crate::report::{LogGuard, Metrics, serve, start_log};
use crate::store::Layout;
use clap::Parser;
use context::Context;
use coreward_wire::paths::Root;
use notify::Notifier;
use sockets::Sockets;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

/// The crash collector's daemon. systemd starts it with its sockets (coreward.socket, coreward-metrics.socket).
#[derive(Debug, Parser)]
#[command(name = "corewardd", version)]
pub struct Arguments {
    /// Directory below which every path lies; for tests.
    #[arg(long, value_name = "DIR", env = "COREWARD_ROOT", default_value = "/")]
    root: PathBuf,
}

/// How long an earlier daemon on the same state may take to end.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// How long a stop waits for captures that are nearly done; the shims offer the others to the next daemon.
const GRACE: Duration = Duration::from_secs(10);
/// How often gauges, spool and status are looked after.
const TICK: Duration = Duration::from_secs(5);

/// Why the daemon can't begin.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{path}: {error}")]
    State { path: PathBuf, error: std::io::Error },
    #[error("another corewardd is at work on {0}: stop it first (systemctl stop coreward.service)")]
    Locked(PathBuf),
    #[error("{0}")]
    Sockets(#[from] sockets::SocketError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = start_log();
    let ended = run(arguments);
    finish(ended, log)
}

fn finish(ended: Result<(), StartError>, log: LogGuard) -> ExitCode {
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    drop(log);
    code
}

fn run(arguments: Arguments) -> Result<(), StartError> {
    // The order matters: names before listenfd takes the variables, everything before threads.
    let sockets = Sockets::inherit()?;
    let watchdog = sd_notify::watchdog_enabled();
    let root = Root::new(arguments.root);
    let layout = Layout::new(&root);
    let _lock = lock(&root.state_dir())?;
    let metrics = Metrics::new()?;
    let context = Context::start(root, &layout, metrics)?;
    let notifier = Notifier::start(watchdog, context.health.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(serve_until_stopped(sockets, Arc::clone(&context), &notifier));
    // What hangs (a process' memory on a dead mount) is left behind.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

async fn serve_until_stopped(sockets: Sockets, context: Arc<Context>, notifier: &Notifier) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (intake, metrics) = sockets.into_tokio()?;
    if let Some(listener) = metrics {
        tokio::spawn(serve(listener, context.metrics.clone()));
    }
    // Every conversation holds a clone; when the last is gone, all are done.
    let (alive, mut all_done) = mpsc::channel::<()>(1);
    let accepting = tokio::spawn(intake::accept(intake, Arc::clone(&context), alive.clone()));
    let spool = tokio::spawn(spool::take_in(Arc::clone(&context), alive));
    tokio::spawn(upkeep::expire(Arc::clone(&context)));
    if let Err(error) = upkeep::watch_deletions(&context) {
        tracing::warn!("cores that others delete are noticed at the next start only: {error}");
    }
    notifier.ready();
    let mut tick = interval(TICK);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                notifier.reloading();
                context.reload();
                notifier.ready();
            }
            _ = tick.tick() => {
                context.refresh();
                notifier.status(&context.status());
            }
        }
    }
    notifier.stopping();
    accepting.abort();
    context.stop();
    let begun = Instant::now();
    if timeout(GRACE, all_done.recv()).await.is_err() {
        tracing::warn!(
            "captures are still running after {} s: the shims offer them to the next daemon",
            GRACE.as_secs()
        );
        context.cancel_all();
        let _ = timeout(Duration::from_secs(2), all_done.recv()).await;
    }
    spool.abort();
    context.catalog.flush().await;
    tracing::info!("stopped after {} ms", begun.elapsed().as_millis());
    Ok(())
}

/// Takes the state directory for this daemon alone (flock(2) on the directory itself, which works read-only).
fn lock(state: &Path) -> Result<File, StartError> {
    let failed = |error| StartError::State { path: state.to_owned(), error };
    let dir = File::open(state).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(dir),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WITHIN => {
                std::thread::sleep(Duration::from_millis(50))
            }
            Err(TryLockError::WouldBlock) => return Err(StartError::Locked(state.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}
