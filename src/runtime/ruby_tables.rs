//! Where CRuby has what a stack is made of: offsets of fields, by version.

/// Offsets of fields, in bytes, in the structures of one version of CRuby (vm_core.h, ractor_core.h, iseq.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) threads: Threads,
    /// `rb_vm_struct.main_thread` (`ractor.main_thread`).
    pub(super) main_thread: u64,
    /// `rb_thread_struct`: `vm`, `ec`.
    pub(super) thread_vm: u64,
    pub(super) thread_ec: u64,
    pub(super) thread_id: ThreadId,
    /// The length of `rb_control_frame_struct`.
    pub(super) control_frame: u64,
    /// `rb_iseq_constant_body.insns_info.body`; `positions`, `size` and `succ_index_table` follow.
    pub(super) lines: u64,
    /// The length of `iseq_insn_info_entry`.
    pub(super) line_entry: u64,
    pub(super) string: StringLayout,
    pub(super) class_path: ClassPath,
    /// `FL_SINGLETON`.
    pub(super) singleton: u64,
    /// Whether traces say whose method it is, and leave out what is written in Ruby but is the interpreter's own.
    pub(super) names_classes: bool,
}

/// Where the list of threads is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// `rb_vm_struct.living_threads`.
    Living(u64),
    /// `rb_vm_struct.ractor.set`; `rb_ractor_struct`: `vmlr_node`, `threads.set`.
    Ractors { set: u64, node: u64, threads: u64 },
}

/// Where a thread has its pthread_self(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadId {
    /// `rb_thread_struct.thread_id`.
    Direct(u64),
    /// `rb_thread_struct.nt`, `rb_native_thread.thread_id`.
    Native(u64, u64),
}

/// Where a string has its length and its bytes (`struct RString`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StringLayout {
    /// A short one has its length in its flags.
    LengthInFlags,
    /// Each has its length in the same place.
    LengthInField,
}

/// Where a class has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassPath {
    /// In a variable of its own, `__classpath__`, and what it is the singleton class of in `__attached__`.
    Variable,
    /// These are the first variables of a class and of a singleton class. Which variable is where is not looked up.
    FirstVariable,
    /// In a field, and so is what it is the singleton class of.
    Fields,
}

/// `rb_execution_context_struct`: `vm_stack`, `vm_stack_size`, `cfp`.
pub(super) const EC_STACK: u64 = 0;
pub(super) const EC_STACK_SIZE: u64 = 8;
pub(super) const EC_FRAME: u64 = 16;
/// `rb_control_frame_struct`: `pc`, `iseq`, `ep`.
pub(super) const FRAME_PC: u64 = 0;
pub(super) const FRAME_ISEQ: u64 = 16;
pub(super) const FRAME_EP: u64 = 32;
/// `rb_iseq_struct.body`.
pub(super) const ISEQ_BODY: u64 = 16;
/// `rb_iseq_constant_body`: `iseq_size`, `iseq_encoded`, and of `location`: `pathobj`, `base_label`, `label`, `first_lineno`.
pub(super) const BODY_SIZE: u64 = 4;
pub(super) const BODY_CODE: u64 = 8;
pub(super) const BODY_PATH: u64 = 64;
pub(super) const BODY_BASE_LABEL: u64 = 72;
pub(super) const BODY_LABEL: u64 = 80;
pub(super) const BODY_FIRST_LINE: u64 = 88;
/// `rb_method_entry_struct`: `def`, `owner`; `rb_method_definition_struct.original_id`.
pub(super) const METHOD_DEFINITION: u64 = 16;
pub(super) const METHOD_OWNER: u64 = 32;
pub(super) const DEFINITION_ID: u64 = 32;

const V2_7: Tables = Tables {
    threads: Threads::Living(312),
    main_thread: 192,
    thread_vm: 24,
    thread_ec: 32,
    thread_id: ThreadId::Direct(72),
    control_frame: 56,
    lines: 120,
    line_entry: 8,
    string: StringLayout::LengthInFlags,
    class_path: ClassPath::Variable,
    singleton: 1 << 12,
    names_classes: false,
};
const V3_0: Tables = Tables {
    threads: Threads::Ractors { set: 8, node: 568, threads: 304 },
    main_thread: 40,
    thread_vm: 32,
    thread_ec: 40,
    thread_id: ThreadId::Direct(80),
    ..V2_7
};
const V3_1: Tables = Tables { control_frame: 64, line_entry: 12, ..V3_0 };
const V3_2: Tables = Tables {
    thread_ec: 48,
    thread_id: ThreadId::Native(40, 8),
    lines: 112,
    string: StringLayout::LengthInField,
    class_path: ClassPath::FirstVariable,
    ..V3_1
};
const V3_3: Tables = Tables {
    threads: Threads::Ractors { set: 8, node: 432, threads: 256 },
    thread_id: ThreadId::Native(40, 16),
    control_frame: 56,
    class_path: ClassPath::Fields,
    ..V3_2
};
const V3_4: Tables = Tables { singleton: 1 << 13, names_classes: true, ..V3_3 };

impl Tables {
    /// The tables of this version.
    pub(super) fn of_version(major: u32, minor: u32) -> Option<Self> {
        match (major, minor) {
            (2, 7) => Some(V2_7),
            (3, 0) => Some(V3_0),
            (3, 1) => Some(V3_1),
            (3, 2) => Some(V3_2),
            (3, 3) => Some(V3_3),
            (3, 4) => Some(V3_4),
            _ => None,
        }
    }
}
