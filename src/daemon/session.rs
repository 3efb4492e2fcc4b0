//! One crash: from its offer to the answer. The stages are those of ARCHITECTURE.md; each consumes what the one before returned.

use super::blocking::run_blocking;
use super::capture::{self, AdmittedCrash, held};
use super::checkpoint::Checkpoint;
use super::complete::{add_details, add_interpreter, add_names, complete};
use super::connection::ConnectionError;
use super::crash_source::CrashSource;
use super::error::SessionError;
use super::evidence::CoreEvidence;
use super::identity::{CrashIdentity, crash_time, identify};
use super::inspect::inspect;
use super::local_users;
use super::modules::{ModuleFiles, store_modules};
use super::naming::{UnnamedFrames, name_from_files, unnamed_frames};
use super::owners::find_owners;
use super::process_handles::ProcessHandles;
use super::record_builder::RecordBuilder;
use super::shared::{Shared, lock};
use crate::crash::{CoreOutcome, CoreReport, Keep, NoCore, Origin, Record};
use crate::policy::access;
use crate::policy::admission::Admission;
use crate::report::{self, ErrorKind};
use crate::store::{Inserted, core_file_name};
use coreward_sys::clock;
use coreward_wire::{DaemonMessage, FdKind, Offer};
use nix::unistd::{Pid, Uid};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing::Instrument;

/// A crash that is being recorded.
pub(super) struct Session {
    shared: Arc<Shared>,
    source: CrashSource,
    offer: Offer,
    identity: CrashIdentity,
}

impl Session {
    /// A session about the crash that `source` offers.
    pub(super) fn new(shared: &Arc<Shared>, source: CrashSource, offer: Offer) -> Self {
        let identity = identify(&offer);
        Self { shared: Arc::clone(shared), source, offer, identity }
    }

    /// A live crash: records it and answers its shim.
    pub(super) async fn serve(mut self, descriptors: Vec<(FdKind, OwnedFd)>) {
        let span = self.span();
        async {
            if self.offer.attempt > 1 {
                self.shared.metrics.repeated_offers.inc();
            }
            if !self.offer.warnings.is_empty() && self.offer.pid.is_none() {
                self.shared.metrics.error(ErrorKind::ShimArguments);
            }
            let recorded = match self.source.accept(&self.offer).await {
                Ok(core) => self.record(core, descriptors).await,
                Err(error) => Err(error.into()),
            };
            self.answer(recorded).await;
        }
        .instrument(span)
        .await;
    }

    /// A spooled crash: records it. Returns its entry for the journal.
    ///
    /// # Errors
    /// It could not be recorded and stays in the spool.
    pub(super) async fn import(mut self) -> Result<Vec<u8>, SessionError> {
        Ok(self.record(None, Vec::new()).await?.journal)
    }

    /// Every log line of a session has the crash's id and PID.
    pub(super) fn span(&self) -> tracing::Span {
        let CrashIdentity { key, id } = &self.identity;
        tracing::error_span!("crash", COREWARD_ID = %id, COREWARD_PID = key.pid.as_raw())
    }

    /// Stages 1 to 7. When this returns, the record is durable.
    async fn record(
        &mut self,
        core: Option<OwnedFd>,
        descriptors: Vec<(FdKind, OwnedFd)>,
    ) -> Result<Recorded, SessionError> {
        let Self { shared, source, offer, identity } = self;
        // Identify: one session at a time works on a crash.
        let crash_lock = shared.crash_lock(&identity.id);
        let free = Arc::clone(&crash_lock).try_lock_owned().ok();
        let _crash_lock = if let Some(lock) = free {
            lock
        } else {
            tokio::select! {
                biased;
                lock = crash_lock.lock_owned() => lock,
                () = shared.shutdown.stopped() => return Err(SessionError::Stopping),
                // The other session goes on with the crash; this shim has gone.
                () = source.keep_alive() => return Err(SessionError::Stopping),
            }
        };
        let may_be_known = offer.attempt > 1 || source.origin() == Origin::Spool;
        if let Some(known) = if may_be_known { shared.catalog.find(identity.id.clone()).await? } else { None } {
            return Ok(recorded(shared, &known).await);
        }
        if let Some(error) = shared.catalog.unavailable() {
            return Err(error.into());
        }
        let mut handles = ProcessHandles::new(offer, descriptors);
        if let Some(checkpoint) = Checkpoint::decode(&offer.checkpoint) {
            drop(core);
            let record = capture::resume(shared, source, offer, checkpoint, handles.checkpoint).await?;
            return self.commit(record, None).await;
        }
        handles.set_place(capture::take_place(shared, source, offer).await?);
        let (evidence, core) = inspect(shared, source, offer, &mut handles, core).await?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let time = crash_time(offer, source.origin(), now, clock::since_boot());
        let mut builder = RecordBuilder::new(identity.clone(), offer, evidence, source.origin(), time, &shared.host);
        let config = shared.config_for(builder.unit(), &builder.program());
        let admission = shared.admit(&config.admission(), &builder, core.exists());
        builder.set_decision(admission.decision());
        let mut modules = None;
        let record = match admission {
            Admission::RecordOnly { no_core, is_repeated, .. } => {
                self.release_without_core(builder, no_core, is_repeated, core, handles).await?
            }
            Admission::Core(decision) => {
                let stream = if let CoreEvidence::Ready(stream) = &core { Some(stream) } else { None };
                complete(shared, source, offer, &mut builder, &mut handles, stream, config.modules).await?;
                let unnamed = unnamed_frames(&builder, &handles.modules, handles.perf_map.take());
                let files = std::mem::take(&mut handles.modules);
                modules = Some(ModuleFiles { policy: config.modules, files });
                let stacks_only = decision.keep == Keep::Stacks;
                let admitted = AdmittedCrash { builder, config, stacks_only, core, handles, unnamed };
                // Apart from the session, which would else be as large for the many crashes that keep no core.
                Box::pin(capture::capture(shared, source, offer, admitted)).await?
            }
        };
        self.commit(record, modules).await
    }

    /// Releases the process of a crash of which only the record is kept.
    async fn release_without_core(
        &mut self,
        mut builder: RecordBuilder,
        reason: NoCore,
        is_repeated: bool,
        core: CoreEvidence,
        mut handles: ProcessHandles,
    ) -> Result<Record, ConnectionError> {
        let mut unnamed = UnnamedFrames::default();
        match reason {
            // Ten thousand records with the same texts would only fill the catalog.
            _ if is_repeated => builder.omit_repeated(),
            NoCore::Gone => {}
            _ => {
                add_details(&mut self.source, &mut builder, &mut handles, false).await?;
                let stream = if let CoreEvidence::Ready(stream) = &core { Some(stream) } else { None };
                builder.omit_tables();
                add_interpreter(&self.shared, &mut builder, &mut handles, stream).await;
                add_names(&self.shared, &mut self.source, &mut builder, &mut handles, stream, Vec::new()).await?;
                unnamed = unnamed_frames(&builder, &handles.modules, None);
            }
        }
        builder.set_held(held(&self.offer, &self.source));
        let (scope, place) = (handles.memory.readers().cloned(), handles.place.clone());
        let unowned = std::mem::take(&mut handles.unowned);
        let unfinished = if unnamed.is_empty() && unowned.is_empty() { None } else { Some(builder.clone()) };
        let record = builder.finish(CoreReport::none(reason));
        // The process ends when nobody has its pipe open any more.
        drop(core);
        handles.close(&self.shared.readers);
        // Nothing is published, so the shim need not confirm it; it keeps the record for the next daemon.
        self.source.release(Checkpoint::of_record(&record).encode()).await?;
        let Some(mut builder) = unfinished else { return Ok(record) };
        let names = name_from_files(&self.shared, scope, place, unnamed);
        let (names, owners) = tokio::join!(names, find_owners(&self.shared, unowned));
        names.add_to(&mut builder);
        builder.set_owners(owners);
        Ok(builder.finish(CoreReport::none(reason)))
    }

    /// Writes the record to the catalog and counts the crash. Its modules are stored after that.
    async fn commit(&mut self, record: Record, modules: Option<ModuleFiles>) -> Result<Recorded, SessionError> {
        let Self { shared, source, .. } = self;
        let recorded = recorded(shared, &record).await;
        let record = Arc::new(record);
        let inserted = shared.catalog.insert(Arc::clone(&record)).await?;
        if inserted == Inserted::Dumped {
            shared.metrics.dump(&record);
            shared.refresh_metrics();
        }
        if let Inserted::Counted(counted) = inserted {
            if counted.new_bug {
                shared.metrics.new_signature(record.time_us);
                shared.new_bugs.notify_one();
            }
            shared.metrics.crash(&record);
            shared.count_recorded();
            if matches!(record.core.outcome, CoreOutcome::None(NoCore::Storm | NoCore::Rate)) {
                shared.metrics.storm_suppressed.inc();
            }
            if source.holds_process() {
                shared.metrics.held.observe(Duration::from_micros(record.held_us).as_secs_f64());
            }
        }
        if let Some(modules) = modules {
            store_modules(shared, &record, recorded.user, modules);
        }
        Ok(recorded)
    }

    /// Stage 8: answers the shim.
    async fn answer(&mut self, recorded: Result<Recorded, SessionError>) {
        let Self { shared, source, offer, .. } = self;
        let pid = offer.pid.map_or(0, Pid::as_raw);
        match recorded {
            Ok(Recorded { journal, user }) => {
                // The record is durable: a shim that misses this message offers the crash again and is answered the same.
                let _ = source.send(&DaemonMessage::Done { journal, user }).await;
            }
            Err(SessionError::Catalog(error)) => {
                tracing::error!("crash of process {pid}: {error}: its shim saves it in the spool");
                shared.metrics.error(ErrorKind::Catalog);
                let _ = source.send(&DaemonMessage::Unavailable { reason: error.to_string() }).await;
            }
            // The shim offers the crash to the next daemon.
            Err(SessionError::Stopping | SessionError::NoPlace) => {}
            Err(SessionError::Connection(error)) => {
                tracing::warn!("crash of process {pid}: {error}");
                shared.metrics.error(ErrorKind::Connection);
            }
        }
    }
}

/// What the shim is told of a crash whose record is durable.
struct Recorded {
    /// The entry for the journal, with the path of the core where there is one.
    journal: Vec<u8>,
    /// In whose journal it belongs besides root's.
    user: Option<Uid>,
}

async fn recorded(shared: &Shared, record: &Record) -> Recorded {
    let core = record.core.is_stored().then(|| shared.root.state_dir().join("cores").join(core_file_name(&record.id)));
    Recorded { journal: report::entry(record, core.as_deref()), user: owner(shared, record).await }
}

/// The user whose own crash this is: who may read its core, whether or not there is one.
async fn owner(shared: &Shared, record: &Record) -> Option<Uid> {
    let (uid, gid) = (access::reader_of(record)?, record.gid);
    let known = lock(&shared.own_processes).get(uid, gid);
    let is_own = match known {
        Some(is_own) => is_own,
        None => {
            let root = shared.root.clone();
            let is_own = run_blocking(move || local_users::check(&root, uid, gid).is_ok()).await.unwrap_or(false);
            lock(&shared.own_processes).insert(uid, gid, is_own);
            is_own
        }
    };
    is_own.then_some(uid)
}
