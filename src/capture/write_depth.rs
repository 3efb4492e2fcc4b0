//! How much is written at once past the page cache. The reads of others wait for what the disk has been given before them, so it is given
//! parts of a chunk, unless it measurably writes whole chunks faster: the process waits as well.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes of a part. A multiple of a page.
const PART: usize = 256 << 10;
/// Of this many chunks one is written whole and one in parts, whichever is faster.
const MEASURED: u64 = 32;

/// Writes chunks in parts or whole, by the time that either takes. Several threads share it.
#[derive(Debug, Default)]
pub(super) struct WriteDepth {
    chunks: AtomicU64,
    /// Mean times of the last chunks that were written whole and in parts, in nanoseconds; 0: none was.
    whole: AtomicU64,
    parts: AtomicU64,
}

impl WriteDepth {
    /// Writes a chunk.
    ///
    /// # Errors
    /// The error of pwrite(2).
    pub(super) fn write_all_at(&self, file: &File, chunk: &[u8], offset: u64) -> io::Result<()> {
        let is_whole = match self.chunks.fetch_add(1, Ordering::Relaxed) % MEASURED {
            0 => true,
            1 => false,
            _ => self.prefers_whole(),
        };
        let begun = Instant::now();
        let mut at = offset;
        for part in chunk.chunks(if is_whole { chunk.len().max(1) } else { PART }) {
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        update_mean(if is_whole { &self.whole } else { &self.parts }, took);
        Ok(())
    }

    /// Whether parts take more than a third longer, as on a disk behind a network, where each write waits for an answer.
    fn prefers_whole(&self) -> bool {
        let [whole, parts] = [&self.whole, &self.parts].map(|mean| mean.load(Ordering::Relaxed));
        whole > 0 && parts / 4 > whole / 3
    }
}

/// A mean in which the newest value counts for a quarter. Of two that arrive at once one may be lost.
fn update_mean(mean: &AtomicU64, value: u64) {
    let before = mean.load(Ordering::Relaxed);
    let next = if before == 0 { value } else { before - before / 4 + value / 4 };
    mean.store(next, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_written_in_parts_unless_that_takes_more_than_a_third_longer() {
        let depth = WriteDepth::default();
        assert!(!depth.prefers_whole(), "nothing is known");
        let took = |whole, parts| {
            depth.whole.store(whole, Ordering::Relaxed);
            depth.parts.store(parts, Ordering::Relaxed);
            depth.prefers_whole()
        };
        assert!(!took(900, 900) && !took(900, 1200));
        assert!(took(900, 1210) && took(1_000_000, 4_000_000));
    }

    #[test]
    fn every_byte_is_at_its_place_either_way() {
        let file = tempfile::tempfile().unwrap();
        let depth = WriteDepth::default();
        let chunk: Vec<u8> = (0..=128).flat_map(|page: u8| [page; 4096]).collect();
        assert!(chunk.len() > 2 * PART);
        for number in 0..3 {
            let offset = number * (1 << 20);
            depth.write_all_at(&file, &chunk, offset).unwrap();
            let mut read = vec![0; chunk.len()];
            file.read_exact_at(&mut read, offset).unwrap();
            assert!(read == chunk, "{number}");
        }
        assert!(depth.whole.load(Ordering::Relaxed) > 0 && depth.parts.load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn the_mean_follows_what_is_measured() {
        let mean = AtomicU64::new(0);
        for value in [1000, 2000, 2000, 2000, 2000] {
            update_mean(&mean, value);
        }
        assert!((1600..2000).contains(&mean.load(Ordering::Relaxed)));
    }
}
