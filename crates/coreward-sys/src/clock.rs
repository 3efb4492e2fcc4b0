//! The clock that shim and daemon share.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since boot, including suspend (CLOCK_BOOTTIME, clock_gettime(2)). Two processes of the same boot can compare it, and
/// nobody can set it.
pub fn since_boot() -> Duration {
    // CLOCK_BOOTTIME exists since Linux 2.6.39, and clock_gettime fails only for an unknown clock.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
