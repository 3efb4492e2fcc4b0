//! Completes a core whose process has been released.

use super::chunk::{self, CoreSource};
use super::engine;
use super::engine_job::EngineJob;
use super::error::{CaptureError, StopReason};
use super::health::{Heartbeat, Supervision};
use super::snapshot::Snapshot;
use super::truncate::{TruncationInput, write_truncated};
use super::{CaptureResources, CapturedCore};
use crate::crash::Truncation;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Compresses what is left of a snapshot, or completes a truncated core.
///
/// # Errors
/// No core can be stored, or the work was cancelled.
pub fn finalize(
    snapshot: Snapshot,
    resources: &CaptureResources,
    heartbeat: &Heartbeat,
    cancelled: &CancellationToken,
) -> Result<CapturedCore, CaptureError> {
    let Snapshot {
        mut writer, staging, plan, next_chunk, chunks_end, mut spilled, mut truncation, notes, level, ..
    } = snapshot;
    // Not those of captures, which may all wait for memory that does not answer.
    let resources = &CaptureResources { compressors: resources.finalizers.clone(), ..resources.clone() };
    let supervision = Supervision { heartbeat, cancelled };
    let total_len = plan.layout.total_len;
    if next_chunk < chunks_end && truncation.is_none_or(Truncation::is_a_size) {
        let job = EngineJob {
            source: Arc::clone(&staging) as Arc<dyn CoreSource>,
            compress: true,
            limiter: None,
            spill: None,
            free_from: Some(Arc::clone(&staging)),
            chunks: next_chunk..chunks_end,
            total_len,
            level,
            deadline: None,
        };
        let outcome = engine::run(job, writer, resources, supervision);
        writer = outcome.writer;
        match outcome.stop {
            Some(StopReason::Failed(error)) => return Err(error),
            Some(StopReason::Truncated(reason)) => {
                truncation = Some(reason);
                spilled = (outcome.next_chunk..chunks_end).map(|number| chunk::range(number, total_len)).collect();
            }
            None => {}
        }
    }
    heartbeat.tick();
    if let Some(truncation) = truncation {
        let input = TruncationInput { plan: &plan, staging: &staging, spilled: &spilled, truncation, level };
        write_truncated(&mut writer, &input, resources, supervision)?;
    }
    Ok(CapturedCore { writer, expected_len: total_len, truncation, notes: Some(notes), staging: Some(staging) })
}
