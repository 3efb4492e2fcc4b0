//! The kernel settings that send crashes to the shim: what they are, whether they are ours, and the test crash that proves that
//! they work. The command sets them, the daemon watches them.

mod settings;
mod sysctl;
mod test_crash;

pub use settings::{KERNEL_DEFAULTS, KernelSettings, is_ours, starts_program, sysctl_file, wanted, words_of};
pub use sysctl::{Sysctl, SysctlError, SysctlKey};
pub use test_crash::{COMM, PASSED, is_test_crash, report_socket};
