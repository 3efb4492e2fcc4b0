//! The modules of a crash whose core is stored: its mapped files, copied to the module store when the process has gone and the crash is
//! recorded. Nobody waits for it, and what is missing in the store costs names only.

use super::blocking::run_blocking;
use super::local_users;
use super::record_builder::RecordBuilder;
use super::shared::{Shared, lock};
use crate::crash::{Module, Record};
use crate::policy::access;
use crate::policy::modules::{ModulePolicy, saw_host_files};
use crate::reader::{ModuleError, ModuleFile, ModuleReader};
use crate::store::{MAX_MODULE, ModuleUser};
use coreward_sys::pidfd;
use nix::unistd::Uid;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The mapped files of a crash.
pub(super) struct ModuleFiles {
    pub(super) policy: ModulePolicy,
    /// Each with the first address of its module.
    pub(super) files: Vec<(u64, OwnedFd)>,
}

/// The first addresses of the modules that the store lacks, or that the user of the process may not read there.
pub(super) fn missing_modules(shared: &Shared, policy: ModulePolicy, builder: &RecordBuilder) -> Vec<u64> {
    if policy == ModulePolicy::None {
        return Vec::new();
    }
    let reader = builder.reader().filter(|uid| local_users::may_be_person(&shared.root, *uid));
    // Where the process saw the mounts of the host, a file that was not replaced is the host's. What packages have is known after the
    // first crash.
    let spared = builder.sees_host_files(policy).then(|| shared.host_packages.known_index()).flatten();
    let may_replace = builder.saw_host_files();
    let is_wanted = |module: &&Module| {
        let Some(build_id) = module.build_id.as_deref().filter(|_| !module.path.starts_with('[')) else { return false };
        !spared.as_ref().is_some_and(|packages| packages.has(&module.path))
            && !shared.modules.has_for(build_id, reader, may_replace)
    };
    builder.modules().iter().filter(is_wanted).map(|module| module.start).collect()
}

/// Stores the modules of a crash, in a task of its own. `user` may read its core.
pub(super) fn store_modules(shared: &Arc<Shared>, record: &Arc<Record>, user: Option<Uid>, modules: ModuleFiles) {
    if !record.core.is_stored() || modules.policy == ModulePolicy::None {
        return;
    }
    let (principal, _) = record.answering();
    let place = match shared.module_queue.enter(principal) {
        Ok(place) => place,
        Err(most) => {
            tracing::warn!("the modules of crash {} are not stored: those of {most} others are not yet", record.id);
            return;
        }
    };
    let (with, record) = (Arc::clone(shared), Arc::clone(record));
    // Who may read a core is decided by the record; who the user is, by the machine.
    let user = user.filter(|uid| access::reader_of(&record) == Some(*uid));
    shared.shutdown.spawn(async move {
        let _place = place;
        let _copying = tokio::select! {
            lock = with.module_queue.copy_lock.lock() => lock,
            () = with.shutdown.stopped() => return,
        };
        let shared = Arc::clone(&with);
        let stored = run_blocking(move || ModuleJob { shared: &shared, record: &record, user }.run(modules));
        match stored.await.flatten() {
            Ok(()) => {}
            Err(error) => tracing::warn!("modules are missing in the store: {error}"),
        }
        with.refresh_metrics();
    });
}

struct ModuleJob<'a> {
    shared: &'a Shared,
    record: &'a Record,
    user: Option<Uid>,
}

impl ModuleJob<'_> {
    /// Blocks.
    fn run(&self, modules: ModuleFiles) -> io::Result<()> {
        let build_ids: HashSet<String> =
            self.record.modules.iter().filter_map(|module| module.build_id.clone()).collect();
        self.shared.modules.mark_used(&build_ids);
        let by_address: HashMap<u64, &Module> =
            self.record.modules.iter().map(|module| (module.start, module)).collect();
        let mut files: Vec<(&Module, OwnedFd)> =
            modules.files.into_iter().filter_map(|(start, file)| Some((*by_address.get(&start)?, file))).collect();
        // The same file may be mapped twice.
        let mut seen = HashSet::new();
        files.retain(|(module, _)| module.build_id.is_some() && seen.insert(&module.build_id));
        if files.is_empty() || self.is_reader_lost() {
            return Ok(());
        }
        let mut reader = self.shared.readers.open_modules(self.host_paths(modules.policy, &files))?;
        let stored = self.store_all(&mut reader, &files, &build_ids);
        if stored.is_err() {
            // It is killed now, which a file system that does not answer may delay for ever.
            *lock(&self.shared.module_queue.lost) = Some(reader.pidfd());
        }
        stored
    }

    fn is_reader_lost(&self) -> bool {
        let mut lost = lock(&self.shared.module_queue.lost);
        if lost.as_ref().is_some_and(|reader| pidfd::is_alive(reader.as_fd())) {
            return true;
        }
        *lost = None;
        false
    }

    /// For each file the path of the host's file that it is compared with, if a package has that.
    fn host_paths(&self, policy: ModulePolicy, files: &[(&Module, OwnedFd)]) -> Vec<Option<String>> {
        if !policy.spares_packages(self.record) {
            return vec![None; files.len()];
        }
        let packages = self.shared.host_packages.index();
        files.iter().map(|(module, _)| packages.has(&module.path).then(|| module.path.clone())).collect()
    }

    /// # Errors
    /// The reader has ended, or is late.
    fn store_all(
        &self,
        reader: &mut ModuleReader,
        files: &[(&Module, OwnedFd)],
        build_ids: &HashSet<String>,
    ) -> io::Result<()> {
        for (number, (module, file)) in files.iter().enumerate() {
            if self.shared.shutdown.is_stopped() {
                return Ok(());
            }
            let Some(facts) = reader.look_at(file, number)? else { continue };
            // What the file is called proves nothing, and neither does what the memory says of it.
            let Some(build_id) = facts.build_id.as_deref().filter(|found| module.build_id.as_deref() == Some(*found))
            else {
                continue;
            };
            if facts.is_hosts || facts.length > MAX_MODULE {
                continue;
            }
            let trusted = self.is_trusted(&facts);
            match self.shared.modules.open(build_id) {
                Some((stored, is_stored_trusted)) if is_stored_trusted || !trusted => {
                    self.grant(reader, &facts, &stored)?;
                }
                _ => self.copy(reader, build_id, &facts, build_ids)?,
            }
        }
        Ok(())
    }

    /// Whether nobody but root of this host could have written the file.
    fn is_trusted(&self, facts: &ModuleFile) -> bool {
        facts.is_only_roots() && saw_host_files(self.record)
    }

    /// The user who may read a stored module with the bytes of this file: who could read the file.
    fn reader_of(&self, facts: &ModuleFile) -> Option<Uid> {
        self.user.filter(|uid| facts.is_readable_by(*uid))
    }

    /// Lets the user read a stored module that has the bytes of a file that the user could read.
    fn grant(&self, reader: &mut ModuleReader, facts: &ModuleFile, stored: &File) -> io::Result<()> {
        let Some(uid) = self.reader_of(facts) else { return Ok(()) };
        if reader.is_same(stored)? {
            // Root and the administrators can read it all the same.
            let _ = self.shared.modules.grant_read(stored, uid);
        }
        Ok(())
    }

    /// # Errors
    /// The reader has ended, or is late. What else fails is logged.
    fn copy(
        &self,
        reader: &mut ModuleReader,
        build_id: &str,
        facts: &ModuleFile,
        build_ids: &HashSet<String>,
    ) -> io::Result<()> {
        let modules = &self.shared.modules;
        let (principal, _) = self.record.answering();
        let user = ModuleUser { principal: &principal, build_ids };
        // Programs shrink to a third. What shrinks less is tried again.
        let incompressible = facts.length + facts.length / 128 + 1024;
        for reserved in [facts.length / 2 + 4096, incompressible] {
            if !modules.reserve(user, reserved) {
                tracing::info!("module {build_id} is not stored: MaxModulesUse= or KeepFree= leave no room for it");
                return Ok(());
            }
            let copied = modules.create().map(|to| reader.copy(&to, reserved).map(|copied| (to, copied)));
            let (to, copied) = match copied {
                Ok(Ok(copied)) => copied,
                Ok(Err(lost)) => {
                    modules.cancel(reserved);
                    return Err(lost);
                }
                Err(error) => {
                    modules.cancel(reserved);
                    tracing::warn!("module {build_id} is not stored: {error}");
                    return Ok(());
                }
            };
            match copied {
                Ok(length) if to.metadata()?.len() == length => {
                    if let Some(uid) = self.reader_of(facts) {
                        let _ = modules.grant_read(&to, uid);
                    }
                    if let Err(error) = modules.publish(&to, build_id, reserved, self.is_trusted(facts)) {
                        tracing::warn!("module {build_id} is not stored: {error}");
                    }
                    return Ok(());
                }
                Err(ModuleError::TooLong) => modules.cancel(reserved),
                Ok(_) => {
                    modules.cancel(reserved);
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Err(ModuleError::Io(errno)) => {
                    modules.cancel(reserved);
                    tracing::warn!("module {build_id} is not stored: {}", io::Error::from_raw_os_error(errno));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
