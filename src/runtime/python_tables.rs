//! Where CPython has what a stack is made of: offsets of fields, by version. From 3.13 on the interpreter says them itself.

use super::memory::Memory;

/// Offsets of fields, in bytes, in the structures of one version of CPython.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    /// `_PyRuntimeState.interpreters.head`.
    pub(super) interpreters_head: u64,
    /// `PyInterpreterState`: `next`, and `threads.head` (`tstate_head` before 3.11).
    pub(super) interpreter_next: u64,
    pub(super) threads_head: u64,
    /// `PyThreadState`: `next`, `thread_id`, which is pthread_self(3), and `native_thread_id`, which is gettid(2).
    pub(super) thread_next: u64,
    pub(super) thread_id: u64,
    pub(super) native_thread_id: Option<u64>,
    pub(super) current_frame: CurrentFrame,
    /// `_PyInterpreterFrame` (`PyFrameObject` before 3.11): `previous`, the code object, and the instruction.
    pub(super) previous: u64,
    pub(super) code: u64,
    pub(super) instruction: u64,
    pub(super) entry: EntryFrame,
    /// `PyCodeObject`.
    pub(super) filename: u64,
    pub(super) name: u64,
    pub(super) first_line: u64,
    pub(super) lines: u64,
    /// `co_code_adaptive`: from 3.11 on the instruction is a pointer into it, before it is a number.
    pub(super) instructions: Option<u64>,
    pub(super) line_table: LineTable,
    /// `PyObject.ob_type`, `PyTypeObject.tp_name`, `PyVarObject.ob_size`, `PyBytesObject.ob_sval`.
    pub(super) object_type: u64,
    pub(super) type_name: u64,
    pub(super) object_size: u64,
    pub(super) bytes_value: u64,
    /// `PyASCIIObject`: `length`, `state`, its size; and the size of `PyCompactUnicodeObject`.
    pub(super) text_length: u64,
    pub(super) text_state: u64,
    pub(super) ascii_size: u64,
    pub(super) compact_size: u64,
    /// The bit of `state` at which `kind` begins.
    pub(super) kind_shift: u32,
}

/// Where a thread has its innermost frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CurrentFrame {
    /// In its `PyThreadState`.
    Direct(u64),
    /// In the `_PyCFrame` that the field `cframe` points to.
    InCFrame(u64, u64),
}

/// What tells that C called a frame's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryFrame {
    /// The loop ran once for each frame.
    Each,
    /// `_PyInterpreterFrame.is_entry`.
    Flag(u64),
    /// A frame without a function of its own is below it, which is in the C stack (`_PyInterpreterFrame.owner`).
    Shim(u64),
}

/// The format of line numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineTable {
    /// `co_lnotab` (Objects/lnotab_notes.txt).
    Lnotab,
    /// `co_linetable` of 3.10 (PEP 626).
    Ranges,
    /// `co_linetable` from 3.11 on (Objects/locations.md).
    Locations,
}

/// `FRAME_OWNED_BY_CSTACK` of 3.12 and 3.13, `FRAME_OWNED_BY_INTERPRETER` of 3.14: the lowest owner of frames without a function.
pub(super) const OWNED_BY_C: u8 = 3;

const V3_9: Tables = Tables {
    interpreters_head: 32,
    interpreter_next: 0,
    threads_head: 8,
    thread_next: 8,
    thread_id: 176,
    native_thread_id: None,
    current_frame: CurrentFrame::Direct(24),
    previous: 24,
    code: 32,
    instruction: 104,
    entry: EntryFrame::Each,
    filename: 104,
    name: 112,
    first_line: 40,
    lines: 120,
    instructions: None,
    line_table: LineTable::Lnotab,
    object_type: 8,
    type_name: 24,
    object_size: 16,
    bytes_value: 32,
    text_length: 16,
    text_state: 32,
    ascii_size: 48,
    compact_size: 72,
    kind_shift: 2,
};
const V3_10: Tables = Tables { instruction: 96, line_table: LineTable::Ranges, ..V3_9 };
const V3_11: Tables = Tables {
    interpreters_head: 40,
    threads_head: 16,
    thread_id: 152,
    native_thread_id: Some(160),
    current_frame: CurrentFrame::InCFrame(56, 8),
    previous: 48,
    code: 32,
    instruction: 56,
    entry: EntryFrame::Flag(68),
    filename: 112,
    // The qualified name.
    name: 128,
    first_line: 72,
    lines: 136,
    instructions: Some(184),
    line_table: LineTable::Locations,
    ..V3_9
};
const V3_12: Tables = Tables {
    threads_head: 72,
    thread_id: 136,
    native_thread_id: Some(144),
    current_frame: CurrentFrame::InCFrame(56, 0),
    previous: 8,
    code: 0,
    entry: EntryFrame::Shim(70),
    first_line: 68,
    instructions: Some(192),
    ascii_size: 40,
    compact_size: 56,
    ..V3_11
};

impl Tables {
    /// The tables of this version, for those which do not say them themselves.
    pub(super) fn of_version(major: u8, minor: u8) -> Option<Self> {
        match (major, minor) {
            (3, 9) => Some(V3_9),
            (3, 10) => Some(V3_10),
            (3, 11) => Some(V3_11),
            (3, 12) => Some(V3_12),
            _ => None,
        }
    }

    /// The tables at the beginning of `_PyRuntime` (`_Py_DebugOffsets`, Include/internal/pycore_debug_offsets.h), and the version as a
    /// number; `None` if there are none, or they are of an unknown version.
    pub(super) fn of_runtime(memory: &mut Memory<'_>, runtime: u64) -> Option<(Self, u32)> {
        const COOKIE: &[u8] = b"xdebugpy";
        /// Words of the table that are read, in the longer of its two forms.
        const WORDS: usize = 96;
        const MINOR_3_13: u32 = 0x030d;
        const MINOR_3_14: u32 = 0x030e;
        let bytes = memory.bytes(runtime, WORDS * 8)?;
        if !bytes.starts_with(COOKIE) {
            return None;
        }
        let word = |index: usize| Some(u64::from_le_bytes(*bytes.get(index * 8..)?.first_chunk()?));
        let version = u32::try_from(word(1)?).ok()?;
        let is_free_threaded = word(2)? != 0;
        // The numbers of the first fields of each structure after `size`.
        let (threads_head, thread, frame, code, object, tuple, bytes, text) = match version >> 16 {
            MINOR_3_13 => (9, 20, 29, 35, 45, 51, 65, 68),
            MINOR_3_14 => (9, 23, 32, 40, 51, 57, 75, 78),
            _ => return None,
        };
        let ascii_size = word(text + 2)?;
        let tables = Self {
            interpreters_head: word(5)?,
            interpreter_next: word(8)?,
            threads_head: word(threads_head)?,
            thread_next: word(thread + 1)?,
            current_frame: CurrentFrame::Direct(word(thread + 3)?),
            thread_id: word(thread + 4)?,
            native_thread_id: Some(word(thread + 5)?),
            previous: word(frame)?,
            code: word(frame + 1)?,
            instruction: word(frame + 2)?,
            entry: EntryFrame::Shim(word(frame + 4)?),
            filename: word(code)?,
            name: word(code + 2)?,
            lines: word(code + 3)?,
            first_line: word(code + 4)?,
            instructions: Some(word(code + 8)?),
            line_table: LineTable::Locations,
            object_type: word(object)?,
            type_name: word(object + 2)?,
            object_size: word(tuple + 1)?,
            bytes_value: word(bytes + 1)?,
            text_state: word(text)?,
            text_length: word(text + 1)?,
            ascii_size,
            // utf8_length and utf8.
            compact_size: ascii_size.checked_add(16)?,
            kind_shift: if is_free_threaded && version >> 16 == MINOR_3_14 { 8 } else { 2 },
        };
        Some((tables, version))
    }
}

/// `3.13.5`, out of `PY_VERSION_HEX` (Include/patchlevel.h).
pub(super) fn version_text(hex: u32) -> String {
    let [_, micro, minor, major] = hex.to_le_bytes();
    format!("{major}.{minor}.{micro}")
}
