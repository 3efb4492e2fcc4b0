//! The configuration: keys, defaults, files and drop-ins, in systemd's syntax and precedence. A wrong line is reported and
//! skipped; it never stops the daemon.

mod ini;
mod keys;
mod load;
mod local_users;
mod overrides;
mod settings;
#[cfg(test)]
mod tests;
mod value;

pub use keys::THREADS_MAX;
pub use load::{LoadedConfig, load};
pub use local_users::{read_local_users, read_login_defs};
pub use overrides::Overrides;
pub use settings::{Config, CrashConfig, Problem};
pub use value::{parse_duration, parse_size};
