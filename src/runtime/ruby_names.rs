//! Texts of CRuby's objects: strings, paths, names of methods and classes.

use super::Process;
use super::memory::{Memory, short};
use super::ruby_tables::{ClassPath, DEFINITION_ID, METHOD_DEFINITION, METHOD_OWNER, StringLayout, Tables};

/// `RBasic.flags`: the type, and types (include/ruby/internal/value_type.h).
const TYPE_MASK: u64 = 0x1f;
const T_CLASS: u64 = 2;
const T_MODULE: u64 = 3;
const T_STRING: u64 = 5;
const T_ARRAY: u64 = 7;
const T_HASH: u64 = 8;
const T_IMEMO: u64 = 0x1a;
/// `imemo_type` in the flags, `imemo_svar`, `imemo_ment` and `imemo_iseq` (internal/imemo.h).
const IMEMO_SHIFT: u32 = 12;
const IMEMO_MASK: u64 = 0xf;
const IMEMO_SVAR: u64 = 2;
const IMEMO_METHOD: u64 = 6;
const IMEMO_ISEQ: u64 = 7;
/// `RSTRING_NOEMBED` and `RARRAY_EMBED_FLAG`.
const USER_1: u64 = 1 << 13;
/// Environments that are looked at for a block's method.
const MAX_LEVELS: usize = 32;
/// Variables of a class that are looked at.
const MAX_VARIABLES: u64 = 64;

/// The table of symbols, `ids` of `rb_symbols_t` (symbol.h).
#[derive(Clone, Copy)]
enum SymbolTable {
    NotSearched,
    Missing,
    At(u64),
}

/// Reads texts of objects.
pub(super) struct Names {
    tables: Tables,
    symbols: SymbolTable,
}

impl Names {
    pub(super) fn new(tables: Tables) -> Self {
        Self { tables, symbols: SymbolTable::NotSearched }
    }

    /// Whether there is an instruction sequence at `address`.
    pub(super) fn is_iseq(memory: &mut Memory<'_>, address: u64) -> bool {
        imemo(memory, address) == Some(IMEMO_ISEQ)
    }

    /// The text of a String.
    pub(super) fn string(&self, memory: &mut Memory<'_>, string: u64) -> Option<String> {
        const HEADER: u64 = 16;
        const EMBEDDED_SHIFT: u32 = 14;
        const EMBEDDED_MASK: u64 = 0x1f;
        let flags = memory.u64(string)?;
        (flags & TYPE_MASK == T_STRING).then_some(())?;
        let is_embedded = flags & USER_1 == 0;
        let value = string.checked_add(HEADER)?;
        let (at, length) = match (self.tables.string, is_embedded) {
            (StringLayout::LengthInFlags, true) => (value, flags >> EMBEDDED_SHIFT & EMBEDDED_MASK),
            (StringLayout::LengthInField, true) => (value.checked_add(8)?, memory.u64(value)?),
            (_, false) => (memory.pointer_at(value, 8)?, memory.u64(value)?),
        };
        memory.text(at, length)
    }

    /// The path of a file: a String, or an Array of it and of the absolute path.
    pub(super) fn path(&self, memory: &mut Memory<'_>, path: u64) -> Option<String> {
        let flags = memory.u64(path)?;
        let string = if flags & TYPE_MASK == T_ARRAY { element(memory, path, 0)? } else { path };
        self.string(memory, string)
    }

    /// The method entry of a frame with the environment `ep`.
    pub(super) fn method(memory: &mut Memory<'_>, mut ep: u64) -> Option<u64> {
        /// `VM_ENV_FLAG_LOCAL`, and the indices of `VM_ENV_DATA_INDEX_ME_CREF` and `_SPECVAL` (vm_core.h).
        const LOCAL: u64 = 2;
        const POINTER_TAG: u64 = 3;
        for _ in 0..MAX_LEVELS {
            let mut entry = memory.u64(ep.checked_sub(16)?)?;
            if imemo(memory, entry) == Some(IMEMO_SVAR) {
                entry = memory.u64_at(entry, 8)?;
            }
            if imemo(memory, entry) == Some(IMEMO_METHOD) {
                return Some(entry);
            }
            if memory.u64(ep)? & LOCAL != 0 {
                return None;
            }
            ep = memory.u64(ep.checked_sub(8)?)? & !POINTER_TAG;
        }
        None
    }

    /// The name of a method, and that of the class or module that it is defined in, with the sign that stands between them.
    pub(super) fn method_name(
        &mut self,
        memory: &mut Memory<'_>,
        process: &Process<'_>,
        method: u64,
    ) -> Option<String> {
        let definition = memory.pointer_at(method, METHOD_DEFINITION)?;
        let id = memory.u64_at(definition, DEFINITION_ID)?;
        self.symbol(memory, process, id)
    }

    /// `Owner#` or `Owner.`, which stands before the name of a method; empty for a class without a name.
    pub(super) fn owner(&mut self, memory: &mut Memory<'_>, process: &Process<'_>, method: u64) -> Option<String> {
        let owner = memory.pointer_at(method, METHOD_OWNER)?;
        let flags = memory.u64(owner)?;
        if is_class(flags) && flags & self.tables.singleton == 0 {
            return Some(self.class_name(memory, process, owner)? + "#");
        }
        let attached = is_class(flags).then(|| self.attached(memory, process, owner))??;
        let is_module = memory.u64(attached).is_some_and(is_class);
        Some(is_module.then(|| self.class_name(memory, process, attached))?? + ".")
    }

    /// The name of a class or module that has one which stays.
    fn class_name(&mut self, memory: &mut Memory<'_>, process: &Process<'_>, class: u64) -> Option<String> {
        /// `struct RClass`, and `rb_classext_struct.classpath` behind it (internal/class.h).
        const CLASS_PATH: u64 = 32 + 120;
        let path = match self.tables.class_path {
            ClassPath::Variable => self.variable(memory, process, class, "__classpath__")?,
            ClassPath::FirstVariable => first_variable(memory, class)?,
            ClassPath::Fields => memory.pointer_at(class, CLASS_PATH)?,
        };
        // Not `#<Class:0x...>`, and no variable that is none of these.
        let is_constant = |name: &String| {
            name.starts_with(|first: char| first.is_uppercase())
                && name.chars().all(|character| character.is_alphanumeric() || "_:".contains(character))
        };
        self.string(memory, path).filter(is_constant)
    }

    /// What a class is the singleton class of.
    fn attached(&mut self, memory: &mut Memory<'_>, process: &Process<'_>, class: u64) -> Option<u64> {
        /// `rb_classext_struct.as.singleton_class.attached_object`.
        const ATTACHED: u64 = 32 + 96;
        match self.tables.class_path {
            ClassPath::Variable => self.variable(memory, process, class, "__attached__"),
            ClassPath::FirstVariable => first_variable(memory, class),
            ClassPath::Fields => memory.pointer_at(class, ATTACHED),
        }
    }

    /// A variable of a class, in `rb_classext_struct.iv_tbl`, an `st_table` (st.h).
    fn variable(&mut self, memory: &mut Memory<'_>, process: &Process<'_>, class: u64, name: &str) -> Option<u64> {
        /// `RClass.ptr`, `rb_classext_struct.iv_tbl`.
        const EXTENSION: u64 = 24;
        const VARIABLES: u64 = 8;
        /// `st_table`: `entries_start`, `entries_bound`, `entries`; an entry has the hash, the key and the value.
        const FIRST: u64 = 32;
        const BOUND: u64 = 40;
        const ENTRIES: u64 = 48;
        const ENTRY: u64 = 24;
        let extension = memory.pointer_at(class, EXTENSION)?;
        let table = memory.pointer_at(extension, VARIABLES)?;
        let (first, bound) = (memory.u64_at(table, FIRST)?, memory.u64_at(table, BOUND)?);
        let entries = memory.pointer_at(table, ENTRIES)?;
        for number in first..bound.min(first.checked_add(MAX_VARIABLES)?) {
            let entry = entries.checked_add(number.checked_mul(ENTRY)?)?;
            let (key, value) = (memory.u64_at(entry, 8)?, memory.u64_at(entry, 16)?);
            if self.symbol(memory, process, key).is_some_and(|key| key == name) {
                return Some(value);
            }
        }
        None
    }

    /// The text of a symbol's ID (symbol.h).
    fn symbol(&mut self, memory: &mut Memory<'_>, process: &Process<'_>, id: u64) -> Option<String> {
        if let SymbolTable::NotSearched = self.symbols {
            self.symbols = find_symbols(memory, process).map_or(SymbolTable::Missing, SymbolTable::At);
        }
        match self.symbols {
            SymbolTable::At(symbols) => self.symbol_in(memory, symbols, id),
            _ => None,
        }
    }

    fn symbol_in(&self, memory: &mut Memory<'_>, symbols: u64, id: u64) -> Option<String> {
        /// The highest ID of an operator (`tLAST_OP_ID`) is below this, and the lowest one of another symbol, shifted, above it.
        const OPERATORS: u64 = 1000;
        const SCOPE_SHIFT: u32 = 4;
        /// `ID_ENTRY_UNIT` and `ID_ENTRY_SIZE`: the symbols are in arrays of this many pairs.
        const UNIT: u64 = 512;
        const PAIR: u64 = 2;
        let serial = if id < OPERATORS { id } else { id >> SCOPE_SHIFT };
        let unit = element(memory, symbols, serial / UNIT)?;
        let text = element(memory, unit, serial % UNIT * PAIR)?;
        self.string(memory, text)
    }
}

/// Finds the table of symbols among the variables of the file that the interpreter is in: the number of the last one, two tables, and an array in
/// between (`rb_symbols_t`). No symbol of the file has its address.
fn find_symbols(memory: &mut Memory<'_>, process: &Process<'_>) -> Option<u64> {
    /// How many symbols a Ruby that has started has, at least and at most.
    const COUNT: std::ops::Range<u64> = 500..100_000_000;
    let is_object = |memory: &mut Memory<'_>, object: u64, kind: u64| {
        object.is_multiple_of(8) && memory.u64(object).is_some_and(|flags| flags & TYPE_MASK == kind)
    };
    for at in process.data.iter().flat_map(|range| (range.start..range.end.saturating_sub(24)).step_by(8)) {
        // Memory that cannot be read is not the one.
        let Some(count) = memory.u64(at).filter(|count| COUNT.contains(count)) else { continue };
        let mut field = |offset: u64| memory.pointer_at(at, offset);
        let (Some(table), Some(ids), Some(hash)) = (field(8), field(16), field(24)) else { continue };
        let is_table = table.is_multiple_of(8) && memory.u64_at(table, 16).is_some_and(|entries| entries <= count);
        if is_table && is_object(memory, ids, T_ARRAY) && is_object(memory, hash, T_HASH) {
            return Some(ids);
        }
    }
    None
}

/// The kind of an internal object; `None` if it is another one.
fn imemo(memory: &mut Memory<'_>, address: u64) -> Option<u64> {
    let flags = memory.u64(address).filter(|_| address.is_multiple_of(8))?;
    (flags & TYPE_MASK == T_IMEMO).then_some(flags >> IMEMO_SHIFT & IMEMO_MASK)
}

/// The first variable of a class (`rb_classext_struct.iv_ptr`).
fn first_variable(memory: &mut Memory<'_>, class: u64) -> Option<u64> {
    const VARIABLES: u64 = 32;
    let variables = memory.pointer_at(class, VARIABLES)?;
    memory.pointer_at(variables, 0)
}

fn is_class(flags: u64) -> bool {
    [T_CLASS, T_MODULE].contains(&(flags & TYPE_MASK))
}

/// An element of an Array (`struct RArray`).
fn element(memory: &mut Memory<'_>, array: u64, index: u64) -> Option<u64> {
    const EMBEDDED: u64 = 16;
    const POINTER: u64 = 32;
    let flags = memory.u64(array)?;
    (flags & TYPE_MASK == T_ARRAY).then_some(())?;
    let elements =
        if flags & USER_1 != 0 { array.checked_add(EMBEDDED)? } else { memory.pointer_at(array, POINTER)? };
    memory.pointer_at(elements, index.checked_mul(8)?)
}

/// The label of an instruction sequence, with whose method it is; `base` is the method's own name, which the label ends with.
pub(super) fn qualified(label: &str, base: &str, owner: Option<&str>, names_classes: bool) -> String {
    // Where traces say whose method it is, what is in a rescue clause is in the method.
    let label =
        if names_classes { label.replace("rescue in ", "").replace("ensure in ", "") } else { label.to_owned() };
    match (owner, label.strip_suffix(base)) {
        // <main>, <class:Name>, <top (required)>: no methods.
        (Some(owner), Some(before)) if !base.is_empty() && !base.starts_with('<') => {
            short(format!("{before}{owner}{base}"))
        }
        _ => label,
    }
}
