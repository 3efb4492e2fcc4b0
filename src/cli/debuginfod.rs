//! Debug symbols from debuginfod servers, on request only. The variables and the layout of the cache are those of the other clients
//! (debuginfod_find_debuginfo(3)), so that files are fetched once for all of them. What a server sends is parsed by nobody here: a process
//! without privileges reads it later, and compares its build-id.

use super::error::DebuginfodError;
use super::human;
use super::unpack::progress;
use crate::crash::text::printable;
use coreward_sys::tmpfile;
use coreward_wire::paths::Root;
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// The variable with the URLs of the servers, separated by spaces.
const URLS: &str = "DEBUGINFOD_URLS";
/// How long a server may be silent, in seconds; the default of other clients.
const DEFAULT_TIMEOUT: u64 = 90;
/// How long the download of one file may take, in seconds.
const DEFAULT_MAX_TIME: u64 = 1800;
/// The longest file that is fetched, in bytes.
const DEFAULT_MAX_SIZE: u64 = 2 << 30;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it is remembered that no server has a file; the default of other clients (`cache_miss_s`).
const MISS: Duration = Duration::from_secs(600);
/// Bytes that are received at once.
const CHUNK: usize = 128 << 10;
/// Where distributions keep the certificates of authorities that they trust: Debian, Fedora, openSUSE, Alpine.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client of the servers that the environment names.
#[derive(Debug)]
pub(super) struct Debuginfod {
    agent: Agent,
    /// Those that answered so far.
    servers: Vec<String>,
    cache: PathBuf,
    max_size: u64,
}

/// The cache of the user who runs this. A command that root called has become the owner of the state directory, who has no home.
pub(super) fn cache_dir(root: &Root, caller: Uid) -> Option<PathBuf> {
    let path = |name: &str| std::env::var_os(name).filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    path("DEBUGINFOD_CACHE_PATH").or_else(|| {
        if Uid::effective() != caller {
            return Some(root.cache_dir().join("debuginfod_client"));
        }
        let base = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?;
        Some(base.join("debuginfod_client"))
    })
}

/// Where the cache has the debug symbols of a build; `None` if that is no GNU build-id.
pub(super) fn cached(cache: &Path, build_id: &str) -> Option<PathBuf> {
    let is_build_id = build_id.len() > 2 && build_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_build_id.then(|| cache.join(build_id).join("debuginfo"))
}

impl Debuginfod {
    /// # Errors
    /// The environment names no server, or no place for the cache.
    pub(super) fn from_environment(cache: Option<PathBuf>) -> Result<Self, DebuginfodError> {
        let urls = std::env::var(URLS).unwrap_or_default();
        // Other words switch the verification of signatures, of which this client has none, for the URLs that follow.
        let is_url = |word: &&str| word.starts_with("http://") || word.starts_with("https://");
        let servers: Vec<String> =
            urls.split_whitespace().filter(is_url).map(|url| url.trim_end_matches('/').to_owned()).collect();
        if servers.is_empty() {
            return Err(DebuginfodError::NoServers);
        }
        let cache = cache.ok_or(DebuginfodError::NoCache)?;
        let seconds = |name: &str, default: u64| Duration::from_secs(number(name).unwrap_or(default));
        let timeout = seconds("DEBUGINFOD_TIMEOUT", DEFAULT_TIMEOUT);
        let mut config = Agent::config_builder()
            .user_agent(concat!("coreward/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .timeout_global(Some(seconds("DEBUGINFOD_MAXTIME", DEFAULT_MAX_TIME)));
        if servers.iter().any(|server| server.starts_with("https:")) {
            config = config.tls_config(
                TlsConfig::builder()
                    .provider(TlsProvider::Rustls)
                    .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                    .root_certs(authorities())
                    .build(),
            );
        }
        let max_size = number("DEBUGINFOD_MAXSIZE").unwrap_or(DEFAULT_MAX_SIZE);
        Ok(Self { agent: config.build().new_agent(), servers, cache, max_size })
    }

    /// Fetches the debug symbols of a build into the cache. `path` is the module that wants them, for messages. Whether they are there now
    /// and were not before.
    pub(super) fn fetch(&mut self, build_id: &str, path: &str, notes: &mut Vec<String>) -> bool {
        let Some(target) = cached(&self.cache, build_id) else { return false };
        if self.servers.is_empty() || !is_wanted(&target) {
            return false;
        }
        let Some(dir) = target.parent() else { return false };
        let opened = DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| {
            let dir = File::open(dir)?;
            let file = File::from(tmpfile::create(dir.as_fd(), Mode::from_bits_truncate(0o400))?);
            Ok((dir, file))
        });
        let (dir, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.servers.clear();
                notes.push(DebuginfodError::Cache { path: dir.to_owned(), error }.to_string());
                return false;
            }
        };
        let mut is_missing = true;
        for server in self.servers.clone() {
            match self.download(&server, build_id, path, &file) {
                Ok(true) => {
                    return match tmpfile::publish(file.as_fd(), dir.as_fd(), Path::new("debuginfo")) {
                        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                            notes.push(DebuginfodError::Cache { path: target, error }.to_string());
                            false
                        }
                        // Another client was faster.
                        _ => true,
                    };
                }
                Ok(false) => {}
                Err(error) => {
                    // Neither does it have to be waited for again.
                    self.servers.retain(|other| *other != server || matches!(error, DebuginfodError::TooLarge { .. }));
                    notes.push(error.to_string());
                    is_missing = false;
                }
            }
        }
        if is_missing {
            // An empty file says so to every client.
            let _ = File::options().write(true).create_new(true).open(&target);
        } else {
            let _ = target.parent().map(fs::remove_dir);
        }
        false
    }

    /// Downloads the file from one server. Whether the server has it.
    fn download(&self, server: &str, build_id: &str, path: &str, mut file: &File) -> Result<bool, DebuginfodError> {
        let url = format!("{server}/buildid/{build_id}/debuginfo");
        let failed = |error: io::Error| DebuginfodError::Server { url: url.clone(), path: printable(path), error };
        let mut response = match self.agent.get(&url).call() {
            Ok(response) => response,
            Err(ureq::Error::StatusCode(404)) => return Ok(false),
            Err(error) => return Err(failed(error.into_io())),
        };
        let too_large = || DebuginfodError::TooLarge { url: url.clone(), limit: human::size(self.max_size) };
        let length = response.body().content_length();
        if length.is_some_and(|length| length > self.max_size) {
            return Err(too_large());
        }
        let bar = progress(length.unwrap_or(0));
        bar.set_message(format!("{} ", printable(path.rsplit('/').next().unwrap_or(path))));
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK];
        let mut received = 0;
        let cache_failed = |error| DebuginfodError::Cache { path: self.cache.clone(), error };
        file.set_len(0).map_err(cache_failed)?;
        loop {
            let count = match body.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                count => count.map_err(failed)?,
            };
            if count == 0 {
                break;
            }
            if received == 0 && !chunk[..count].starts_with(b"\x7fELF") {
                return Err(failed(io::Error::other("what it sends is not an ELF file")));
            }
            received += count as u64;
            if received > self.max_size {
                return Err(too_large());
            }
            file.write_all(&chunk[..count]).map_err(cache_failed)?;
            bar.set_position(received);
        }
        bar.finish_and_clear();
        match length {
            Some(length) if length != received => {
                Err(failed(io::Error::other(format!("it sent {received} bytes of {length}"))))
            }
            _ if received == 0 => Err(failed(io::Error::other("it sent an empty file"))),
            _ => Ok(true),
        }
    }
}

/// Whether the cache has neither the file nor a recent note that no server has it.
fn is_wanted(target: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(target) else { return true };
    let is_old = metadata.modified().is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > MISS));
    metadata.len() == 0 && is_old && fs::remove_file(target).is_ok()
}

fn number(variable: &str) -> Option<u64> {
    // For other clients 0 means no limit as well.
    std::env::var(variable).ok()?.trim().parse().ok().filter(|number| *number > 0)
}

/// The authorities that this machine trusts, so that a server within a company works as well.
fn authorities() -> RootCerts {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let files = named.into_iter().chain(AUTHORITIES.map(PathBuf::from));
    let pem = files.filter_map(|file| fs::read(file).ok()).next().unwrap_or_default();
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    RootCerts::new_with_certs(&certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_has_the_layout_of_other_clients() {
        let path = |build_id| cached(Path::new("/c"), build_id);
        assert_eq!(path("00ff12"), Some(PathBuf::from("/c/00ff12/debuginfo")));
        for build_id in ["", "..", "../00ff", "00ff/..", "go:x"] {
            assert_eq!(path(build_id), None, "{build_id}");
        }
    }

    #[test]
    fn that_a_file_is_missing_is_forgotten_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("debuginfo");
        assert!(is_wanted(&file));
        let empty = File::create(&file).unwrap();
        assert!(!is_wanted(&file), "a moment ago no server had it");
        empty.set_modified(SystemTime::now() - MISS - Duration::from_secs(60)).unwrap();
        assert!(is_wanted(&file));
        assert!(!file.exists());
        fs::write(&file, "x").unwrap();
        assert!(!is_wanted(&file));
    }
}
