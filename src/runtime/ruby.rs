//! The stack of a Ruby program, from the memory of CRuby 2.7 to 3.4.

use super::memory::{Memory, RESERVED_PAGES};
use super::ruby_names::{Names, qualified};
use super::ruby_tables::{
    BODY_BASE_LABEL, BODY_CODE, BODY_FIRST_LINE, BODY_LABEL, BODY_PATH, BODY_SIZE, EC_FRAME, EC_STACK, EC_STACK_SIZE,
    FRAME_EP, FRAME_ISEQ, FRAME_PC, ISEQ_BODY, Tables, ThreadId, Threads,
};
use super::{Frames, Interpreter, LoopCode, Process, Step, Walk};
use crate::crash::InterpreterFrame;

/// Ractors and threads that are looked at.
const MAX_RACTORS: usize = 64;
const MAX_THREADS: usize = 4096;

/// The stack of the thread; `None` if Ruby does not know it.
pub(super) fn walk(memory: &mut Memory<'_>, process: &Process<'_>) -> Option<Walk> {
    let (text, _) = process.symbol(memory, "ruby_version")?;
    let version = memory.c_text(text)?;
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = numbers.next().flatten().zip(numbers.next().flatten())?;
    let Some(tables) = Tables::of_version(major, minor) else {
        return Some(Walk::unsupported(Interpreter::Ruby, version));
    };
    let failed = |version, reason| Some(Walk::failed(Interpreter::Ruby, version, reason));
    let vm = match process.symbol(memory, "ruby_current_vm_ptr") {
        // Null before it has started and after it has ended.
        Some((pointer, _)) => memory.pointer_at(pointer, 0)?,
        None => match find_vm(memory, process, tables) {
            Some(vm) => vm,
            None => return failed(version, "the interpreter's own data was not found"),
        },
    };
    let Some(thread) = find_thread(memory, process, tables, vm) else {
        // It may be one of those that could not be looked at.
        return memory.exhausted().and_then(|reason| failed(version, reason));
    };
    let mut stack = Stack { memory, process, tables, names: Names::new(tables), loop_address: None };
    let frames = stack.frames(thread);
    let loop_code = stack.loop_address.map(LoopCode::Around);
    Some(Walk { interpreter: Interpreter::Ruby, version, frames, loop_code })
}

/// The virtual machine, which a variable of the file points to that no symbol is of: what points back to itself through its main thread.
fn find_vm(memory: &mut Memory<'_>, process: &Process<'_>, tables: Tables) -> Option<u64> {
    for at in process.data.iter().flat_map(|range| (range.start..range.end).step_by(8)) {
        if memory.pages_left() < RESERVED_PAGES {
            return None;
        }
        let Some(vm) = memory.u64(at).filter(|vm| *vm != 0 && vm.is_multiple_of(8)) else { continue };
        if process.data.iter().any(|range| range.contains(&vm)) {
            continue;
        }
        let thread = memory.pointer_at(vm, tables.main_thread).filter(|thread| thread.is_multiple_of(8));
        if thread.and_then(|thread| memory.u64_at(thread, tables.thread_vm)) == Some(vm) {
            return Some(vm);
        }
    }
    None
}

/// The `rb_thread_struct` of the thread.
fn find_thread(memory: &mut Memory<'_>, process: &Process<'_>, tables: Tables, vm: u64) -> Option<u64> {
    let (set, node, threads) = match tables.threads {
        Threads::Living(list) => return find_in_list(memory, process, tables, vm.checked_add(list)?),
        Threads::Ractors { set, node, threads } => (vm.checked_add(set)?, node, threads),
    };
    let mut next = memory.u64(set)?;
    for _ in 0..MAX_RACTORS {
        if next == set {
            break;
        }
        let ractor = next.checked_sub(node)?;
        if let Some(thread) = find_in_list(memory, process, tables, ractor.checked_add(threads)?) {
            return Some(thread);
        }
        next = memory.u64(next)?;
    }
    None
}

/// The thread in a list whose head is at `head`. A thread begins with its node (ccan/list/list.h).
fn find_in_list(memory: &mut Memory<'_>, process: &Process<'_>, tables: Tables, head: u64) -> Option<u64> {
    let mut thread = memory.u64(head)?;
    for _ in 0..MAX_THREADS {
        if thread == head {
            break;
        }
        let id = match tables.thread_id {
            ThreadId::Direct(offset) => memory.u64_at(thread, offset),
            ThreadId::Native(native, offset) => {
                let native = memory.pointer_at(thread, native);
                native.and_then(|native| memory.u64_at(native, offset))
            }
        };
        if id.is_some_and(|id| process.is_thread(memory, id, None)) {
            return Some(thread);
        }
        thread = memory.u64(thread)?;
    }
    None
}

struct Stack<'m, 'a> {
    memory: &'m mut Memory<'a>,
    process: &'m Process<'m>,
    tables: Tables,
    names: Names,
    /// An address in the interpreter's loop: its instructions are pointers there.
    loop_address: Option<u64>,
}

/// A frame, and whether traces show the caller's file and line for it.
struct Located {
    frame: InterpreterFrame,
    at_caller: bool,
}

impl Stack<'_, '_> {
    fn frames(&mut self, thread: u64) -> Frames {
        let mut found = Frames::default();
        let mut at_caller = Vec::new();
        if self.collect(thread, &mut found, &mut at_caller).is_none() {
            found.fail(self.memory);
        }
        // As in traces, a function in C is where its caller is.
        let mut caller: Option<(String, Option<u32>)> = None;
        for (frame, at_caller) in found.frames.iter_mut().zip(at_caller).rev() {
            match &caller {
                Some((file, line)) if at_caller => (frame.file, frame.line) = (file.clone(), *line),
                _ if at_caller => {}
                _ => caller = Some((frame.file.clone(), frame.line)),
            }
        }
        found
    }

    /// `None`: a frame cannot be read.
    fn collect(&mut self, thread: u64, found: &mut Frames, at_caller: &mut Vec<bool>) -> Option<()> {
        let ec = self.memory.pointer_at(thread, self.tables.thread_ec)?;
        let (stack, words) = (self.memory.u64_at(ec, EC_STACK)?, self.memory.u64_at(ec, EC_STACK_SIZE)?);
        // The lowest frame is no function's, and has not returned.
        let end = stack.checked_add(words.checked_mul(8)?)?.checked_sub(self.tables.control_frame)?;
        let mut frame = self.memory.pointer_at(ec, EC_FRAME)?;
        while (stack..end).contains(&frame) {
            if !found.may_grow() {
                return Some(());
            }
            if let Step::Function(located) = self.frame(frame)? {
                at_caller.push(located.at_caller);
                found.push(located.frame);
            }
            frame = frame.checked_add(self.tables.control_frame)?;
        }
        Some(())
    }

    /// A frame. `None`: it cannot be read.
    fn frame(&mut self, frame: u64) -> Option<Step<Located>> {
        /// The kind of a frame, that of functions in C, and the flag of those with which the loop ends (`VM_FRAME_MAGIC_MASK`,
        /// `VM_FRAME_MAGIC_CFUNC`, `VM_FRAME_FLAG_FINISH`, vm_core.h).
        const KIND: u64 = 0x7fff_0001;
        const C_FUNCTION: u64 = 0x5555_0001;
        const FINISH: u64 = 0x20;
        let ep = self.memory.pointer_at(frame, FRAME_EP)?;
        let flags = self.memory.u64(ep)?;
        if flags & KIND == C_FUNCTION {
            let function = self.c_function(ep).unwrap_or_else(|| "C function".to_owned());
            let frame = InterpreterFrame { function, file: String::new(), line: None, entry: false };
            return Some(Step::Function(Located { frame, at_caller: true }));
        }
        let (iseq, pc) = (self.memory.u64_at(frame, FRAME_ISEQ)?, self.memory.u64_at(frame, FRAME_PC)?);
        // Frames of blocks in C, and the lowest one, have no instructions.
        if iseq == 0 || pc == 0 {
            return Some(Step::Other);
        }
        Names::is_iseq(self.memory, iseq).then_some(())?;
        let body = self.memory.pointer_at(iseq, ISEQ_BODY)?;
        let file = self.memory.pointer_at(body, BODY_PATH)?;
        let file = self.names.path(self.memory, file)?;
        let function = self.label(body, ep)?;
        let at_caller = self.tables.names_classes && file.starts_with("<internal:");
        let frame = InterpreterFrame { function, file, line: self.line(body, pc), entry: flags & FINISH != 0 };
        Some(Step::Function(Located { frame, at_caller }))
    }

    fn c_function(&mut self, ep: u64) -> Option<String> {
        let method = Names::method(self.memory, ep)?;
        let name = self.names.method_name(self.memory, self.process, method)?;
        let owner = self.names.owner(self.memory, self.process, method).unwrap_or_default();
        Some(super::memory::short(owner + &name))
    }

    /// What Ruby calls the code, and whose method it is in.
    fn label(&mut self, body: u64, ep: u64) -> Option<String> {
        let [label, base] = [BODY_LABEL, BODY_BASE_LABEL].map(|offset| self.memory.pointer_at(body, offset));
        let (label, base) = (self.names.string(self.memory, label?)?, self.names.string(self.memory, base?)?);
        let method = Names::method(self.memory, ep);
        let owner = method.and_then(|method| self.names.owner(self.memory, self.process, method));
        Some(qualified(&label, &base, owner.as_deref(), self.tables.names_classes))
    }

    /// The line at which the code is, whose next instruction is at `pc` (`calc_lineno`, vm_backtrace.c).
    fn line(&mut self, body: u64, pc: u64) -> Option<u32> {
        let code = self.memory.pointer_at(body, BODY_CODE)?;
        if self.loop_address.is_none() {
            self.loop_address = self.memory.u64(code);
        }
        let position = pc.checked_sub(code)? / 8;
        let length = u64::from(self.memory.u32_at(body, BODY_SIZE)?);
        (position <= length).then_some(())?;
        let entry = self.line_entry(body, u32::try_from(position.saturating_sub(1)).ok()?)?;
        let line = self.memory.u32(entry)?;
        // Code that was made up has no line of its own.
        if line == 0 { self.memory.u32_at(body, BODY_FIRST_LINE) } else { Some(line) }
    }

    /// The `iseq_insn_info_entry` of an instruction (`get_insn_info`, iseq.c).
    fn line_entry(&mut self, body: u64, position: u32) -> Option<u64> {
        let info = body.checked_add(self.tables.lines)?;
        let entries = self.memory.pointer_at(info, 0)?;
        let size = self.memory.u32_at(info, 16)?;
        let number = match size {
            0 => return None,
            1 => 0,
            _ => match self.memory.u64_at(info, 24)? {
                0 => {
                    let positions = self.memory.pointer_at(info, 8)?;
                    self.last_at_or_before(positions, size, position)?
                }
                table => self.rank(table, position)?.checked_sub(1)?,
            },
        };
        (number < size).then_some(())?;
        entries.checked_add(u64::from(number) * self.tables.line_entry)
    }

    /// The number of the last of the sorted `positions` that is not after `position`.
    fn last_at_or_before(&mut self, positions: u64, count: u32, position: u32) -> Option<u32> {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.memory.u32_at(positions, u64::from(middle) * 4)? <= position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }

    /// How many entries there are up to this position: a bit vector with counts (`succ_index_lookup`, iseq.c).
    fn rank(&mut self, table: u64, position: u32) -> Option<u32> {
        /// The first positions have counts of seven bits each, nine to a word.
        const IMMEDIATE: u64 = 54;
        const IN_WORD: u64 = 9;
        /// Blocks follow: a count, the counts of words but the first, nine bits each, and eight words of bits.
        const BLOCK: u64 = 80;
        const BITS: u64 = 512;
        let position = u64::from(position);
        let low = |word: u64, mask: u64| u32::try_from(word & mask).ok();
        if position < IMMEDIATE {
            let word = self.memory.u64_at(table, position / IN_WORD * 8)?;
            return low(word >> (position % IN_WORD * 7), 0x7f);
        }
        let (block, bit) = ((position - IMMEDIATE) / BITS, (position - IMMEDIATE) % BITS);
        let block = table.checked_add(IMMEDIATE / IN_WORD * 8 + block * BLOCK)?;
        let (word, bit) = (bit / 64, bit % 64);
        let ranks = self.memory.u64_at(block, 8)?;
        let before = if word == 0 { 0 } else { low(ranks >> ((word - 1) * 9), 0x1ff)? };
        let bits = self.memory.u64_at(block, 16 + word * 8)?;
        let within = (bits << (63 - bit)).count_ones();
        self.memory.u32(block)?.checked_add(before)?.checked_add(within)
    }
}
