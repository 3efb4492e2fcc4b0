//! How much of the processors a thread asks for.

/// The calling thread gives way to others from now on, for good: an unprivileged thread can't take it back (setpriority(2);
/// on Linux nice values belong to threads, sched(7)).
pub fn give_way() {
    /// Leaves to a thread of ordinary niceness some thirty times as much.
    const NICE: libc::c_int = 15;
    // SAFETY: setpriority takes three integers; 0 is the calling thread. Where it is forbidden, nothing changes.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
