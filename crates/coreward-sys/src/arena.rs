//! Memory for a program that lives for a millisecond: the first of it is its own already, and is never given back.
//!
//! An allocator for programs that live long maps and unmaps pages for this one again and again, and in a storm the kernel
//! starts ten thousand of them. What does not fit any more comes from the system's allocator, as ever.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a usual crash takes; its pages cost nothing before they are touched.
const ROOM: usize = 128 << 10;

/// What malloc(3) promises for every block, whatever it is for: who wants bytes for a control message counts on it.
const ALIGNMENT: usize = 16;

/// The allocator (`#[global_allocator]`).
pub struct Arena {
    room: UnsafeCell<[u8; ROOM]>,
    used: AtomicUsize,
}

// SAFETY: `used` hands every byte of the room out once.
unsafe impl Sync for Arena {}

impl Arena {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it is a static, and a default can't be const")]
    pub const fn new() -> Self {
        Self { room: UnsafeCell::new([0; ROOM]), used: AtomicUsize::new(0) }
    }

    fn base(&self) -> *mut u8 {
        self.room.get().cast()
    }

    fn has(&self, block: *const u8) -> bool {
        let base = self.base() as usize;
        (base..base + ROOM).contains(&(block as usize))
    }

    /// Where `layout` fits, and the offset behind it.
    fn place(&self, used: usize, layout: Layout) -> Option<(usize, usize)> {
        let base = self.base() as usize;
        let begin = base.checked_add(used)?.checked_next_multiple_of(layout.align().max(ALIGNMENT))? - base;
        let end = begin.checked_add(layout.size())?;
        (end <= ROOM).then_some((begin, end))
    }
}

// SAFETY: a block of the room is inside of it, aligned, and nobody else's: `used` only grows, but for the last block, which
// its owner gives back or makes larger or smaller. All other blocks are the system's.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let next = |used| self.place(used, layout).map(|(_, end)| end);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(used) => match self.place(used, layout) {
                // SAFETY: inside of the room.
                Some((begin, _)) => unsafe { self.base().add(begin) },
                None => std::ptr::null_mut(),
            },
            // SAFETY: the caller's promises are those of this function.
            Err(_) => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !self.has(block) {
            // SAFETY: then the system gave it.
            return unsafe { System.dealloc(block, layout) };
        }
        let begin = block as usize - self.base() as usize;
        let _ = self.used.compare_exchange(begin + layout.size(), begin, Ordering::Relaxed, Ordering::Relaxed);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.has(block) {
            // SAFETY: then the system gave it.
            return unsafe { System.realloc(block, layout, size) };
        }
        let begin = block as usize - self.base() as usize;
        let (end, wanted) = (begin + layout.size(), begin.saturating_add(size));
        let last = |used| (used == end && wanted <= ROOM).then_some(wanted);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, last).is_ok() {
            return block;
        }
        // SAFETY: the caller promises that the size is not 0 and, rounded up, no overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both have so many bytes, and the new block is nobody else's.
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
            assert!(ARENA.has(first) && ARENA.has(second) && (second as usize).is_multiple_of(64));
            let third = ARENA.alloc(layout(3, 1));
            assert!((third as usize).is_multiple_of(16), "as malloc's");
            ARENA.dealloc(third, layout(3, 1));
            second.write_bytes(2, 16);
            assert_eq!(ARENA.realloc(second, layout(16, 64), 4000), second, "the last one grows where it is");
            let moved = ARENA.realloc(first, layout(5, 1), 500);
            assert_ne!(moved, first, "another one can't");
            assert_eq!(std::slice::from_raw_parts(moved, 5), [1; 5]);
            assert_eq!(std::slice::from_raw_parts(second, 16), [2; 16]);
            let large = ARENA.alloc(layout(ROOM, 1));
            assert!(!large.is_null() && !ARENA.has(large), "what does not fit is the system's");
            large.write_bytes(3, ROOM);
            let large = ARENA.realloc(large, layout(ROOM, 1), 2 * ROOM);
            assert_eq!(*large.add(ROOM - 1), 3);
            ARENA.dealloc(large, layout(2 * ROOM, 1));
            let used = ARENA.used.load(Ordering::Relaxed);
            ARENA.dealloc(moved, layout(500, 1));
            assert_eq!(ARENA.used.load(Ordering::Relaxed), used - 500, "the last one is free again");
        }
    }
}
