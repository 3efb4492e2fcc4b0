//! The argument MATCH of the verbs that work on one crash.

use clap::Args;

/// One crash, as it is named on the command line.
#[derive(Args, Debug)]
pub(super) struct CrashSelector {
    /// Id or prefix of an id, PID, executable path, unit, process name, or signature [default: the newest crash]
    ///
    /// If several crashes match, the newest is meant. A prefix must be that of one id only.
    #[arg(value_name = "MATCH")]
    pub(super) name: Option<String>,
}
