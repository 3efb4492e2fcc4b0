//! Where a PHP that is built for threads (ZTS) has the executor globals of one of them.
//!
//! Each thread that runs PHP has an allocation with a description of itself (`tsrm_tls_entry`), behind which the globals of the engine are, at
//! offsets that all threads share. The thread points to it from `_tsrm_ls_cache`, a thread-local variable that no symbol is of, and with
//! pthread_setspecific(3). What the compiler and the linker made of either, and in which C library, differs from build to build, so the pointer is
//! searched for among the thread's own variables. What is found must name the thread and lead to its own globals.

use super::Process;
use super::memory::{Memory, RESERVED_PAGES};

/// `tsrm_tls_entry`: `storage`, which has a pointer to each of the globals, their `count`, and `thread_id`, by pthread_self(3) (TSRM/TSRM.c).
const STORAGE: u64 = 0;
const COUNT: u64 = 8;
const THREAD_ID: u64 = 16;
/// More globals than any program has.
const MAX_COUNT: u32 = 4096;
/// How far the variables of a thread are looked at, in bytes. On x86-64, those with a fixed place are below the thread's pointer: of the
/// executable first, then of the libraries that it was started with.
const BELOW: u64 = 8 << 10;
/// Behind the pointer are the values of pthread_setspecific(3): in glibc's `struct pthread` from 0x310 on; musl has them behind its own for all
/// threads but the main one.
const BEHIND: u64 = 4 << 10;
/// The alignment of allocations as large as these.
const ALIGNMENT: u64 = 16;

/// The address of the thread's executor globals. `offset` is where their offset is: the variable `executor_globals_offset`.
/// `None`: the thread runs no PHP.
///
/// # Errors
///
/// Why it is not known.
pub(super) fn executor_globals(
    memory: &mut Memory<'_>,
    process: &Process<'_>,
    offset: u64,
) -> Result<Option<u64>, &'static str> {
    // The layout of a thread's variables is known for x86-64, whose notes have the pointer.
    let thread = process.thread.pointer.ok_or("this PHP is built for threads (ZTS), of which no stacks are read")?;
    let id = process.symbol(memory, "executor_globals_id").and_then(|(id, _)| memory.u32(id));
    let Some((id, offset)) = id.zip(memory.u64(offset)) else {
        return Err(memory.exhausted().unwrap_or("the interpreter's own data was not found"));
    };
    // The numbers begin with 1; it is 0 before PHP has started.
    let Some(number) = id.checked_sub(1).filter(|number| *number < MAX_COUNT) else { return Ok(None) };
    let below = (1..=BELOW / 8).map_while(|words| thread.checked_sub(8 * words));
    let behind = (0..BEHIND / 8).map_while(|words| thread.checked_add(8 * words));
    for variable in below.chain(behind) {
        if memory.pages_left() < RESERVED_PAGES {
            return Err("too much memory would have to be read");
        }
        let entry = memory.u64(variable).filter(|entry| *entry != 0 && entry.is_multiple_of(ALIGNMENT));
        let globals = entry.and_then(|entry| globals_of(memory, entry, thread, number, offset));
        if globals.is_some() {
            return Ok(globals);
        }
    }
    memory.exhausted().map_or(Ok(None), Err)
}

/// The globals behind an entry of this thread; `None` if there is none at the address.
fn globals_of(memory: &mut Memory<'_>, entry: u64, thread: u64, number: u32, offset: u64) -> Option<u64> {
    (memory.u64_at(entry, THREAD_ID)? == thread).then_some(())?;
    (number < memory.u32_at(entry, COUNT)?.min(MAX_COUNT)).then_some(())?;
    let storage = memory.pointer_at(entry, STORAGE)?;
    let globals = entry.checked_add(offset)?;
    (memory.u64_at(storage, 8 * u64::from(number))? == globals).then_some(globals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Symbols, Thread};
    use crate::unwind::ReadMemory;
    use std::collections::BTreeMap;

    const THREAD: u64 = 0x7000_1740;
    const ENTRY: u64 = 0x6000_0010;
    const STORAGE_AT: u64 = 0x6100_0000;
    const ID_AT: u64 = 0x5000_0000;
    const OFFSET_AT: u64 = 0x5000_0008;
    const OFFSET: u64 = 0x1a0;

    /// The pages that these words are in; other words there are 0.
    struct Words(BTreeMap<u64, u64>);

    impl ReadMemory for Words {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            let Some(end) = address.checked_add(buffer.len() as u64) else { return false };
            buffer.fill(0);
            let mut is_there = false;
            for (at, word) in self.0.range(address..end) {
                let place = usize::try_from(at - address).unwrap();
                buffer.get_mut(place..place + 8).unwrap().copy_from_slice(&word.to_le_bytes());
                is_there = true;
            }
            is_there
        }
    }

    struct Variables;

    impl Symbols for Variables {
        fn find(&self, name: &str, _: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<(u64, u64)> {
            (name == "executor_globals_id").then_some((ID_AT, 4))
        }
    }

    /// A thread whose variable at this address leads to its entry.
    fn thread_with(variable: u64) -> BTreeMap<u64, u64> {
        BTreeMap::from([
            (variable, ENTRY),
            (ENTRY + STORAGE, STORAGE_AT),
            (ENTRY + COUNT, 0x1_0000_0003),
            (ENTRY + THREAD_ID, THREAD),
            (STORAGE_AT + 8, ENTRY + OFFSET),
            (ID_AT, 2),
            (OFFSET_AT, OFFSET),
        ])
    }

    fn search(words: &BTreeMap<u64, u64>, pointer: Option<u64>) -> Result<Option<u64>, &'static str> {
        let words = Words(words.clone());
        let mut memory = Memory::new(&words, &|| true);
        let thread = Thread { tid: 2, pointer, is_main: false, tid_offset: 0 };
        let process = Process { symbols: &Variables, thread, data: &[] };
        executor_globals(&mut memory, &process, OFFSET_AT)
    }

    #[test]
    fn the_globals_are_found_from_either_side_of_the_threads_pointer() {
        for variable in [THREAD - 8, THREAD - 0x1000, THREAD - BELOW, THREAD + 0x318, THREAD + BEHIND - 8] {
            assert_eq!(search(&thread_with(variable), Some(THREAD)), Ok(Some(ENTRY + OFFSET)), "{variable:#x}");
        }
        for variable in [THREAD - BELOW - 8, THREAD + BEHIND] {
            assert_eq!(search(&thread_with(variable), Some(THREAD)), Ok(None), "{variable:#x}");
        }
    }

    #[test]
    fn what_is_not_the_threads_own_entry_is_not_taken() {
        // Another thread's, an older one that was freed, one that has no such globals (yet), and nothing there.
        let changes = [(THREAD_ID, THREAD + 64), (STORAGE, 0), (STORAGE, STORAGE_AT + 8), (COUNT, 1), (COUNT, 0)];
        for (field, value) in changes {
            let mut words = thread_with(THREAD - 8);
            words.insert(ENTRY + field, value);
            assert_eq!(search(&words, Some(THREAD)), Ok(None), "{field} {value:#x}");
        }
        let mut words = thread_with(THREAD - 8);
        words.insert(THREAD - 8, 0);
        assert_eq!(search(&words, Some(THREAD)), Ok(None));
        // PHP has not started, or what is called its variables has something else.
        for id in [0, u64::from(u32::MAX)] {
            let mut words = thread_with(THREAD - 8);
            words.insert(ID_AT, id);
            assert_eq!(search(&words, Some(THREAD)), Ok(None));
        }
    }

    #[test]
    fn a_machine_whose_notes_have_no_thread_pointer_is_told() {
        let reason = "this PHP is built for threads (ZTS), of which no stacks are read";
        assert_eq!(search(&thread_with(THREAD - 8), None), Err(reason));
    }

    #[test]
    fn variables_full_of_addresses_leave_pages_for_the_stack_and_say_so() {
        let mut words = thread_with(THREAD - BELOW);
        for number in 1..BELOW / 8 {
            words.insert(THREAD - 8 * number, 0x1_0000_0000 + 0x1000 * number);
        }
        assert_eq!(search(&words, Some(THREAD)), Err("too much memory would have to be read"));
    }
}
