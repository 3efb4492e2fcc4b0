//! The compressors that all captures share. A worker acquires one before it does anything, so concurrent captures together use
//! no more memory and processors than the pool has compressors.

use super::frame_compressor::FrameCompressor;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A pool of compressors, or of copy buffers, for which the compressors' buffers are used.
#[derive(Clone)]
pub struct CompressorPool {
    shared: Arc<SharedPool>,
}

struct SharedPool {
    state: Mutex<PoolState>,
    returned: Condvar,
}

struct PoolState {
    idle: Vec<FrameCompressor>,
    acquired: usize,
    limit: usize,
    /// How many workers hang with a compressor; others are made in their place.
    stuck: usize,
}

/// Stuck workers beyond this number are not compensated for: somebody makes them hang on purpose.
const MAX_STUCK: usize = 16;

/// A compressor that goes back to its pool when it is dropped.
pub struct PooledCompressor {
    compressor: Option<FrameCompressor>,
    shared: Arc<SharedPool>,
}

impl CompressorPool {
    /// A pool of at most `limit` compressors, each made when it is first needed.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = Mutex::new(PoolState { idle: Vec::new(), acquired: 0, limit, stuck: 0 });
        Self { shared: Arc::new(SharedPool { state, returned: Condvar::new() }) }
    }

    /// Changes how many compressors there may be.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.shared.lock();
        state.limit = limit;
        state.idle.truncate(limit);
        self.shared.returned.notify_all();
    }

    /// How many compressors there may be, apart from those of stuck workers.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.shared.lock().limit
    }

    /// Waits for a compressor.
    pub fn acquire(&self) -> PooledCompressor {
        let mut state = self.shared.lock();
        while state.acquired >= state.limit + state.stuck.min(MAX_STUCK) {
            state = self.shared.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.acquired += 1;
        let compressor = state.idle.pop().unwrap_or_else(FrameCompressor::new);
        PooledCompressor { compressor: Some(compressor), shared: Arc::clone(&self.shared) }
    }

    /// `count` workers hang, perhaps forever: lets others have a compressor in their place.
    pub fn add_stuck(&self, count: usize) {
        self.shared.lock().stuck += count;
        self.shared.returned.notify_all();
    }

    /// `count` of the stuck workers have continued after all.
    pub fn remove_stuck(&self, count: usize) {
        let mut state = self.shared.lock();
        state.stuck = state.stuck.saturating_sub(count);
    }
}

impl SharedPool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for PooledCompressor {
    type Target = FrameCompressor;

    fn deref(&self) -> &FrameCompressor {
        self.compressor.as_ref().expect("only drop takes the compressor")
    }
}

impl DerefMut for PooledCompressor {
    fn deref_mut(&mut self) -> &mut FrameCompressor {
        self.compressor.as_mut().expect("only drop takes the compressor")
    }
}

impl Drop for PooledCompressor {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.acquired -= 1;
        if let Some(compressor) = self.compressor.take()
            && state.idle.len() < state.limit
        {
            state.idle.push(compressor);
        }
        self.shared.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_more_are_acquired_than_the_limit() {
        let compressors = CompressorPool::new(2);
        let (one, two) = (compressors.acquire(), compressors.acquire());
        let third = std::thread::spawn({
            let compressors = compressors.clone();
            move || drop(compressors.acquire())
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!third.is_finished());
        drop(one);
        third.join().unwrap();
        drop(two);
    }

    #[test]
    fn stuck_workers_are_compensated_for_up_to_a_limit() {
        let compressors = CompressorPool::new(1);
        let stuck = compressors.acquire();
        compressors.add_stuck(1);
        drop(compressors.acquire());
        compressors.remove_stuck(1);
        drop(stuck);
        assert_eq!(compressors.limit(), 1, "as many as before");
        compressors.add_stuck(1000);
        let acquired: Vec<PooledCompressor> = (0..=MAX_STUCK).map(|_| compressors.acquire()).collect();
        let late = compressors.clone();
        let one_more = std::thread::spawn(move || drop(late.acquire()));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!one_more.is_finished());
        drop(acquired);
        one_more.join().unwrap();
    }
}
