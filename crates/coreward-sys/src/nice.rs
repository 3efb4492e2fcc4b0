//! Scheduling priority of threads.

/// Lowers the priority of the calling thread. An unprivileged thread cannot raise it again (setpriority(2)); nice values belong
/// to threads on Linux (sched(7)).
pub fn lower_priority() {
    /// A thread of niceness 0 gets some 28 times as much CPU time (`sched_prio_to_weight`, kernel/sched/core.c).
    const NICE: libc::c_int = 15;
    // SAFETY: setpriority takes three integers; 0 is the calling thread. If it is not permitted, the priority stays as it is.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
