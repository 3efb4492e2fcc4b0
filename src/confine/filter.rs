//! Lists of system calls as filters for the kernel.
//!
//! The kernel finds out in advance for which numbers a filter always allows the call, and does not run the filter for those (since
//! Linux 5.11, `seccomp_cache_prepare`). So a filter costs next to nothing, unless it looks at the arguments of a frequent call.

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};
use std::collections::BTreeMap;
use std::io;

/// What the kernel answers to a call that is not there, so that libraries do without it.
pub(super) const ABSENT: SeccompAction = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
/// What the kernel answers to a call that nobody here makes.
pub(super) const DENIED: SeccompAction = SeccompAction::Errno(libc::EPERM.unsigned_abs());

/// A condition on an argument: its index from 0, the comparison of its lower 32 bits, and the value.
pub(super) type Condition = (u8, SeccompCmpOp, u64);

/// A list of system calls.
pub(super) struct CallList(BTreeMap<i64, Vec<SeccompRule>>);

impl CallList {
    /// These calls, whatever their arguments are.
    pub(super) fn new(numbers: &[libc::c_long]) -> Self {
        Self(numbers.iter().map(|number| (*number, Vec::new())).collect())
    }

    /// Adds a call whose arguments fulfil all conditions. A call that is added again needs only one of the sets of conditions.
    pub(super) fn with(mut self, number: libc::c_long, conditions: &[Condition]) -> Result<Self, BackendError> {
        let conditions = conditions.iter().map(|(argument, comparison, value)| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, comparison.clone(), *value)
        });
        self.0.entry(number).or_default().push(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?);
        Ok(self)
    }

    /// The filter that answers the calls of the list with `listed`, and all others with `other`. A call of another architecture
    /// ends the process.
    pub(super) fn into_filter(self, listed: SeccompAction, other: SeccompAction) -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(self.0, other, listed, std::env::consts::ARCH.try_into()?)?.try_into()
    }
}

/// The filter for numbers that no list has: those of x86_64's second table (x32), with which every call can be made a second time,
/// and those of kernels to come.
pub(super) fn known_numbers_only() -> BpfProgram {
    /// From here to 547 are x32's own calls, and the generic ones are far from it (arch/x86/entry/syscalls/syscall_64.tbl).
    const END: u32 = 512;
    // A program of classic BPF (Documentation/networking/filter.rst): load the word at offset 0, which is the number (`struct
    // seccomp_data`); is it at least END?
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(0x20, 0, 0, 0),
        step(0x35, 0, 1, END),
        step(0x06, 0, 0, ABSENT.into()),
        step(0x06, 0, 0, SeccompAction::Allow.into()),
    ]
}

/// Puts filters in force, for all threads of the process and for good. Where they disagree, the stricter one decides.
///
/// # Errors
/// The error of seccomp(2).
pub(super) fn apply(filters: &[BpfProgram]) -> io::Result<()> {
    filters.iter().try_for_each(|filter| seccompiler::apply_filter_all_threads(filter)).map_err(|error| match error {
        Error::Prctl(error) | Error::Seccomp(error) => error,
        other => io::Error::other(other),
    })
}
