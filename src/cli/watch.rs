//! `coreward watch`: crashes as they are recorded.

use super::crash_columns::ColumnOptions;
use super::crash_filter::CrashFilter;
use super::crash_table::{CrashTable, ShownColumns};
use super::error::CliError;
use super::message::print_message;
use super::titles::Titles;
use super::{human, json, lookup, time};
use crate::crash::CrashId;
use crate::query::{Client, ClientError, Subscription};
use crate::store::{CrashSummary, Filter, Follower, Listed, QueryError};
use clap::Args;
use coreward_wire::paths::Root;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
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
    #[command(flatten)]
    columns: ColumnOptions,
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
/// How often the service is asked again when it has ended, and the pause before each time.
const ATTEMPTS: usize = 10;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);
/// A crash may be recorded this long after it happened, while nobody listened.
const LATE_US: u64 = 60_000_000;

/// Follows the catalog until it is interrupted, or nobody reads the output any more.
pub(super) fn run(root: &Root, options: WatchOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let WatchOptions { filter, limit, columns, no_legend, json } = options;
    let filter = filter.into_filter(None);
    let shown = ShownColumns::one_by_one(columns.chosen());
    let mut output = Output::new(root, json, &shown);
    if lookup::is_incomplete(root) {
        print_message(lookup::INCOMPLETE);
    }
    // It finds what is recorded from here on, also while the older ones are listed.
    let mut source = Source::start(root, &filter)?;
    if !no_legend && !json {
        output.write_header(out)?;
    }
    let limit = limit.or(if filter.since_us.is_some() { None } else { Some(0) });
    let earlier = match (limit, lookup::list(root, &Filter { limit, ..filter.clone() })) {
        (Some(0), _) | (_, Err(CliError::Query(QueryError::NoCatalog(_)))) => Vec::new(),
        (_, crashes) => crashes?,
    };
    output.write(&earlier, out)?;
    out.flush()?;
    let known: HashSet<CrashId> = earlier.into_iter().map(|listed| listed.record.id).collect();
    if io::stdout().is_terminal() && io::stderr().is_terminal() {
        print_message("Waiting for crashes. Ctrl-C ends this.");
    }
    while filter.until_us.is_none_or(|until_us| until_us >= time::now_us()) {
        let mut crashes = source.poll()?;
        crashes.retain(|listed| !known.contains(listed.id()));
        if !crashes.is_empty() {
            output.write(&crashes, out)?;
            out.flush()?;
        }
        if !source.wait()? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where new crashes come from.
enum Source {
    /// The catalog, or the cores that this user can read.
    Store(Box<Follower>, Changes),
    Service(Box<ServiceFollower>),
}

impl Source {
    fn start(root: &Root, filter: &Filter) -> Result<Self, CliError> {
        match lookup::service(root)? {
            Some(client) => Ok(Self::Service(Box::new(ServiceFollower::start(root, filter, client)?))),
            None => {
                let changes = Changes::of(root);
                Ok(Self::Store(Box::new(Follower::start(root, filter.clone())?), changes))
            }
        }
    }

    /// The crashes that are new since the start or the last call.
    fn poll(&mut self) -> Result<Vec<Listed>, CliError> {
        match self {
            Self::Store(follower, _) => Ok(follower.poll()?),
            Self::Service(follower) => follower.poll(),
        }
    }

    /// Waits for a change, or a while. Returns whether somebody still reads the output.
    fn wait(&self) -> io::Result<bool> {
        match self {
            Self::Store(_, changes) => changes.wait(),
            Self::Service(follower) if follower.subscription.is_ready() => Ok(true),
            Self::Service(follower) => wait_for(Some(follower.subscription.as_fd())),
        }
    }
}

/// Crashes that the service tells of, for those who may not read the catalog.
struct ServiceFollower {
    root: Root,
    filter: Filter,
    subscription: Subscription,
    /// When the service last answered, microseconds since 1970.
    heard_us: u64,
    /// The crashes that need not be shown any more.
    known: HashSet<CrashId>,
}

impl ServiceFollower {
    fn start(root: &Root, filter: &Filter, client: Client) -> Result<Self, CliError> {
        let heard_us = time::now_us();
        let subscription = client.subscribe(filter)?;
        let mut follower =
            Self { root: root.clone(), filter: filter.clone(), subscription, heard_us, known: HashSet::new() };
        let recent = follower.recent()?;
        follower.known.extend(recent.into_iter().map(|listed| listed.record.id));
        Ok(follower)
    }

    fn poll(&mut self) -> Result<Vec<Listed>, CliError> {
        if !self.subscription.is_ready() && !is_readable(self.subscription.as_fd())? {
            self.heard_us = time::now_us();
            return Ok(Vec::new());
        }
        let mut found = match self.subscription.receive() {
            Ok(crashes) => self.records_of(&crashes)?,
            // It was upgraded, or somebody stopped it: its socket starts it again.
            Err(ClientError::Io(error)) => self.subscribe_again(error)?,
            Err(error) => return Err(error.into()),
        };
        self.heard_us = time::now_us();
        found.retain(|listed| self.known.insert(listed.record.id.clone()));
        Ok(found)
    }

    fn records_of(&self, crashes: &[CrashSummary]) -> Result<Vec<Listed>, CliError> {
        let mut found = Vec::new();
        for crash in crashes {
            match lookup::find(&self.root, Some(&crash.id)) {
                Ok(listed) => found.push(listed),
                // It was rolled up since.
                Err(CliError::NoMatch { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Returns what was recorded in the meantime.
    fn subscribe_again(&mut self, ended: io::Error) -> Result<Vec<Listed>, CliError> {
        for _ in 0..ATTEMPTS {
            sleep(ATTEMPT_PAUSE);
            let Ok(Some(client)) = lookup::service(&self.root) else { continue };
            let Ok(subscription) = client.subscribe(&self.filter) else { continue };
            self.subscription = subscription;
            return self.recent();
        }
        Err(ClientError::Io(ended).into())
    }

    /// The crashes of which the service may not have told.
    fn recent(&self) -> Result<Vec<Listed>, CliError> {
        let since_us = self.heard_us.saturating_sub(LATE_US).max(self.filter.since_us.unwrap_or_default());
        lookup::list(&self.root, &Filter { since_us: Some(since_us), limit: None, ..self.filter.clone() })
    }
}

/// How crashes are shown.
struct Output<'a> {
    json: bool,
    /// The name of this host.
    here: String,
    shown: &'a ShownColumns,
    titles: Titles<'a>,
}

impl<'a> Output<'a> {
    fn new(root: &'a Root, json: bool, shown: &'a ShownColumns) -> Self {
        let here = human::host_name();
        Self { json, here, shown, titles: Titles::new(root) }
    }

    fn write_header(&mut self, out: &mut dyn Write) -> io::Result<()> {
        CrashTable::stream(&[], &self.here, self.shown, &mut self.titles)?.write_stream(out, true)
    }

    fn write(&mut self, crashes: &[Listed], out: &mut dyn Write) -> io::Result<()> {
        if !self.json {
            return CrashTable::stream(crashes, &self.here, self.shown, &mut self.titles)?.write_stream(out, false);
        }
        crashes.iter().try_for_each(|listed| json::write(out, &self.titles.with_title(listed)))
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

    fn wait(&self) -> io::Result<bool> {
        if !wait_for(self.0.as_ref().map(AsFd::as_fd))? {
            return Ok(false);
        }
        if let Some(inotify) = &self.0 {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        sleep(PAUSE);
        Ok(true)
    }
}

/// Waits until `source` can be read, or a while. Returns whether somebody still reads the output.
fn wait_for(source: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    let stdout = io::stdout();
    // No event is asked of standard output: that its reader is gone is always told.
    let mut polled = vec![PollFd::new(stdout.as_fd(), PollFlags::empty())];
    polled.extend(source.map(|source| PollFd::new(source, PollFlags::POLLIN)));
    match poll(&mut polled, PollTimeout::from(INTERVAL_MS)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ended = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    Ok(!polled[0].revents().is_some_and(|events| events.intersects(ended)))
}

fn is_readable(source: BorrowedFd<'_>) -> io::Result<bool> {
    match poll(&mut [PollFd::new(source, PollFlags::POLLIN)], PollTimeout::ZERO) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
