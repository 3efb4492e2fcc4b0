//! Where the modules of a crash come from: the module store of this machine, or a bundle.

use super::error::CliError;
use super::privileges::run_as_owner;
use crate::elf::read_build_id;
use crate::store::{Bundle, MAX_MODULE, open_module};
use coreward_wire::paths::Root;
use indicatif::{ProgressBar, ProgressStyle};
use nix::errno::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The modules that are at hand.
#[derive(Clone, Copy)]
pub(super) enum ModuleSource<'a> {
    /// Those of the module store.
    Store(&'a Root),
    /// Those of a bundle, which anybody may have made.
    Bundle(&'a Bundle),
}

impl ModuleSource<'_> {
    /// Whether there is a module with this build-id that the caller may read.
    pub(super) fn has(&self, build_id: &str) -> bool {
        match self {
            Self::Store(root) => open_module(root, build_id).is_some(),
            Self::Bundle(bundle) => bundle.has_module(build_id),
        }
    }

    /// Unpacks modules into empty files, each as that of its build-id. Returns the numbers of those that are damaged or another file. What root calls
    /// is done by the owner of the state directory.
    ///
    /// # Errors
    /// There is no room for a file in `place`.
    pub(super) fn unpack(&self, modules: &[(String, File)], place: &Path) -> Result<Vec<usize>, CliError> {
        if modules.is_empty() {
            return Ok(Vec::new());
        }
        let unpack_all = || {
            let style = ProgressStyle::with_template("{bar:30} {pos} of {len} program files and libraries");
            let bar = ProgressBar::new(modules.len() as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            let mut damaged = Vec::new();
            for (number, (build_id, to)) in modules.iter().enumerate() {
                match self.unpack_one(build_id, to) {
                    Ok(true) => {}
                    // Of the temporary directory, whatever the module has.
                    Err(error) if is_out_of_space(&error) => {
                        return Err(CliError::File { path: place.to_owned(), error });
                    }
                    Ok(false) | Err(_) => damaged.push(number),
                }
                bar.inc(1);
            }
            bar.finish_and_clear();
            Ok(damaged)
        };
        match self {
            Self::Store(root) => run_as_owner(root, None, unpack_all),
            Self::Bundle(_) => unpack_all(),
        }
    }

    /// `false`: it is damaged, or has another build-id.
    fn unpack_one(&self, build_id: &str, to: &File) -> io::Result<bool> {
        let mut out = to;
        match self {
            Self::Store(root) => {
                let Some(module) = open_module(root, build_id) else { return Ok(false) };
                module.unpack_to(&mut out, MAX_MODULE)?;
            }
            Self::Bundle(bundle) => {
                let Some(unpacked) = bundle.unpack_module(build_id, &mut out) else { return Ok(false) };
                unpacked?;
            }
        }
        out.flush()?;
        Ok(read_build_id(|buffer, at| to.read_at(buffer, at))?.as_deref() == Some(build_id))
    }
}

fn is_out_of_space(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(coreward_sys::no_space::is_out_of_space)
}
