//! The text of all metrics for scrapers: fresh for each, made once for those that wait for it, and no faster than a part of one processor.

use super::metrics::Metrics;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use prometheus::{Encoder, TextEncoder};
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep_until;

/// KiB of text that scrapers have not read yet. A single text may be larger, if nobody reads another.
const UNREAD: u32 = 32 << 10;
/// After the making of a text this many times as long is rested: at most a quarter of a processor makes texts.
const REST: u32 = 3;

/// Why there is no text.
#[derive(Debug, Error)]
pub(super) enum SnapshotError {
    #[error("{0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{0}")]
    Gzip(#[from] std::io::Error),
}

/// Makes the texts.
pub(super) struct Snapshots {
    metrics: Metrics,
    /// Who makes a text holds it; those who wait for it meanwhile share the next one.
    latest: Mutex<Latest>,
    unread: Arc<Semaphore>,
}

#[derive(Default)]
struct Latest {
    snapshot: Option<Snapshot>,
    /// Not earlier than this the next one is made.
    rest_until: Option<Instant>,
}

struct Snapshot {
    /// When the metrics were looked at, or shortly before.
    at: Instant,
    plain: Bytes,
    gzip: Option<Bytes>,
}

impl Snapshots {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, latest: Mutex::default(), unread: Arc::new(Semaphore::new(UNREAD as usize)) }
    }

    /// The metrics as they are now, or a moment later. `None`: too much has not been read yet.
    pub(super) async fn newest(&self, gzip: bool) -> Result<Option<Bytes>, SnapshotError> {
        let wanted = Instant::now();
        let mut latest = self.latest.lock().await;
        if latest.snapshot.as_ref().is_none_or(|snapshot| snapshot.at < wanted) {
            latest.snapshot = None;
            rest(&latest).await;
            let at = Instant::now();
            let mut text = Vec::new();
            TextEncoder::new().encode(&self.metrics.families(), &mut text)?;
            latest.rest_until = Some(Instant::now() + at.elapsed() * REST);
            let Some(plain) = self.account(text) else { return Ok(None) };
            latest.snapshot = Some(Snapshot { at, plain, gzip: None });
        }
        let Some(Snapshot { plain, gzip: known, .. }) = &latest.snapshot else { return Ok(None) };
        if !gzip || known.is_some() {
            return Ok(if gzip { known.clone() } else { Some(plain.clone()) });
        }
        let plain = plain.clone();
        rest(&latest).await;
        let begun = Instant::now();
        let compressed = self.account(compress(&plain)?);
        latest.rest_until = Some(Instant::now() + begun.elapsed() * REST);
        if let Some(snapshot) = &mut latest.snapshot {
            snapshot.gzip.clone_from(&compressed);
        }
        Ok(compressed)
    }

    /// Counts the bytes as unread until nobody has them any more. `None`: there are too many.
    fn account(&self, bytes: Vec<u8>) -> Option<Bytes> {
        struct Unread(Vec<u8>, #[expect(dead_code, reason = "it is given back with the bytes")] OwnedSemaphorePermit);
        impl AsRef<[u8]> for Unread {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let kib = u32::try_from(bytes.len() / 1024 + 1).unwrap_or(UNREAD).min(UNREAD);
        let permit = Arc::clone(&self.unread).try_acquire_many_owned(kib).ok()?;
        Some(Bytes::from_owner(Unread(bytes, permit)))
    }
}

async fn rest(latest: &Latest) {
    if let Some(until) = latest.rest_until {
        sleep_until(until.into()).await;
    }
}

/// At the fastest level: it makes a tenth of this text.
fn compress(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn snapshots() -> Snapshots {
        Snapshots::new(Metrics::new().unwrap())
    }

    #[tokio::test]
    async fn a_text_is_as_new_as_its_request() {
        let snapshots = snapshots();
        for count in 1..4 {
            snapshots.metrics.repeated_offers.inc();
            let text = snapshots.newest(false).await.unwrap().unwrap();
            let line = format!("\ncoreward_repeated_offers_total {count}\n");
            assert!(String::from_utf8(text.to_vec()).unwrap().contains(&line), "{line}");
        }
    }

    #[tokio::test]
    async fn the_compressed_text_is_the_same() {
        let snapshots = snapshots();
        let compressed = snapshots.newest(true).await.unwrap().unwrap();
        let mut text = String::new();
        GzDecoder::new(&*compressed).read_to_string(&mut text).unwrap();
        assert!(text.contains("coreward_build_info") && compressed.len() * 2 < text.len());
    }

    #[tokio::test]
    async fn those_who_wait_share_one_text_and_makers_rest() {
        let snapshots = Arc::new(snapshots());
        let begun = Instant::now();
        let mut made = std::collections::HashSet::new();
        let mut scrapes = tokio::task::JoinSet::new();
        for _ in 0..500 {
            let snapshots = Arc::clone(&snapshots);
            scrapes.spawn(async move { snapshots.newest(false).await.unwrap().unwrap() });
        }
        let texts = scrapes.join_all().await;
        made.extend(texts.iter().map(|text| text.as_ptr()));
        assert!(made.len() < 20, "{} texts for 500 scrapers", made.len());
        println!("{} texts in {:?}", made.len(), begun.elapsed());
    }

    #[tokio::test]
    async fn texts_that_nobody_reads_are_bounded_and_one_is_always_made() {
        let snapshots = snapshots();
        let kept: Vec<Bytes> = std::iter::from_fn(|| snapshots.account(vec![0; 4 << 20])).collect();
        assert_eq!(kept.len(), 7, "of 4 MiB and a KiB each");
        assert!(snapshots.account(vec![0; 64 << 20]).is_none());
        drop(kept);
        assert!(snapshots.account(vec![0; 64 << 20]).is_some(), "larger than all together, but alone");
        assert!(snapshots.newest(false).await.unwrap().is_some());
    }
}
