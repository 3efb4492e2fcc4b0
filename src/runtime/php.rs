//! The stack of a PHP program, from the memory of PHP 7.4 to 8.4; of one that is built for threads (ZTS), on x86-64.

use super::memory::Memory;
use super::php_threads;
use super::{Frames, Interpreter, LoopCode, Process, Step, Walk};
use crate::crash::InterpreterFrame;

/// `zend_executor_globals`: `zend_constants` and `current_execute_data` (Zend/zend_globals.h).
const CONSTANTS: u64 = 448;
const CURRENT: u64 = 488;
/// `zend_execute_data`: `opline`, `func`, `This.u1.type_info`, `prev_execute_data` (Zend/zend_compile.h).
const OPLINE: u64 = 0;
const FUNC: u64 = 24;
const CALL_INFO: u64 = 40;
const PREVIOUS: u64 = 48;
/// `zend_function`: `type`, `common.function_name`, `common.scope`.
const TYPE: u64 = 0;
const FUNCTION_NAME: u64 = 8;
const SCOPE: u64 = 16;
/// `zend_class_entry.name`.
const CLASS_NAME: u64 = 8;
/// `zend_op`: `extended_value`, `lineno`, `opcode`.
const EXTENDED_VALUE: u64 = 20;
const LINE: u64 = 24;
const OPCODE: u64 = 28;
/// `zend_string`: the type (`gc.u.type_info`), `len`, `val` (Zend/zend_types.h).
const STRING_TYPE: u64 = 4;
const STRING_LENGTH: u64 = 16;
const STRING_VALUE: u64 = 24;
/// From `op_array.filename` to `line_start` and `line_end`.
const LINES_AFTER_FILE: u64 = 8;

/// `ZEND_INTERNAL_FUNCTION`.
const INTERNAL_FUNCTION: u8 = 1;
/// `IS_STRING` and `IS_OBJECT`, and the bits of `type_info` that have such a type.
const IS_STRING: u32 = 6;
const IS_OBJECT: u32 = 8;
const TYPE_MASK: u32 = 0xf;
/// `ZEND_CALL_TOP`: the loop ends with this function.
const CALL_TOP: u32 = 1 << 17;
/// `ZEND_INCLUDE_OR_EVAL`.
const INCLUDE_OR_EVAL: u8 = 73;

/// The offset of `op_array.filename` in `zend_function`, by version: the first for which this one is not too old.
const FILE_NAMES: [((u8, u8), u64); 5] = [((8, 4), 168), ((8, 3), 144), ((8, 2), 152), ((8, 0), 144), ((7, 4), 136)];
/// Newer versions than this may have other offsets.
const NEWEST: (u8, u8) = (8, 4);

/// The stack of the thread; `None` if it is not one that runs PHP.
pub(super) fn walk(memory: &mut Memory<'_>, process: &Process<'_>) -> Option<Walk> {
    let globals = match process.symbol(memory, "executor_globals") {
        // Without threads, only the main one runs PHP.
        Some((globals, _)) => Some(globals).filter(|_| process.thread.is_main)?,
        None => {
            let (offset, _) = process.symbol(memory, "executor_globals_offset")?;
            match php_threads::executor_globals(memory, process, offset) {
                Ok(globals) => globals?,
                Err(reason) => return Some(Walk::failed(Interpreter::Php, String::new(), reason)),
            }
        }
    };
    let version = version(memory, globals).unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let number = parts.next().flatten().zip(parts.next().flatten());
    let offset = number.filter(|number| *number <= NEWEST);
    let offset = offset.and_then(|number| FILE_NAMES.iter().find(|(oldest, _)| number >= *oldest));
    let Some((_, file_name)) = offset else {
        return Some(Walk::unsupported(Interpreter::Php, version));
    };
    let frames = frames(memory, globals, *file_name);
    let loop_code = process.symbol(memory, "execute_ex");
    let loop_code = loop_code.map(|(start, size)| LoopCode::Range(start..start.saturating_add(size)));
    Some(Walk { interpreter: Interpreter::Php, version, frames, loop_code })
}

/// The constant PHP_VERSION, which is one of the first.
fn version(memory: &mut Memory<'_>, globals: u64) -> Option<String> {
    /// `HashTable`: `arData` and `nNumUsed`; a `Bucket` has a `zval`, the hash and the key (Zend/zend_types.h).
    const BUCKETS: u64 = 16;
    const USED: u64 = 24;
    const BUCKET: u64 = 32;
    const HASH: u64 = 16;
    const KEY: u64 = 24;
    const MAX_CONSTANTS: u32 = 512;
    const NAME: &str = "PHP_VERSION";
    let table = memory.pointer_at(globals, CONSTANTS)?;
    let (buckets, used) = (memory.pointer_at(table, BUCKETS)?, memory.u32_at(table, USED)?);
    // zend_inline_hash_func: by 33, and the highest bit set.
    let hash = NAME.bytes().fold(5381_u64, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into())) | 1 << 63;
    for number in 0..used.min(MAX_CONSTANTS) {
        let bucket = buckets.checked_add(u64::from(number) * BUCKET)?;
        if memory.u64_at(bucket, HASH)? != hash {
            continue;
        }
        let key = memory.pointer_at(bucket, KEY)?;
        if string(memory, key)? == NAME {
            // A pointer to a `zend_constant`, which begins with its value.
            let constant = memory.pointer_at(bucket, 0)?;
            let value = memory.pointer_at(constant, 0)?;
            return string(memory, value);
        }
    }
    None
}

fn frames(memory: &mut Memory<'_>, globals: u64, file_name: u64) -> Frames {
    let mut found = Frames::default();
    let mut next = memory.u64_at(globals, CURRENT);
    while let Some(call) = next.filter(|call| *call != 0) {
        if !found.may_grow() {
            return found;
        }
        match frame(memory, call, file_name) {
            Some(Step::Function(frame)) => found.push(frame),
            Some(Step::Other) => {}
            None => {
                next = None;
                break;
            }
        }
        next = memory.u64_at(call, PREVIOUS);
    }
    if next.is_none() {
        found.fail(memory);
    }
    found
}

/// A frame. `None`: it cannot be read.
fn frame(memory: &mut Memory<'_>, call: u64, file_name: u64) -> Option<Step<InterpreterFrame>> {
    // Calls from C have a frame of their own below them.
    let Some(function) = Some(memory.u64_at(call, FUNC)?).filter(|function| *function != 0) else {
        return Some(Step::Other);
    };
    let call_info = memory.u32_at(call, CALL_INFO)?;
    let kind = memory.u8(function.checked_add(TYPE)?)?;
    let name = match memory.u64_at(function, FUNCTION_NAME)? {
        0 => code_name(memory, call)?.to_owned(),
        name => string(memory, name)?,
    };
    let class = match memory.u64_at(function, SCOPE)? {
        0 => None,
        class => Some(memory.pointer_at(class, CLASS_NAME).and_then(|name| string(memory, name))?),
    };
    let arrow = if call_info & TYPE_MASK == IS_OBJECT { "->" } else { "::" };
    let function_name =
        class.into_iter().fold(name, |name, class| super::memory::short(format!("{class}{arrow}{name}")));
    if kind == INTERNAL_FUNCTION {
        return Some(Step::Function(InterpreterFrame {
            function: function_name,
            file: String::new(),
            line: None,
            entry: false,
        }));
    }
    let file = memory.pointer_at(function, file_name)?;
    let file = string(memory, file)?;
    let line = line(memory, call, function, file_name);
    Some(Step::Function(InterpreterFrame { function: function_name, file, line, entry: call_info & CALL_TOP != 0 }))
}

/// The line of the operation at which a function is.
fn line(memory: &mut Memory<'_>, call: u64, function: u64, file_name: u64) -> Option<u32> {
    let operation = memory.pointer_at(call, OPLINE)?;
    let line = memory.u32_at(operation, LINE)?;
    // A function that handles an exception is at an operation that is in no function, and has no line.
    let lines = function.checked_add(file_name + LINES_AFTER_FILE)?;
    let (first, last) = (memory.u32(lines)?, memory.u32_at(lines, 4)?);
    (first..=last).contains(&line).then_some(line)
}

/// What the program calls code without a name: that of a file or of eval(). PHP's own traces have these names.
fn code_name(memory: &mut Memory<'_>, call: u64) -> Option<&'static str> {
    const NAMES: [(u32, &str); 5] =
        [(1, "eval"), (2, "include"), (4, "include_once"), (8, "require"), (16, "require_once")];
    let caller = memory.u64_at(call, PREVIOUS)?;
    if caller == 0 {
        return Some("{main}");
    }
    let operation = memory.pointer_at(caller, OPLINE);
    let opcode = operation.and_then(|operation| memory.u8(operation.checked_add(OPCODE)?));
    if opcode != Some(INCLUDE_OR_EVAL) {
        return Some("{main}");
    }
    let how = memory.u32_at(operation?, EXTENDED_VALUE)?;
    Some(NAMES.iter().find(|(value, _)| *value == how).map_or("include", |(_, name)| name))
}

/// The text of a `zend_string`.
fn string(memory: &mut Memory<'_>, address: u64) -> Option<String> {
    let kind = memory.u32_at(address, STRING_TYPE)?;
    let length = memory.u64_at(address, STRING_LENGTH)?;
    (kind & TYPE_MASK == IS_STRING).then_some(())?;
    memory.text(address.checked_add(STRING_VALUE)?, length)
}
