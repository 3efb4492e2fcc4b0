//! The whole program: its socket comes from systemd.

use super::server;
use super::service::Service;
use crate::confine::confine_daemon;
use crate::report::start_log;
use clap::Parser;
use coreward_wire::paths::Root;
use listenfd::ListenFd;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Answers users and programs that ask for crashes (Varlink, io.coreward.Crashes). systemd starts it with its socket (coreward-query.socket).
#[derive(Debug, Parser)]
#[command(name = "coreward-query", version)]
struct Arguments {
    /// Directory below which every path lies; for tests.
    #[arg(long, value_name = "DIR", env = "COREWARD_ROOT", default_value = "/")]
    root: PathBuf,
}

/// Threads that read the catalog or wait for the daemon: one for each user who is served, the others wait.
const BLOCKING_THREADS: usize = 16;
/// How long the end waits for queries.
const THREADS_TIMEOUT: Duration = Duration::from_millis(200);

/// Runs the service until systemd stops it, or nobody needs it.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = start_log("coreward-query");
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.end_with(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    // Nothing after this executes a program or forks.
    if let Err(error) = confine_daemon() {
        tracing::warn!("system calls are restricted by the unit only: {error}");
    }
    let listener = inherit()?;
    let service = Arc::new(Service::new(Root::new(arguments.root)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve_until_stopped(listener, service));
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    ended
}

/// The socket that systemd hands over.
fn inherit() -> io::Result<UnixListener> {
    let missing =
        "no socket was handed over: start the service through systemd (systemctl start coreward-query.socket)";
    let listener = ListenFd::from_env().take_unix_listener(0)?.ok_or_else(|| io::Error::other(missing))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve_until_stopped(listener: UnixListener, service: Arc<Service>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    tokio::select! {
        () = server::serve(listener, Arc::clone(&service)) => {}
        () = service.watch() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
