//! The road of one crash through the daemon: triage, verdict, release, record, "done".

use super::connection::{Connection, ConnectionError};
use super::context::Context;
use super::giver::{Giver, held_us};
use super::memo::Memo;
use super::opened::{Opened, may_parse};
use super::triage::Triaged;
use super::{core, details, fds, opened, sight, stack, triage};
use crate::capture::Failure;
use crate::config::{Config, Storage};
use crate::crash::{CoreOutcome, CoreReport, Decision, Keep, NoCore, Origin, Reason, Record};
use crate::report::{self, ErrorKind};
use crate::store::{Inserted, core_file_name};
use coreward_wire::{DaemonMessage, FdKind, Offer, Request};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why a crash was not recorded. The shim keeps it, and offers it again or saves it alone.
#[derive(Debug, Error)]
pub(super) enum RoadError {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Catalog(#[from] crate::store::CatalogError),
    #[error("the daemon stops")]
    Stopping,
}

/// A live crash, from its offer to "done".
pub(super) async fn travel(context: &Arc<Context>, mut link: Connection, offer: Offer, fds: Vec<(FdKind, OwnedFd)>) {
    if offer.attempt > 1 {
        context.metrics.repeated_offers.inc();
    }
    if !offer.warnings.is_empty() && offer.pid.is_none() {
        context.metrics.error(ErrorKind::ShimArguments);
    }
    let core = match take(&mut link, &offer).await {
        Ok(core) => core,
        Err(error) => {
            tracing::warn!("intake: {error}");
            return context.metrics.error(ErrorKind::Connection);
        }
    };
    let pid = offer.pid.unwrap_or(0);
    let mut giver = Giver::Shim(link);
    match record(context, &mut giver, offer, core, fds).await {
        Ok(entry) => {
            // The record is durable: a shim that misses this word asks again and is told the same.
            let _ = giver.tell(&DaemonMessage::Done { journal: entry }).await;
        }
        Err(RoadError::Catalog(error)) => {
            tracing::error!("crash of process {pid}: {error}: its shim saves it in the spool");
            context.metrics.error(ErrorKind::Catalog);
            let _ = giver.tell(&DaemonMessage::Rejected { reason: error.to_string() }).await;
        }
        Err(RoadError::Stopping) => {}
        Err(RoadError::Connection(error)) => {
            tracing::warn!("crash of process {pid}: {error}");
            context.metrics.error(ErrorKind::Connection);
        }
    }
}

/// Tells the shim that its offer was read, and asks for the core of one that nobody had before.
async fn take(link: &mut Connection, offer: &Offer) -> Result<Option<OwnedFd>, ConnectionError> {
    if offer.attempt > 1 || offer.released {
        return link.send(&DaemonMessage::Taken).await.map(|()| None);
    }
    link.ask_for_fd_after(&[DaemonMessage::Taken], Request::Core).await
}

/// Records a crash, whoever gives it; returns its entry for the journal. When this returns, the row is durable.
pub(super) async fn record(
    context: &Arc<Context>,
    giver: &mut Giver,
    offer: Offer,
    core: Option<OwnedFd>,
    mut fds: Vec<(FdKind, OwnedFd)>,
) -> Result<Vec<u8>, RoadError> {
    let id = triage::key(&offer).id();
    let turn = context.turn(&id);
    let _turn = turn.lock().await;
    let again = offer.attempt > 1 || giver.origin() == Origin::Spool;
    if let Some(known) = if again { context.catalog.find(id).await? } else { None } {
        return Ok(report::entry(&known, core_path(context, &known).as_deref()));
    }
    if let Some(error) = context.catalog.unavailable() {
        return Err(error.into());
    }
    if let Some(memo) = Memo::read(&offer.checkpoint) {
        drop(core);
        let record = core::go_on(context, giver, &offer, memo, fds).await?;
        return finish(context, giver, record).await;
    }
    let (mut triaged, opened) = look(context, giver, &offer, core, &mut fds).await?;
    let config = context.config_for(&triaged.record);
    triaged.record.decision = decide(context, &config, &triaged.record, opened.is_some());
    match without_core(triaged.record.decision) {
        Some(reason) => {
            match reason {
                // Ten thousand times the same would only fill the catalog.
                NoCore::Storm | NoCore::Rate => triaged.record.shorten(),
                NoCore::Gone => {}
                _ => {
                    details::complete(giver, &mut triaged.record, &mut fds).await?;
                    triaged.record.open_fds.clear();
                }
            }
            triaged.record.held_us = held_us(&offer, giver);
            triaged.record.core = CoreReport::none(reason);
            // The process ends when nobody has its pipe any more.
            drop((opened, fds));
            // Nothing is published, so nobody has to agree; the shim keeps the record for the next daemon.
            let kept = Memo { record: triaged.record.clone(), reader: None, core: None }.write();
            giver.tell(&DaemonMessage::Release { checkpoint: kept, fds: Vec::new(), quiet: true }).await?;
        }
        None => {
            let opened = opened.unwrap_or(Err(Failure::Empty));
            triaged.record.core = core::store(context, giver, &offer, &mut triaged, &config, opened, fds).await?;
        }
    }
    finish(context, giver, triaged.record).await
}

/// All that is known of the crash before anything is decided, and its core, if there is one.
async fn look(
    context: &Context,
    giver: &mut Giver,
    offer: &Offer,
    mut core: Option<OwnedFd>,
    fds: &mut Vec<(FdKind, OwnedFd)>,
) -> Result<(Triaged, Option<Result<Opened, Failure>>), RoadError> {
    if core.is_none() && giver.has_core(offer) {
        core = giver.core().await?;
    }
    let before = fds::take(fds, FdKind::Head);
    let in_pipe = core.as_ref().filter(|_| giver.origin() == Origin::Live && before.is_none() && may_parse(offer));
    let sight = sight::see(context, offer, fds, in_pipe).await;
    let mut triaged = triage::triage(offer, sight.memory, giver.origin());
    let opened = match core {
        Some(core) => Some(opened::open(context, giver, offer, core, before, sight.head).await?),
        None => None,
    };
    let looked = match (&opened, sight.looked) {
        (Some(Ok(opened)), None) if sight.is_whole => {
            stack::look(context, &mut triaged.record, opened, fds::copy(fds, FdKind::Mem)).await
        }
        (_, looked) => looked,
    };
    if !sight.is_whole {
        triaged.record.warnings.push(stack::NOT_IN_TIME.to_owned());
    }
    stack::put(&mut triaged.record, looked);
    Ok((triaged, opened))
}

/// How much of a crash is kept.
fn decide(context: &Context, config: &Config, record: &Record, has_core: bool) -> Decision {
    let reason = match config.storage {
        _ if !has_core => Reason::Gone,
        Storage::None => Reason::Configured,
        _ if config.enforce_core_limit && record.core_limit == 0 => Reason::Limit,
        Storage::Stacks => {
            let decision = context.decide(config, record);
            let keep = decision.keep.min(Keep::Stacks);
            return if keep == decision.keep { decision } else { Decision { keep, reason: Reason::Configured } };
        }
        Storage::External => return context.decide(config, record),
    };
    Decision { keep: Keep::Record, reason }
}

/// Why no core is kept, if so.
fn without_core(decision: Decision) -> Option<NoCore> {
    if decision.keep > Keep::Record {
        return None;
    }
    Some(match decision.reason {
        Reason::Gone => NoCore::Gone,
        Reason::Configured => NoCore::Configured,
        Reason::Limit => NoCore::Limit,
        Reason::UnitRate | Reason::UserRate | Reason::TotalRate => NoCore::Rate,
        _ => NoCore::Storm,
    })
}

async fn finish(context: &Arc<Context>, giver: &mut Giver, record: Record) -> Result<Vec<u8>, RoadError> {
    let entry = report::entry(&record, core_path(context, &record).as_deref());
    if let Inserted::Counted(count) = context.catalog.insert(record.clone()).await? {
        context.metrics.crash(&record, &count);
        context.recorded_one();
        if matches!(record.core.outcome, CoreOutcome::None(NoCore::Storm | NoCore::Rate)) {
            context.metrics.storm_suppressed.inc();
        }
        if giver.origin() == Origin::Live {
            context.metrics.held.observe(Duration::from_micros(record.held_us).as_secs_f64());
        }
    }
    Ok(entry)
}

fn core_path(context: &Context, record: &Record) -> Option<PathBuf> {
    record.core.is_stored().then(|| context.root.state_dir().join("cores").join(core_file_name(&record.id)))
}
