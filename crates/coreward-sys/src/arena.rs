//! A bump allocator for a program that lives for a millisecond: it takes memory from a static buffer and does not reuse it.
//!
//! musl's allocator maps and unmaps pages all the time for such a program, which costs a storm of crashes some 9% of its rate
//! (docs/benchmarks.md). An allocation that does not fit into the buffer goes to the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size of the buffer in bytes, enough for a usual crash. Pages that are never touched cost nothing.
const CAPACITY: usize = 128 << 10;

/// Least alignment of every block, as malloc(3) guarantees it. `nix` relies on it: it takes a `Vec<u8>` as the buffer for control
/// messages (cmsg(3)).
const MIN_ALIGN: usize = 16;

/// The allocator, to be used as `#[global_allocator]`.
pub struct Arena {
    buffer: UnsafeCell<[u8; CAPACITY]>,
    used: AtomicUsize,
}

// SAFETY: threads share the buffer only through `used`, which hands out each byte once.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena with nothing allocated.
    #[expect(clippy::new_without_default, reason = "the arena is a static, which needs a const constructor")]
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: UnsafeCell::new([0; CAPACITY]), used: AtomicUsize::new(0) }
    }

    fn base(&self) -> *mut u8 {
        self.buffer.get().cast()
    }

    fn contains(&self, block: *const u8) -> bool {
        let base = self.base().addr();
        (base..base + CAPACITY).contains(&block.addr())
    }

    /// Offsets of the beginning and the end of a block with this layout, if it fits behind the first `used` bytes.
    fn fit(&self, used: usize, layout: Layout) -> Option<(usize, usize)> {
        let base = self.base().addr();
        let begin = base.checked_add(used)?.checked_next_multiple_of(layout.align().max(MIN_ALIGN))? - base;
        let end = begin.checked_add(layout.size())?;
        (end <= CAPACITY).then_some((begin, end))
    }
}

// SAFETY: a block from the buffer lies inside it, is aligned, and overlaps no other, because `used` only grows. The exception is
// the last block: its owner may free it, or move its end. Every other block comes from the system's allocator and goes back there.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let next = |used| self.fit(used, layout).map(|(_, end)| end);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(used) => match self.fit(used, layout) {
                // SAFETY: `fit` returns offsets inside the buffer.
                Some((begin, _)) => unsafe { self.base().add(begin) },
                None => std::ptr::null_mut(),
            },
            // SAFETY: the caller guarantees the same for this call.
            Err(_) => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !self.contains(block) {
            // SAFETY: a block outside the buffer came from the system's allocator.
            return unsafe { System.dealloc(block, layout) };
        }
        // Only the last block is reused.
        let begin = block.addr() - self.base().addr();
        let _ = self.used.compare_exchange(begin + layout.size(), begin, Ordering::Relaxed, Ordering::Relaxed);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.contains(block) {
            // SAFETY: a block outside the buffer came from the system's allocator.
            return unsafe { System.realloc(block, layout, size) };
        }
        // The last block is resized in place.
        let begin = block.addr() - self.base().addr();
        let (end, new_end) = (begin + layout.size(), begin.saturating_add(size));
        let resize_last = |used| (used == end && new_end <= CAPACITY).then_some(new_end);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, resize_last).is_ok() {
            return block;
        }
        // SAFETY: the caller guarantees that the size is not 0 and does not overflow when it is rounded up to the alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the size is not 0.
        let moved = unsafe { self.alloc(new_layout) };
        if !moved.is_null() {
            // SAFETY: both blocks have at least this many bytes, and the new one overlaps no other.
            unsafe { std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_aligned_and_grow_in_place_or_move_with_what_is_in_them() {
        static ARENA: Arena = Arena::new();
        let layout = |size, align| Layout::from_size_align(size, align).expect("sizes of this test");
        // SAFETY: every block is used with its own layout, and only as long as it lives.
        unsafe {
            let first = ARENA.alloc(layout(5, 1));
            first.write_bytes(1, 5);
            let second = ARENA.alloc(layout(16, 64));
            assert!(ARENA.contains(first) && ARENA.contains(second) && second.addr().is_multiple_of(64));
            let third = ARENA.alloc(layout(3, 1));
            assert!(third.addr().is_multiple_of(16), "as malloc's");
            ARENA.dealloc(third, layout(3, 1));
            second.write_bytes(2, 16);
            assert_eq!(ARENA.realloc(second, layout(16, 64), 4000), second, "the last one grows where it is");
            let moved = ARENA.realloc(first, layout(5, 1), 500);
            assert_ne!(moved, first, "another one cannot");
            assert_eq!(std::slice::from_raw_parts(moved, 5), [1; 5]);
            assert_eq!(std::slice::from_raw_parts(second, 16), [2; 16]);
            let large = ARENA.alloc(layout(CAPACITY, 1));
            assert!(!large.is_null() && !ARENA.contains(large), "what does not fit is the system's");
            large.write_bytes(3, CAPACITY);
            let large = ARENA.realloc(large, layout(CAPACITY, 1), 2 * CAPACITY);
            assert_eq!(*large.add(CAPACITY - 1), 3);
            ARENA.dealloc(large, layout(2 * CAPACITY, 1));
            let used = ARENA.used.load(Ordering::Relaxed);
            ARENA.dealloc(moved, layout(500, 1));
            assert_eq!(ARENA.used.load(Ordering::Relaxed), used - 500, "the last one is free again");
        }
    }
}
