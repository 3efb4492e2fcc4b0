//! The clocks that the shim and the daemon share.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since boot, suspend included (CLOCK_BOOTTIME, clock_gettime(2)): the one clock that two processes of
/// the same boot can compare and that no administrator can set.
pub fn since_boot() -> Duration {
    // CLOCK_BOOTTIME has been in every kernel since 2.6.39: the call can't fail with a valid clock id.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
