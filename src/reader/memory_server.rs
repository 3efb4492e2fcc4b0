//! The side of a reader that answers questions about one process.

use super::channel::{Channel, Received};
use super::facts::{build_id_of_file, environment_block, read_facts, variables};
use super::image_server::ImageServer;
use super::names;
use super::protocol::{Answer, ProcessFile, Request};
use super::saved_core::SavedCore;
use super::stack::{interpreter_stack, unwind_crashed_thread, unwind_other_threads};
use crate::capture::{CapturePlan, Holes, LiveFiles, LiveMemory, MountLists, StagingFiles};
use crate::crash::MapsLine;
use crate::elf::{self, CoreLayout, LoadSegment, MappedFile};
use crate::unwind::ReadMemory;
use object::elf::PF_X;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Mapped files and mappings of code that are taken from `/proc/PID/maps` at most.
const MAX_MAPPED: usize = 1 << 16;

/// A process, and what was found out about it.
#[derive(Default)]
pub(super) struct MemoryServer {
    memory: Option<Arc<LiveMemory>>,
    /// In the place of a process.
    saved: Option<SavedCore>,
    cmdline: Option<File>,
    auxv: Option<File>,
    arguments: Range<u64>,
    exe_build_id: Option<String>,
    layout: Option<Arc<CoreLayout>>,
    plan: Option<Arc<CapturePlan>>,
    image: Option<Arc<ImageServer>>,
}

impl MemoryServer {
    /// The server for a reader of a saved core, after its first request. Opens files by their path.
    ///
    /// # Errors
    /// The daemon broke the protocol.
    pub(super) fn open_saved(received: Received<Request>) -> io::Result<Self> {
        let Received { message: Request::OpenSaved { at, first_pages }, fds, .. } = received else {
            return Err(ErrorKind::InvalidData.into());
        };
        let core = fds.into_iter().next().ok_or(ErrorKind::InvalidData)?;
        Ok(Self { saved: Some(SavedCore::open(core.into(), at, first_pages)), ..Self::default() })
    }

    /// Answers one request, if it has an answer.
    ///
    /// # Errors
    /// The daemon broke the protocol.
    pub(super) fn answer(&mut self, received: Received<Request>) -> io::Result<Option<Answer>> {
        let Received { message, bytes, fds } = received;
        let answer = match message {
            Request::Open { files, arguments, in_user_namespace } => {
                return self.open(&files, fds, arguments, in_user_namespace).map(|()| None);
            }
            // Files are opened by path no more.
            Request::OpenSaved { .. }
            | Request::OpenHostFiles(_)
            | Request::ModuleFile { .. }
            | Request::CopyModule { .. }
            | Request::CompareModule => return Err(ErrorKind::InvalidData.into()),
            Request::Headers => {
                let is_complete = elf::headers_len(&bytes).is_ok_and(|length| length <= bytes.len() as u64);
                let layout = CoreLayout::read_beginning(&bytes).ok();
                self.layout = layout.map(|layout| Arc::new(self.with_mappings(layout, is_complete)));
                return Ok(None);
            }
            Request::Image { memory_limit } => return self.open_image(fds, memory_limit).map(|()| None),
            Request::Connect => return self.connect(fds).map(|()| None),
            Request::Close => {
                *self = Self::default();
                return Ok(None);
            }
            Request::Facts => self.read_facts(),
            Request::Stack(context) => Answer::Stack(self.layout.as_deref().map(|layout| {
                let context = context.or_build_id(self.exe_build_id.as_ref());
                self.with_memory(layout, |memory| Box::new(unwind_crashed_thread(layout, memory, &context)))
            })),
            Request::OtherThreads { failed, recorded } => Answer::OtherThreads(self.layout.as_deref().map(|layout| {
                self.with_memory(layout, |memory| unwind_other_threads(layout, memory, failed, &recorded))
            })),
            Request::MemoryNames(modules) => Answer::Names(match (&self.saved, self.layout.as_deref()) {
                (Some(saved), Some(layout)) => names::find_in_memory(&modules, &saved.memory(layout)),
                _ => names::find_in_memory(&modules, &self.memory.as_deref()),
            }),
            Request::FileNames(modules) => {
                let files: Vec<File> = fds.into_iter().map(File::from).collect();
                Answer::Names(names::find_in_files(&modules, &files, self.saved.as_ref()))
            }
            Request::Mappings(addresses) => Answer::Mappings(self.mappings(&addresses)),
            Request::PerfMap(addresses) => {
                let map = fds.into_iter().next().map(File::from).ok_or(ErrorKind::InvalidData)?;
                Answer::Names(vec![names::find_in_perf_map(&addresses, map)])
            }
            Request::CopyBeginning { limit } => {
                let mut files = fds.into_iter().map(File::from);
                let (from, to) = files.next().zip(files.next()).ok_or(ErrorKind::InvalidData)?;
                Answer::Copied(io::copy(&mut from.take(limit), &mut &to).ok())
            }
            Request::Interpreter { failed, code } => {
                let stack = self.layout.as_deref().and_then(|layout| {
                    self.with_memory(layout, |memory| interpreter_stack(layout, memory, failed, &code))
                });
                Answer::Interpreter(stack)
            }
            Request::Answers => Answer::Answers(self.memory.as_ref().is_none_or(|memory| memory.answers_everywhere())),
            Request::BuildId => {
                Answer::BuildId(fds.into_iter().next().and_then(|file| build_id_of_file(&File::from(file))))
            }
            Request::Environment(names) => {
                let memory = self.memory.as_deref();
                let block = memory.zip(self.cmdline.as_ref());
                let block = block.and_then(|(memory, cmdline)| environment_block(cmdline, &self.arguments, memory));
                Answer::Environment(variables(&block.unwrap_or_default(), &names))
            }
            Request::Plan => {
                let holes = fds.into_iter().next().map(File::from).and_then(|file| Holes::read(&file).ok());
                let read = self.memory.as_ref().zip(self.layout.clone());
                let plan = read.and_then(|(memory, layout)| memory.plan(layout, holes.unwrap_or_default()));
                self.plan = plan.map(Arc::new);
                Answer::Plan(self.plan.as_ref().map(|plan| plan.summary()))
            }
        };
        Ok(Some(answer))
    }

    /// The lines of the mappings that have these addresses.
    fn mappings(&self, addresses: &[u64]) -> Vec<Option<String>> {
        let mut lines = vec![None; addresses.len()];
        if let Some(memory) = &self.memory {
            memory.for_each_mapping(|line| {
                let Some(mapping) = MapsLine::parse(line) else { return };
                for (address, found) in addresses.iter().zip(&mut lines) {
                    if (mapping.start..mapping.end).contains(address) {
                        *found = Some(line.to_owned());
                    }
                }
            });
        }
        lines
    }

    /// Calls `read` with the memory of the process, whose core has this layout.
    fn with_memory<T>(&self, layout: &CoreLayout, read: impl FnOnce(&dyn ReadMemory) -> T) -> T {
        match &self.saved {
            Some(saved) => read(&saved.memory(layout)),
            None => read(&self.memory.as_deref()),
        }
    }

    /// The kernel leaves the note about mapped files out when there are many mappings (core_file_note_size_limit): the process tells the
    /// same.
    ///
    /// Of headers of which only the beginning is there, not even all mappings may be. Then those are taken that a walk up the stack of the
    /// crashed thread asks for: there may be millions of others.
    fn with_mappings(&self, mut layout: CoreLayout, is_complete: bool) -> CoreLayout {
        let Some(memory) = self.memory.as_ref().filter(|_| !is_complete || layout.notes.files.is_empty()) else {
            return layout;
        };
        let mut files = std::mem::take(&mut layout.notes.files);
        let (has_files, mut loads) = (!files.is_empty(), Vec::new());
        let stack_pointer = layout.notes.threads.first().map_or(0, |thread| thread.registers.stack_pointer());
        memory.for_each_mapping(|line| {
            if !has_files && files.len() < MAX_MAPPED {
                files.extend(MappedFile::parse(line));
            }
            let wanted = |load: &LoadSegment| load.flags & PF_X != 0 || load.is_stack_of(stack_pointer);
            if !is_complete && loads.len() < MAX_MAPPED {
                loads.extend(LoadSegment::parse(line).filter(wanted));
            }
        });
        layout.notes.files = files;
        if is_complete { layout } else { layout.with_mappings(loads) }
    }

    fn open(
        &mut self,
        files: &[ProcessFile],
        fds: Vec<OwnedFd>,
        arguments: Range<u64>,
        in_user_namespace: bool,
    ) -> io::Result<()> {
        if files.len() != fds.len() {
            return Err(ErrorKind::InvalidData.into());
        }
        let (mut mem, mut pagemap, mut maps) = (None, None, None);
        let mut mounts = MountLists { in_user_namespace, ..MountLists::default() };
        *self = Self { arguments, ..Self::default() };
        for (kind, fd) in files.iter().zip(fds) {
            let place = match kind {
                ProcessFile::Mem => &mut mem,
                ProcessFile::Pagemap => &mut pagemap,
                ProcessFile::Maps => &mut maps,
                ProcessFile::Cmdline => &mut self.cmdline,
                ProcessFile::Auxv => &mut self.auxv,
                ProcessFile::Mountinfo => &mut mounts.of_process,
                ProcessFile::HostMountinfo => &mut mounts.of_host,
            };
            *place = Some(File::from(fd));
        }
        self.memory = mem.map(|mem| Arc::new(LiveMemory::new(LiveFiles { mem, pagemap, maps, mounts })));
        Ok(())
    }

    fn read_facts(&mut self) -> Answer {
        let memory = self.memory.as_deref();
        let facts = read_facts(self.cmdline.as_ref(), self.auxv.as_ref(), &self.arguments, memory);
        self.exe_build_id.clone_from(&facts.exe_build_id);
        Answer::Facts { arguments: facts.arguments, exe_build_id: facts.exe_build_id }
    }

    fn open_image(&mut self, fds: Vec<OwnedFd>, memory_limit: u64) -> io::Result<()> {
        let mut files = fds.into_iter().map(File::from);
        let memory = files.next().ok_or(ErrorKind::InvalidData)?;
        let staging =
            StagingFiles { memory, memory_limit, spill: files.next().zip(files.next()).map(<[File; 2]>::from) };
        let (plan, memory) = self.plan.clone().zip(self.memory.clone()).ok_or(ErrorKind::InvalidData)?;
        self.image = Some(Arc::new(ImageServer::new(plan, memory, staging)));
        Ok(())
    }

    /// Serves another connection, in a thread of its own.
    fn connect(&self, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut fds = fds.into_iter();
        let (socket, window) = fds.next().zip(fds.next()).ok_or(ErrorKind::InvalidData)?;
        let image = Arc::clone(self.image.as_ref().ok_or(ErrorKind::InvalidData)?);
        let serve = move || image.serve(Channel::new(socket.into()), &window.into());
        std::thread::Builder::new().name("image".to_owned()).spawn(serve).map(drop)
    }
}
