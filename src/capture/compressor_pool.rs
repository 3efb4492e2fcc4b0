//! Workbenches: the buffers and compressors that all captures share. Who has one works, who has none waits, so many captures
//! at once need no more memory and no more processors than one.

use crate::store::format::FRAME_LEN;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// What O_DIRECT asks of buffers.
const ALIGNMENT: usize = 4096;

/// A buffer for one frame, and what compresses it.
pub struct FrameCompressor {
    /// Longer than a frame, so that an aligned part of it can be used.
    bytes: Vec<u8>,
    begin: usize,
    packed: Vec<u8>,
    compressor: Option<(i32, Compressor<'static>)>,
}

impl FrameCompressor {
    fn new() -> Self {
        let bytes = vec![0; FRAME_LEN + ALIGNMENT];
        let begin = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, begin, packed: Vec::new(), compressor: None }
    }

    /// The buffer, aligned for O_DIRECT.
    pub fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + FRAME_LEN]
    }

    /// A frame of so many zeros. The buffer is not kept.
    ///
    /// # Errors
    /// What zstd says.
    pub fn zeros(&mut self, length: usize, level: i32) -> io::Result<&[u8]> {
        self.buffer()[..length].fill(0);
        self.compress(0..length, level)
    }

    /// A frame with a checksum of `range` of the buffer.
    ///
    /// # Errors
    /// What zstd says.
    pub fn compress(&mut self, range: Range<usize>, level: i32) -> io::Result<&[u8]> {
        let content = &self.bytes[self.begin + range.start..self.begin + range.end];
        let compressor = match &mut self.compressor {
            Some((current, compressor)) if *current == level => compressor,
            _ => {
                let mut compressor = Compressor::new(level)?;
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                &mut self.compressor.insert((level, compressor)).1
            }
        };
        self.packed.resize(zstd::zstd_safe::compress_bound(FRAME_LEN), 0);
        let length = compressor.compress_to_buffer(content, self.packed.as_mut_slice())?;
        Ok(&self.packed[..length])
    }
}

/// All compressors of one kind.
#[derive(Clone)]
pub struct CompressorPool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    idle: Vec<FrameCompressor>,
    lent: usize,
    /// How many there are to be.
    base: usize,
    /// How many more, for those whose workers hang.
    extra: usize,
}

/// More hanging workers than these are not made up for: somebody hangs them on purpose.
const EXTRA_MAX: usize = 16;

/// A bench on loan.
pub struct PooledCompressor {
    bench: Option<FrameCompressor>,
    shared: Arc<Shared>,
}

impl CompressorPool {
    /// At most `limit` at once; each is made when it is first needed.
    pub fn new(limit: usize) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), lent: 0, base: limit, extra: 0 });
        Self { shared: Arc::new(Shared { state, freed: Condvar::new() }) }
    }

    /// How many there may be from now on.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.shared.lock();
        state.base = limit;
        state.idle.truncate(limit);
        self.shared.freed.notify_all();
    }

    /// How many there are, those of workers that hang apart.
    pub fn count(&self) -> usize {
        self.shared.lock().base
    }

    /// Waits for a bench.
    pub fn take(&self) -> PooledCompressor {
        let mut state = self.shared.lock();
        while state.lent >= state.base + state.extra.min(EXTRA_MAX) {
            state = self.shared.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.lent += 1;
        let bench = state.idle.pop().unwrap_or_else(FrameCompressor::new);
        PooledCompressor { bench: Some(bench), shared: Arc::clone(&self.shared) }
    }

    /// The workers of so many compressors hang, perhaps for ever: others take their places.
    pub fn replace(&self, count: usize) {
        self.shared.lock().extra += count;
        self.shared.freed.notify_all();
    }

    /// So many of them came back after all.
    pub fn take_back(&self, count: usize) {
        let mut state = self.shared.lock();
        state.extra = state.extra.saturating_sub(count);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for PooledCompressor {
    type Target = FrameCompressor;

    fn deref(&self) -> &FrameCompressor {
        self.bench.as_ref().expect("a lease has its bench until it is dropped")
    }
}

impl DerefMut for PooledCompressor {
    fn deref_mut(&mut self) -> &mut FrameCompressor {
        self.bench.as_mut().expect("a lease has its bench until it is dropped")
    }
}

impl Drop for PooledCompressor {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.lent -= 1;
        if let Some(bench) = self.bench.take()
            && state.idle.len() < state.base
        {
            state.idle.push(bench);
        }
        self.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_more_are_lent_than_there_are() {
        let compressors = CompressorPool::new(2);
        let (one, two) = (compressors.take(), compressors.take());
        let third = std::thread::spawn({
            let compressors = compressors.clone();
            move || drop(compressors.take())
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!third.is_finished());
        drop(one);
        third.join().unwrap();
        drop(two);
    }

    #[test]
    fn who_hangs_is_replaced_and_a_few_only() {
        let compressors = CompressorPool::new(1);
        let hung = compressors.take();
        compressors.replace(1);
        drop(compressors.take());
        compressors.take_back(1);
        drop(hung);
        assert_eq!(compressors.count(), 1, "as many as before");
        compressors.replace(1000);
        let lent: Vec<PooledCompressor> = (0..=EXTRA_MAX).map(|_| compressors.take()).collect();
        let late = compressors.clone();
        let one_more = std::thread::spawn(move || drop(late.take()));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!one_more.is_finished());
        drop(lent);
        one_more.join().unwrap();
    }

    #[test]
    fn the_buffer_is_aligned_and_comes_back_out_of_its_frame() {
        let compressors = CompressorPool::new(1);
        let mut bench = compressors.take();
        assert_eq!(bench.buffer().as_ptr().align_offset(ALIGNMENT), 0);
        for (index, byte) in bench.buffer().iter_mut().enumerate() {
            *byte = (index / 7) as u8;
        }
        let expected = bench.buffer()[64..9000].to_vec();
        for level in [1, -5, 3] {
            let frame = bench.compress(64..9000, level).unwrap();
            assert_eq!(zstd::decode_all(frame).unwrap(), expected);
        }
    }
}
