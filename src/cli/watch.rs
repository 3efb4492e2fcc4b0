//! `coreward watch`: crashes as they are recorded.

use super::crash_filter::CrashFilter;
use super::crash_table::CrashTable;
use super::error::CliError;
use super::message::print_message;
use super::{json, time};
use crate::crash::CrashId;
use crate::store::{self, Filter, Follower, Listed, QueryError};
use clap::Args;
use coreward_wire::paths::Root;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::utsname::uname;
use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// Options of `watch`.
#[derive(Args, Debug)]
pub(super) struct WatchOptions {
    #[command(flatten)]
    filter: CrashFilter,
    /// Begin with the newest N crashes that are recorded already [default: 0, or all since --since]
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Omit the line with the names of the columns
    #[arg(long)]
    no_legend: bool,
    /// Show each record as a JSON object on a line of its own
    #[arg(long)]
    json: bool,
}

/// How long a change may go unnoticed: where inotify(7) is not available, and of a catalog that is read over a network.
const INTERVAL_MS: u16 = 1000;
/// The least time between two looks at the catalog: in a storm it changes all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// Follows the catalog until it is interrupted, or nobody reads the output any more.
pub(super) fn run(root: &Root, options: WatchOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let WatchOptions { filter, limit, no_legend, json } = options;
    let filter = filter.into_filter(None);
    let output = Output::new(json);
    let changes = Changes::of(root);
    // It finds what is recorded from here on, also while the older ones are listed.
    let mut follower = Follower::start(root, filter.clone())?;
    if !no_legend && !json {
        output.write_header(out)?;
    }
    let limit = limit.or(if filter.since_us.is_some() { None } else { Some(0) });
    let earlier = match (limit, store::list(root, &Filter { limit, ..filter.clone() })) {
        (Some(0), _) | (_, Err(QueryError::NoCatalog(_))) => Vec::new(),
        (_, crashes) => crashes?,
    };
    output.write(&earlier, out)?;
    out.flush()?;
    let known: HashSet<CrashId> = earlier.into_iter().map(|listed| listed.record.id).collect();
    if io::stdout().is_terminal() && io::stderr().is_terminal() {
        print_message("Waiting for crashes. Ctrl-C ends this.");
    }
    while filter.until_us.is_none_or(|until_us| until_us >= time::now_us()) {
        let mut crashes = follower.poll()?;
        crashes.retain(|listed| !known.contains(listed.id()));
        if !crashes.is_empty() {
            output.write(&crashes, out)?;
            out.flush()?;
        }
        if !changes.wait()? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How crashes are shown.
struct Output {
    json: bool,
    /// The name of this host.
    here: String,
}

impl Output {
    fn new(json: bool) -> Self {
        let here = uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        Self { json, here }
    }

    fn write_header(&self, out: &mut dyn Write) -> io::Result<()> {
        CrashTable::stream(&[], &self.here).write_stream(out, true)
    }

    fn write(&self, crashes: &[Listed], out: &mut dyn Write) -> io::Result<()> {
        if !self.json {
            return CrashTable::stream(crashes, &self.here).write_stream(out, false);
        }
        crashes.iter().try_for_each(|listed| json::write(out, listed))
    }
}

/// Notices that the catalog may have changed, and that nobody reads the output any more.
struct Changes(Option<Inotify>);

impl Changes {
    fn of(root: &Root) -> Self {
        let watch = || -> nix::Result<Inotify> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            // The journal of the catalog is written there, and cores are published below.
            let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            inotify.add_watch(&root.state_dir(), changes)?;
            Ok(inotify)
        };
        Self(watch().ok())
    }

    /// Waits for a change, or a while. Returns whether somebody still reads the output.
    fn wait(&self) -> io::Result<bool> {
        let stdout = io::stdout();
        // No event is asked of standard output: that its reader is gone is always told.
        let mut polled = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
        polled.extend(self.0.as_ref().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut polled, PollTimeout::from(INTERVAL_MS)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        if polled[0].revents().is_some_and(|events| events.intersects(ended)) {
            return Ok(false);
        }
        if let Some(inotify) = &self.0 {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        sleep(PAUSE);
        Ok(true)
    }
}
