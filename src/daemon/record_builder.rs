//! Stage 3: a record in the making. Each fact is set here and nowhere else, by the stage that learns it.

mod frame_names;

use super::evidence::Evidence;
use super::identity::{CrashIdentity, Host};
use crate::crash::auxv::Auxv;
use crate::crash::text::{from_bytes, to_hexadecimal};
use crate::crash::{
    ArgumentList, CoreReport, Decision, Dump, Frame, InterpreterStack, NoCore, Origin, Package, PidPin, Record,
    RuntimeReport, Signature, Warning, cgroup, signal,
};
use crate::elf::ProcessNotes;
use crate::policy::access::{self, AccessFacts};
use crate::policy::evict::Attribution;
use crate::policy::modules::{ModulePolicy, saw_host_files};
use crate::reader::{CrashedStack, OtherThreads};
use crate::unwind::{self, Anonymous, SignatureInput};
use coreward_wire::{Details, MAX_TABLE, Namespaces, Offer};
use nix::unistd::{Gid, Pid, Uid};
use std::time::Duration;

/// A record that is not finished.
#[derive(Clone, Debug)]
pub(super) struct RecordBuilder {
    /// Not in the session's future itself, which would be copied with it.
    record: Box<Record>,
    reader: Option<Uid>,
    warnings: Vec<Warning>,
}

impl RecordBuilder {
    /// Describes a crash from its offer and what the inspection found. `time` is that of the crash, since 1970.
    pub(super) fn new(
        crash: CrashIdentity,
        offer: &Offer,
        evidence: Evidence,
        origin: Origin,
        time: Duration,
        host: &Host,
    ) -> Self {
        let Evidence { facts, stack, warnings } = evidence;
        let access = access_facts(offer, facts.auxv);
        let CrashIdentity { key, id } = crash;
        let shim_warnings = offer.warnings.iter().cloned().map(Warning::Reported);
        let omitted = Some(facts.cmdline.omitted).filter(|omitted| *omitted > 0).map(Warning::ArgumentsOmitted);
        let warnings = shim_warnings.chain(warnings).chain(omitted).collect();
        let record = Record {
            format: Record::FORMAT,
            id,
            key,
            time_us: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
            tid: offer.tid,
            uid: offer.uid,
            gid: offer.gid,
            login_uid: offer.login_uid,
            subuid_owner: offer.uid.and_then(|uid| host.subordinate_ids.owner_of(uid)),
            signal: offer.signal,
            signal_name: offer
                .dump
                .as_ref()
                .map_or_else(|| signal::name(offer.signal), |_| Dump::SIGNAL_NAME.to_owned()),
            comm: from_bytes(&offer.comm),
            thread_name: from_bytes(&offer.thread_name),
            pidfd: offer.pin.map(pid_pin),
            dumpable: offer.dumpable,
            exe: from_bytes(&offer.exe),
            exe_deleted: offer.exe_deleted,
            exe_build_id: facts.exe_build_id,
            cmdline: facts.cmdline.quoted(),
            arguments: facts.cmdline,
            cwd: String::new(),
            root: from_bytes(&offer.root),
            hostname: from_bytes(&offer.hostname),
            cgroup: cgroup::parse(&from_bytes(&offer.cgroup)),
            namespaces: namespace_names(offer.namespaces),
            parent_cmdline: String::new(),
            in_namespace: offer.namespaces.pid || offer.namespaces.user,
            privileged: access::is_privileged(&access),
            core_limit: offer.core_limit,
            status: String::new(),
            limits: String::new(),
            open_fds: String::new(),
            auxv: to_hexadecimal(&facts.raw_auxv),
            maps: String::new(),
            mountinfo: String::new(),
            environ: String::new(),
            kernel: host.kernel.clone(),
            machine: host.machine.clone(),
            machine_id: host.machine_id.clone(),
            origin,
            dump: offer.dump.as_ref().map(|reason| Dump { reason: from_bytes(reason) }),
            attempt: offer.attempt,
            held_us: 0,
            signature: None,
            stack: Vec::new(),
            other_threads: Vec::new(),
            interpreter: None,
            runtime_report: None,
            modules: Vec::new(),
            siginfo: None,
            failure: None,
            fault: None,
            decision: Decision::default(),
            core: CoreReport::none(NoCore::Gone),
            warnings: Vec::new(),
        };
        let mut builder = Self { record: Box::new(record), reader: access::reader(&access), warnings };
        builder.set_stack(stack);
        builder.name_exe_module();
        // The spool has the texts in the offer.
        builder.set_texts(&offer.details);
        builder.bound();
        builder
    }

    /// Shortens the record if it is too long, before more of it is held or it goes anywhere.
    fn bound(&mut self) {
        let cuts = self.record.bound();
        if !cuts.is_empty() {
            self.warn(Warning::RecordCut(cuts));
        }
    }

    /// Goes on with a record that an earlier daemon left with the shim.
    pub(super) fn resume(record: Record, reader: Option<Uid>, attempt: u32) -> Self {
        let warnings = record.warnings.iter().cloned().map(Warning::Reported).collect();
        let mut builder = Self { record: Box::new(Record { attempt, ..record }), reader, warnings };
        // An earlier version of the daemon may have written it.
        builder.bound();
        builder
    }

    fn set_stack(&mut self, stack: Option<CrashedStack>) {
        let record = &mut self.record;
        match stack {
            Some(CrashedStack { frames, modules, siginfo, failure, fault, unsearched, signature }) => {
                record.stack = frames;
                record.modules = modules;
                if record.dump.is_some() {
                    // Nothing failed, and no bug has its name.
                    return;
                }
                record.siginfo = siginfo;
                record.failure = failure;
                record.fault = fault;
                record.signature = Some(signature);
                if unsearched > 0 {
                    self.warn(Warning::ThreadsNotSearched(unsearched));
                }
            }
            None if record.dump.is_some() => {}
            None => record.signature = Some(signature_without_stack(record)),
        }
    }

    /// Gives the module of an executable whose name ends with " (deleted)" that name: the unwinder takes it for the kernel's.
    fn name_exe_module(&mut self) {
        let record = &mut self.record;
        if let Some(stripped) = record.exe.strip_suffix(" (deleted)").filter(|_| record.exe_deleted == Some(false)) {
            for module in record.modules.iter_mut().filter(|module| module.path == stripped) {
                module.path.clone_from(&record.exe);
            }
        }
    }

    fn set_texts(&mut self, details: &Details) {
        let Details { cwd, status, limits, open_fds, parent, maps, mountinfo, failed_thread } = details;
        self.record.parent_cmdline = ArgumentList::read(&mut parent.as_slice()).quoted();
        self.record.cwd = from_bytes(cwd);
        self.record.status = from_bytes(status);
        self.record.limits = from_bytes(limits);
        self.record.open_fds = from_bytes(open_fds);
        self.record.maps = beginning_of_table(maps);
        self.record.mountinfo = beginning_of_table(mountinfo);
        if let Some(failure) = &mut self.record.failure {
            failure.thread_name = from_bytes(failed_thread);
        }
        if let Some(fault) = &mut self.record.fault {
            fault.name_mappings(&self.record.maps);
        }
    }

    /// Adds what the shim sent on request.
    pub(super) fn add_details(&mut self, details: &Details, warnings: Vec<String>) {
        self.set_texts(details);
        self.warnings.extend(warnings.into_iter().map(Warning::Reported));
        self.bound();
    }

    /// Adds what was decided.
    pub(super) fn set_decision(&mut self, decision: Decision) {
        self.record.decision = decision;
    }

    /// Adds the build-id that was read from the executable's file.
    pub(super) fn set_exe_build_id(&mut self, build_id: Option<String>) {
        self.record.exe_build_id = build_id;
    }

    /// Adds the variables of the environment that the configuration names; `None`: they could not be read in time.
    pub(super) fn set_environ(&mut self, variables: Option<String>) {
        match variables {
            Some(variables) => self.record.environ = variables,
            None => self.warn(Warning::EnvironmentTimedOut),
        }
        self.bound();
    }

    /// Adds the stacks of the threads that did not crash; `None`: they could not be unwound in time.
    pub(super) fn set_other_threads(&mut self, threads: Option<OtherThreads>) {
        let Some(OtherThreads { stacks, omitted, total }) = threads else {
            return self.warn(Warning::OtherThreadsTimedOut);
        };
        self.record.other_threads = stacks;
        self.bound();
        if omitted > 0 {
            self.warn(Warning::OtherThreadsOmitted { omitted, total });
        }
    }

    /// Adds the stack of the interpreted program; `None`: there is none.
    pub(super) fn set_interpreter(&mut self, stack: Option<InterpreterStack>) {
        self.record.interpreter = stack;
        self.bound();
    }

    /// Adds the report that the runtime wrote itself.
    pub(super) fn set_runtime_report(&mut self, report: RuntimeReport) {
        self.record.runtime_report = Some(report);
        self.bound();
    }

    /// Says how many bytes of the runtime's report are kept.
    pub(super) fn set_report_kept(&mut self, kept: u64) {
        if let Some(report) = &mut self.record.runtime_report {
            report.kept = kept;
        }
    }

    /// The record so far.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Addresses in the functions of the frames: a return address may already be in the next one.
    pub(super) fn code_addresses(&self) -> Vec<u64> {
        let Record { stack, modules, .. } = &*self.record;
        let address = |frame: &Frame| {
            let module = frame.module.and_then(|number| modules.get(number as usize));
            module.map_or(frame.address, |module| module.bias.wrapping_add(frame.offset))
        };
        stack.iter().map(address).collect()
    }

    /// Adds how long the process was held.
    pub(super) fn set_held(&mut self, held: Duration) {
        self.record.held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
    }

    /// Adds a soft error.
    pub(super) fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    /// Leaves out what the first records of the same signature say as well.
    pub(super) fn omit_repeated(&mut self) {
        self.record.shorten();
    }

    /// Leaves out what only the record of a crash with a core has.
    pub(super) fn omit_tables(&mut self) {
        self.record.omit_tables();
    }

    /// Fills in what the kernel's arguments did not say from the core's notes.
    pub(super) fn complete_from_notes(&mut self, notes: ProcessNotes) {
        self.record.complete_from_notes(notes.signal, notes.uid, notes.gid, notes.comm);
    }

    /// The record as it stands, without a core: what a shim keeps, and what a core's file reserves room for.
    pub(super) fn provisional(&self) -> Record {
        self.clone().finish(self.record.core.clone())
    }

    /// The finished record.
    pub(super) fn finish(self, core: CoreReport) -> Record {
        let warnings = self.warnings.iter().map(Warning::to_string).collect();
        let mut record = Record { core, warnings, ..*self.record };
        let cuts = record.bound();
        if !cuts.is_empty() {
            record.warnings.push(Warning::RecordCut(cuts).to_string());
        }
        record
    }

    /// PID in the initial namespace, 0 if unknown.
    pub(super) fn pid(&self) -> Pid {
        self.record.key.pid
    }

    /// Name of the process.
    pub(super) fn comm(&self) -> &str {
        &self.record.comm
    }

    /// The user who may read the core, if it is a user of this machine and its group one of the user's.
    pub(super) fn reader(&self) -> Option<Uid> {
        self.reader
    }

    /// Real gid, in the initial user namespace.
    pub(super) fn gid(&self) -> Option<Gid> {
        self.record.gid
    }

    /// The system unit.
    pub(super) fn unit(&self) -> Option<&str> {
        self.record.cgroup.unit.as_deref()
    }

    /// What the crash is counted under.
    pub(super) fn program(&self) -> String {
        self.record.program()
    }

    /// What its core is charged to.
    pub(super) fn attribution(&self) -> Attribution {
        Attribution::of_record(&self.record)
    }

    /// RLIMIT_CORE in bytes.
    pub(super) fn core_limit(&self) -> u64 {
        self.record.core_limit
    }

    /// Whether the build-id of the executable is known.
    pub(super) fn has_exe_build_id(&self) -> bool {
        self.record.exe_build_id.is_some()
    }

    /// Whether root asked for it, and nothing crashed.
    pub(super) fn is_dump(&self) -> bool {
        self.record.dump.is_some()
    }

    /// What the signature does not tell apart.
    pub(super) fn variant(&self) -> Option<String> {
        self.record.signature.as_ref()?.variant.clone()
    }

    /// The id of the thread that failed, if it was in a handler of the fault, in the PID namespace of the process.
    pub(super) fn failed_thread(&self) -> Option<u32> {
        self.record.failure.as_ref().map(|failure| failure.tid)
    }

    /// Whether files of this host's packages are left out of the module store, and the process saw the host's mounts.
    pub(super) fn sees_host_files(&self, policy: ModulePolicy) -> bool {
        policy.spares_packages(&self.record) && self.saw_host_files()
    }

    /// Whether the process saw the files of this host.
    pub(super) fn saw_host_files(&self) -> bool {
        saw_host_files(&self.record)
    }

    /// The first address of the executable.
    pub(super) fn exe_start(&self) -> Option<u64> {
        self.record.exe_module().map(|module| module.start)
    }

    /// Adds the packages of modules, each with the first address of its module.
    pub(super) fn set_owners(&mut self, owners: Vec<(u64, Package)>) {
        for (start, package) in owners {
            for module in self.record.modules.iter_mut().filter(|module| module.start == start) {
                module.owner = Some(package.clone());
            }
        }
    }

    /// The mapped ELF files.
    pub(super) fn modules(&self) -> &[crate::crash::Module] {
        &self.record.modules
    }
}

fn pid_pin(pin: coreward_wire::PidPin) -> PidPin {
    match pin {
        coreward_wire::PidPin::ByKernel => PidPin::Kernel,
        coreward_wire::PidPin::ByShim => PidPin::Shim,
    }
}

/// A table of `/proc`, of which the shim sends the beginning. An ellipsis stands for the rest.
fn beginning_of_table(table: &[u8]) -> String {
    if table.len() < MAX_TABLE {
        return from_bytes(table);
    }
    let whole_lines = table.iter().rposition(|byte| *byte == b'\n').and_then(|last| table.get(..=last));
    from_bytes(whole_lines.unwrap_or_default()) + "...\n"
}

/// The namespaces that are not the host's, as `/proc/PID/ns` has them (namespaces(7)).
fn namespace_names(namespaces: Namespaces) -> Vec<String> {
    let Namespaces { pid, user, mount, unknown } = namespaces;
    let names = [("pid", pid), ("user", user), ("mnt", mount), ("unknown", unknown)];
    names.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect()
}

/// What the process could do: by the kernel's arguments, by its threads when it crashed, by its memory when it was started.
fn access_facts(offer: &Offer, auxv: Auxv) -> AccessFacts {
    let threads = Some(&offer.credentials).filter(|threads| !threads.is_empty());
    AccessFacts {
        uid: offer.uid,
        gid: offer.gid,
        dumpable: offer.dumpable,
        secure: auxv.secure,
        uids: threads
            .zip(auxv.uids)
            .map(|(threads, started)| threads.iter().flat_map(|thread| thread.uids).chain(started).collect()),
        gids: threads
            .zip(auxv.gids)
            .map(|(threads, started)| threads.iter().flat_map(|thread| thread.gids).chain(started).collect()),
        capabilities: threads.map(|threads| threads.iter().fold(0, |all, thread| all | thread.capabilities)),
        on_host: !offer.namespaces.pid && !offer.namespaces.user && !offer.namespaces.unknown,
    }
}

/// The signature where no stack is known: from the executable's build-id, or its name.
fn signature_without_stack(record: &Record) -> Signature {
    let program = record.program();
    let input = SignatureInput {
        signal: record.signal,
        fault: None,
        stack_pointer: None,
        anonymous: &Anonymous::default(),
        frames: &[],
        module: &|_| None,
        is_code: &|_| false,
        build_id: record.exe_build_id.as_deref(),
        program: &program,
    };
    unwind::compute_signature(&input, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::evidence::ProcessFacts;
    use crate::daemon::identity::identify;
    use coreward_wire::Credentials;

    fn offer() -> Offer {
        Offer { boot_id: "0".repeat(32), exe: b"/usr/bin/x".to_vec(), ..Offer::default() }
    }

    fn evidence(warnings: Vec<Warning>) -> Evidence {
        Evidence { facts: ProcessFacts::default(), stack: None, warnings }
    }

    fn describe(offer: &Offer, evidence: Evidence) -> RecordBuilder {
        RecordBuilder::new(identify(offer), offer, evidence, Origin::Live, Duration::from_secs(1), &Host::default())
    }

    #[test]
    fn warnings_of_all_stages_are_in_the_record_in_their_order() {
        let offer = Offer { warnings: vec!["from the shim".to_owned()], ..offer() };
        let evidence = evidence(vec![Warning::MemoryTimedOut]);
        let mut builder = describe(&offer, evidence);
        builder.set_other_threads(Some(OtherThreads { stacks: Vec::new(), omitted: 2, total: 3 }));
        let expected = [
            "from the shim",
            "reading the memory of the process timed out",
            "the stacks of 2 of 3 other threads are missing: the limits on time or size were reached",
        ];
        assert_eq!(builder.provisional().warnings, expected);
        assert_eq!(builder.finish(CoreReport::none(NoCore::Storm)).warnings, expected);
    }

    #[test]
    fn a_reader_needs_the_ids_of_all_threads_and_of_the_start() {
        let (uid, gid, root) = (Uid::from_raw(1000), Gid::from_raw(1001), Uid::from_raw(0));
        let plain = Credentials { uids: [uid; 4], gids: [gid; 4], capabilities: 0 };
        let reader = |credentials: &[Credentials], started: Uid| {
            let offer = Offer {
                uid: Some(uid),
                gid: Some(gid),
                dumpable: Some(1),
                credentials: credentials.to_vec(),
                ..offer()
            };
            let auxv = Auxv { secure: Some(false), uids: Some([started; 2]), gids: Some([gid; 2]), ..Auxv::default() };
            let facts = ProcessFacts { auxv, ..ProcessFacts::default() };
            describe(&offer, Evidence { facts, ..evidence(Vec::new()) }).reader()
        };
        assert_eq!(reader(&[plain], uid), Some(uid));
        assert_eq!(reader(&[plain, plain], uid), Some(uid));
        // A program of root's that became the user has had root's memory.
        assert_eq!(reader(&[plain], root), None);
        assert_eq!(reader(&[], uid), None);
        assert_eq!(reader(&[plain, Credentials { uids: [root; 4], ..plain }], uid), None);
        assert_eq!(reader(&[plain, Credentials { capabilities: 1, ..plain }], uid), None);
    }

    #[test]
    fn without_a_stack_the_signature_is_that_of_the_program() {
        let builder = describe(&offer(), evidence(Vec::new()));
        let record = builder.finish(CoreReport::none(NoCore::Gone));
        assert_eq!(record.signature.map(|signature| signature.level), Some(crate::crash::Level::Program));
    }
}
