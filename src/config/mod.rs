//! Configuration: keys, drop-ins, defaults. systemd's form and precedence, a wrong line never stops the daemon.

mod ini;
mod keys;
mod load;
mod overrides;
mod value;

pub use keys::{Config, Problem, THREADS_MAX};
pub use load::{Loaded, load};
pub use overrides::Overrides;
pub use value::{parse_duration, parse_size};
