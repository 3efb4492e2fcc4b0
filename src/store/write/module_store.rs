//! The daemon's side of the module store: its quota, and which modules go when there is no room.
//!
//! Which cores refer to a module is not written down: each core has its record, and the record the build-ids. They are read when
//! something has to be evicted, and remembered as long as the core is stored.

use super::ledger::Ledger;
use crate::crash::{CrashId, Principal};
use crate::policy::modules::{ModuleCandidate, ModuleHolders, choose_modules};
use crate::store::access_list;
use crate::store::core_dir::open_core;
use crate::store::format;
use crate::store::module_dir::{build_id_of_name, module_file_name, open_module_in};
use crate::store::pin;
use coreward_sys::file_system::Space;
use coreward_sys::rename::move_new;
use coreward_sys::{tmpfile, xattr};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::{File, FileTimes};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The attribute of a module that only root of this host could have written (xattr(7), namespace "user").
const TRUSTED: &CStr = c"user.coreward.trusted";
/// How long a module stays that no stored core refers to: the next crash of the same service, or somebody who is at work, may want it.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

/// The modules of one directory, shared by all crashes.
#[derive(Debug)]
pub struct ModuleStore {
    dir: OwnedFd,
    ledger: Arc<Ledger>,
    state: Mutex<ModuleState>,
    /// For the build-ids in records: users choose them, and nobody can choose two with the same hash.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct ModuleState {
    modules: HashMap<String, ModuleEntry>,
    /// Bytes of modules that are being written.
    reserved: u64,
    /// Hashes of the build-ids in the records of stored cores, also of those that are not stored yet. A record may have thousands, and a
    /// principal thousands of cores.
    references: HashMap<CrashId, Arc<[u64]>>,
    evictions: u64,
}

#[derive(Clone, Copy, Debug)]
struct ModuleEntry {
    bytes: u64,
    last_use_us: u64,
    trusted: bool,
}

/// For whom room is made.
#[derive(Clone, Copy, Debug)]
pub struct ModuleUser<'a> {
    /// Whose disk space the modules take.
    pub principal: &'a Principal,
    /// The build-ids of all modules of the crash, which stay.
    pub build_ids: &'a HashSet<String>,
}

impl ModuleStore {
    /// The modules in `dir`, which the cores of `ledger` refer to.
    #[must_use]
    pub fn new(dir: OwnedFd, ledger: Arc<Ledger>) -> Self {
        let store = Self { dir, ledger, state: Mutex::default(), hasher: RandomState::new() };
        store.refresh();
        store
    }

    /// The directory, for files that [`Self::publish`] gives a name.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Looks at the directory again: somebody may have deleted modules.
    pub fn refresh(&self) {
        // Locked meanwhile: a module that is published now must not be forgotten.
        let mut state = self.state();
        match list(self.dir.as_fd()) {
            Ok(found) => state.modules = found,
            Err(error) => tracing::warn!("the directory of the modules cannot be read: {error}"),
        }
    }

    /// Bytes of all modules, those included that are being written, and the number of stored ones.
    pub fn usage(&self) -> (u64, usize) {
        let state = self.state();
        (state.used(), state.modules.len())
    }

    /// The number of modules that were deleted to make room.
    pub fn evictions(&self) -> u64 {
        self.state().evictions
    }

    /// Whether the module is stored, and `reader`, if there is one, may read it. `may_replace`: the crash may have a file that only root of
    /// this host could have written, which replaces another one.
    pub fn has_for(&self, build_id: &str, reader: Option<Uid>, may_replace: bool) -> bool {
        let is_stored = self.state().modules.get(build_id).is_some_and(|module| module.trusted || !may_replace);
        is_stored
            && reader.is_none_or(|uid| {
                open_module_in(self.dir.as_fd(), build_id).is_ok_and(|file| access_list::grants_read(file.as_fd(), uid))
            })
    }

    /// Opens a stored module, and whether only root of this host could have written its file.
    pub fn open(&self, build_id: &str) -> Option<(File, bool)> {
        let trusted = self.state().modules.get(build_id)?.trusted;
        Some((open_module_in(self.dir.as_fd(), build_id).ok()?, trusted))
    }

    /// Lets user `uid` read a stored module.
    ///
    /// # Errors
    /// The error of fsetxattr(2).
    pub fn grant_read(&self, module: &File, uid: Uid) -> io::Result<()> {
        access_list::grant_read(module.as_fd(), uid)
    }

    /// Writes down that a crash refers to these modules now.
    pub fn mark_used(&self, build_ids: &HashSet<String>) {
        let now = SystemTime::now();
        for build_id in build_ids {
            if !self.state().modules.contains_key(build_id) {
                continue;
            }
            let Ok(file) = open_module_in(self.dir.as_fd(), build_id) else { continue };
            let _ = file.set_times(FileTimes::new().set_modified(now));
            if let Some(module) = self.state().modules.get_mut(build_id) {
                module.last_use_us = micros(now);
            }
        }
    }

    /// Reserves `bytes` for a module of `user`, and evicts others if there is no room. `false`: there is none.
    pub fn reserve(&self, user: ModuleUser<'_>, bytes: u64) -> bool {
        let limits = self.ledger.limits();
        let free = Space::of(self.dir.as_fd()).map_or(0, |space| space.free);
        let above = |state: &ModuleState| state.used().saturating_add(bytes).saturating_sub(limits.modules);
        let below = limits.keep_free.saturating_add(bytes).saturating_sub(free);
        let missing = {
            let mut state = self.state();
            match above(&state).max(below) {
                0 => {
                    state.reserved += bytes;
                    return true;
                }
                missing => missing,
            }
        };
        if bytes > limits.modules {
            return false;
        }
        let holders = self.holders();
        let mut state = self.state();
        let candidates: Vec<ModuleCandidate<'_>> = state
            .modules
            .iter()
            .map(|(build_id, module)| {
                let Held { holders, pinned } = holders.get(&self.hash(build_id)).cloned().unwrap_or_default();
                ModuleCandidate {
                    build_id,
                    bytes: module.bytes,
                    last_use_us: module.last_use_us,
                    holders,
                    pinned: pinned || user.build_ids.contains(build_id),
                }
            })
            .collect();
        let Some(chosen) = choose_modules(&candidates, user.principal, bytes, missing) else { return false };
        let chosen: Vec<String> = chosen.into_iter().map(str::to_owned).collect();
        for build_id in chosen {
            if self.delete(&mut state, &build_id) {
                state.evictions += 1;
            }
        }
        let fits = above(&state) == 0;
        if fits {
            state.reserved += bytes;
        }
        fits
    }

    /// Returns a reservation.
    pub fn cancel(&self, bytes: u64) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(bytes);
    }

    /// A file for a module, without a name.
    ///
    /// # Errors
    /// The error of openat(2).
    pub fn create(&self) -> io::Result<File> {
        Ok(tmpfile::create(self.dir.as_fd(), Mode::from_bits_truncate(0o640))?.into())
    }

    /// Gives a complete file its name; `reserved` bytes were reserved for it. A stored module of this build-id that not only root of this host
    /// could have written is replaced by one (`trusted`) that nobody else could.
    ///
    /// # Errors
    /// The error of fsync(2) or linkat(2). The reservation is returned all the same.
    pub fn publish(&self, file: &File, build_id: &str, reserved: u64, trusted: bool) -> io::Result<()> {
        let published = self.publish_unaccounted(file, build_id, trusted);
        self.cancel(reserved);
        published
    }

    fn publish_unaccounted(&self, file: &File, build_id: &str, trusted: bool) -> io::Result<()> {
        let name = module_file_name(build_id).ok_or(Errno::EINVAL)?;
        if trusted {
            // Where there are no attributes, every module may be replaced.
            let _ = xattr::set(file.as_fd(), TRUSTED, b"1");
        }
        let bytes = file.metadata()?.len();
        let is_replaced = {
            let mut state = self.state();
            trusted
                && state.modules.get(build_id).is_some_and(|module| !module.trusted)
                && self.delete(&mut state, build_id)
        };
        if is_replaced {
            tracing::info!("module {build_id} was replaced: root's file of this build-id was found");
        }
        match tmpfile::publish(file.as_fd(), self.dir.as_fd(), &name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            published => published?,
        }
        let entry = ModuleEntry { bytes, last_use_us: micros(SystemTime::now()), trusted };
        self.state().modules.insert(build_id.to_owned(), entry);
        Ok(())
    }

    /// Moves a module that somebody else wrote into the store.
    ///
    /// # Errors
    /// There is no room (`StorageFull`), it is stored already (`AlreadyExists`), or the error of renameat2(2).
    pub fn adopt(&self, from: &OwnedFd, build_id: &str, user: ModuleUser<'_>) -> io::Result<()> {
        let name = module_file_name(build_id).ok_or(Errno::EINVAL)?;
        let bytes = open_module_in(from.as_fd(), build_id)?.metadata()?.len();
        if !self.reserve(user, bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let moved = move_new(from.as_fd(), self.dir.as_fd(), name.as_ref());
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(bytes);
        moved?;
        let entry = ModuleEntry { bytes, last_use_us: micros(SystemTime::now()), trusted: false };
        state.modules.insert(build_id.to_owned(), entry);
        Ok(())
    }

    /// Deletes the modules that no stored core has referred to for a day. Returns how many.
    pub fn remove_orphans(&self) -> usize {
        let before = micros(SystemTime::now() - ORPHAN_AGE);
        let is_old = |module: &ModuleEntry| module.last_use_us < before;
        if !self.state().modules.values().any(is_old) {
            return 0;
        }
        let holders = self.holders();
        let mut state = self.state();
        let is_orphan = |(build_id, module): &(&String, &ModuleEntry)| {
            is_old(module) && !holders.contains_key(&self.hash(build_id))
        };
        let orphans: Vec<String> =
            state.modules.iter().filter(is_orphan).map(|(build_id, _)| build_id.clone()).collect();
        orphans.iter().filter(|build_id| self.delete(&mut state, build_id)).count()
    }

    /// Deletes a module; `false` if it cannot be deleted.
    fn delete(&self, state: &mut ModuleState, build_id: &str) -> bool {
        let Some(name) = module_file_name(build_id) else { return false };
        match unlinkat(&self.dir, &name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {
                state.modules.remove(build_id);
                true
            }
            Err(error) => {
                tracing::error!("module {build_id} cannot be deleted: {error}");
                false
            }
        }
    }

    fn hash(&self, build_id: &str) -> u64 {
        self.hasher.hash_one(build_id)
    }

    /// For each stored module that a stored core refers to, by its hash: whose cores, and whether one of them is pinned. Reads the records
    /// of cores that are not known yet.
    fn holders(&self) -> HashMap<u64, Held> {
        let cores = self.ledger.holders();
        let (known, stored) = {
            let mut state = self.state();
            let stored: HashSet<&CrashId> = cores.iter().map(|(id, _)| id).collect();
            state.references.retain(|id, _| stored.contains(id));
            let modules: HashSet<u64> = state.modules.keys().map(|build_id| self.hash(build_id)).collect();
            (state.references.clone(), modules)
        };
        let mut principals: HashMap<Principal, Arc<str>> = HashMap::new();
        let mut found: HashMap<u64, Held> = HashMap::new();
        for (id, principal) in cores {
            let build_ids = known.get(&id).cloned().unwrap_or_else(|| {
                let read =
                    open_core(self.ledger.dir(), &id).ok().and_then(|mut core| format::read_build_ids(&mut core).ok());
                let build_ids: Arc<[u64]> =
                    read.unwrap_or_default().iter().map(|build_id| self.hash(build_id)).collect();
                self.state().references.insert(id.clone(), Arc::clone(&build_ids));
                build_ids
            });
            let mut own = build_ids.iter().filter(|build_id| stored.contains(build_id)).peekable();
            if own.peek().is_none() {
                continue;
            }
            let pinned = pin::is_pinned(self.ledger.dir(), &id);
            let text = principals.entry(principal).or_insert_with_key(|principal| principal.to_string().into());
            for build_id in own {
                let held = found.entry(*build_id).or_default();
                held.holders.add(text);
                held.pinned |= pinned;
            }
        }
        found
    }

    fn state(&self) -> MutexGuard<'_, ModuleState> {
        // A panic cannot leave an update of the table half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModuleState {
    fn used(&self) -> u64 {
        self.modules.values().map(|module| module.bytes).sum::<u64>().saturating_add(self.reserved)
    }
}

/// Whose stored cores refer to a module, and whether one of them is pinned.
#[derive(Clone, Debug, Default)]
struct Held {
    holders: ModuleHolders,
    pinned: bool,
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn list(dir: BorrowedFd<'_>) -> io::Result<HashMap<String, ModuleEntry>> {
    let listing = Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let names = listing.into_iter().filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()));
    let found = names.filter_map(|name| {
        let build_id = build_id_of_name(Path::new(&name))?;
        let file = open_module_in(dir, build_id).ok()?;
        let metadata = file.metadata().ok()?;
        let last_use_us = metadata.modified().map_or(0, micros);
        let trusted = xattr::has(file.as_fd(), TRUSTED);
        Some((build_id.to_owned(), ModuleEntry { bytes: metadata.len(), last_use_us, trusted }))
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures::record;
    use crate::crash::{Module, Record};
    use crate::policy::evict::Attribution;
    use crate::policy::quota::Quotas;
    use std::os::unix::fs::FileExt;

    struct Fixture {
        dir: tempfile::TempDir,
        ledger: Arc<Ledger>,
        store: ModuleStore,
    }

    fn fixture(limit: u64) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            OwnedFd::from(File::open(dir.path().join(name)).unwrap())
        };
        let ledger = Arc::new(Ledger::new(open("cores")));
        ledger.set_limits(Quotas {
            modules: Some(limit),
            keep_free: Some(0),
            max_use: Some(1 << 40),
            ..Quotas::default()
        });
        let store = ModuleStore::new(open("modules"), Arc::clone(&ledger));
        Fixture { dir, ledger, store }
    }

    impl Fixture {
        /// Stores a module of this many bytes for a crash that refers to it and to `kept`. `false`: there was no room.
        fn add(&self, build_id: &str, bytes: u64, kept: &[&str], trusted: bool) -> bool {
            let build_ids: HashSet<String> = kept.iter().chain([&build_id]).map(|id| (*id).to_owned()).collect();
            let user = ModuleUser { principal: &Principal::Unknown, build_ids: &build_ids };
            if !self.store.reserve(user, bytes) {
                return false;
            }
            let file = self.store.create().unwrap();
            file.write_all_at(&vec![7; usize::try_from(bytes).unwrap()], 0).unwrap();
            self.store.publish(&file, build_id, bytes, trusted).unwrap();
            true
        }

        /// Stores a core whose record refers to these modules.
        fn add_core(&self, number: u32, build_ids: &[&str]) -> Record {
            let module = |build_id: &&str| Module {
                path: "/lib/x".to_owned(),
                build_id: Some((*build_id).to_owned()),
                package: None,
                owner: None,
                bias: 0,
                start: 0,
                end: 0,
            };
            let record = Record { modules: build_ids.iter().map(module).collect(), ..record(number) };
            let room = format::record_room(&record, 0).unwrap();
            let path = self.dir.path().join("cores").join(crate::store::core_file_name(&record.id));
            std::fs::write(path, format::record_frame(&record, room).unwrap()).unwrap();
            self.ledger.commit(Attribution::of_record(&record), 0, record.id.clone(), record.time_us, 1);
            record
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path().join("modules")).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        /// Makes a module one that was used this long ago.
        fn grow_old(&self, build_id: &str, age: Duration) {
            let file = open_module_in(self.store.dir.as_fd(), build_id).unwrap();
            file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
            self.store.refresh();
        }
    }

    #[test]
    fn the_quota_is_held_and_the_module_of_a_stored_core_is_evicted_last() {
        let it = fixture(100);
        for build_id in ["aa", "bb", "cc"] {
            assert!(it.add(build_id, 30, &[], true));
        }
        it.grow_old("aa", Duration::from_secs(9));
        it.grow_old("bb", Duration::from_secs(5));
        let kept = it.add_core(7, &["aa"]);
        assert!(it.add("dd", 30, &[], true));
        assert_eq!(it.names(), ["aa.zst", "cc.zst", "dd.zst"], "a core refers to aa");
        assert_eq!((it.store.usage(), it.store.evictions()), ((90, 3), 1));
        pin::set_pinned(it.ledger.dir(), &kept.id, true).unwrap();
        assert!(!it.add("ee", 80, &[], true), "that of a pinned core stays, and nothing goes in vain");
        assert_eq!(it.names(), ["aa.zst", "cc.zst", "dd.zst"]);
        assert!(it.add("ee", 70, &[], true));
        assert_eq!(it.names(), ["aa.zst", "ee.zst"]);
        assert!(!it.add("ff", 101, &[], true), "larger than all");
    }

    #[test]
    fn the_modules_of_one_crash_do_not_evict_each_other() {
        let it = fixture(50);
        assert!(it.add("aa", 30, &[], true));
        assert!(!it.add("bb", 30, &["aa"], true));
        assert_eq!(it.names(), ["aa.zst"]);
    }

    #[test]
    fn what_the_store_lacks_is_remembered_in_eight_bytes_and_known_when_it_comes() {
        let it = fixture(50);
        let build_ids: Vec<String> = (0..200).map(|number| format!("{number:040x}")).collect();
        let core = it.add_core(7, &build_ids.iter().map(String::as_str).collect::<Vec<_>>());
        it.add_core(8, &["bb"]);
        assert!(it.store.holders().is_empty(), "no module is stored");
        let references = it.store.state().references.clone();
        assert_eq!((references[&core.id].len(), size_of_val(&references[&core.id][0])), (200, 8));
        // Stored only after the record was read.
        assert!(it.add(&build_ids[3], 30, &[], true));
        let holders = it.store.holders();
        assert_eq!(holders.keys().copied().collect::<Vec<_>>(), [it.store.hash(&build_ids[3])]);
        it.grow_old(&build_ids[3], ORPHAN_AGE * 2);
        assert_eq!(it.store.remove_orphans(), 0);
    }

    #[test]
    fn what_no_core_refers_to_is_deleted_after_a_day() {
        let it = fixture(100);
        for build_id in ["aa", "bb", "cc"] {
            assert!(it.add(build_id, 9, &[], true));
        }
        it.add_core(7, &["bb"]);
        it.grow_old("aa", ORPHAN_AGE * 2);
        it.grow_old("bb", ORPHAN_AGE * 2);
        assert_eq!(it.store.remove_orphans(), 1);
        assert_eq!(it.names(), ["bb.zst", "cc.zst"]);
        it.grow_old("cc", ORPHAN_AGE * 2);
        it.store.mark_used(&HashSet::from(["cc".to_owned()]));
        assert_eq!(it.store.remove_orphans(), 0, "used a moment ago");
    }

    #[test]
    fn roots_file_replaces_that_of_a_user_and_none_replaces_roots() {
        let it = fixture(100);
        assert!(it.add("aa", 9, &[], false));
        assert!(!it.store.has_for("aa", None, true), "it is asked for again");
        assert!(it.store.has_for("aa", None, false), "in a container there is none that would replace it");
        assert!(it.add("aa", 20, &[], true));
        assert!(it.store.has_for("aa", None, true));
        assert_eq!(it.store.usage(), (20, 1));
        assert!(it.add("aa", 30, &[], false) && it.add("aa", 40, &[], true));
        assert_eq!(it.store.usage(), (20, 1));
        let stored = std::fs::metadata(it.dir.path().join("modules/aa.zst")).unwrap();
        assert_eq!(stored.len(), 20);
    }

    #[test]
    fn a_reader_is_one_who_was_granted_it() {
        let it = fixture(100);
        it.add("aa", 9, &[], true);
        let uid = Uid::from_raw(4711);
        assert!(it.store.has_for("aa", None, true) && !it.store.has_for("aa", Some(uid), true));
        it.store.grant_read(&it.store.open("aa").unwrap().0, uid).unwrap();
        assert!(it.store.has_for("aa", Some(uid), true) && !it.store.has_for("aa", Some(Uid::from_raw(4712)), true));
    }
}
