//! The side of a reader that answers questions about one process.

use super::channel::{Channel, Received};
use super::facts::{build_id_of_file, environment_block, read_facts, variables};
use super::image_server::ImageServer;
use super::protocol::{Answer, ProcessFile, Request};
use super::stack::{unwind_crashed_thread, unwind_other_threads};
use crate::capture::{CapturePlan, LiveFiles, LiveMemory, StagingFiles, TrustedFileSystems};
use crate::elf::CoreLayout;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A process, and what was found out about it.
#[derive(Default)]
pub(super) struct MemoryServer {
    memory: Option<Arc<LiveMemory>>,
    cmdline: Option<File>,
    auxv: Option<File>,
    arguments: Range<u64>,
    exe_build_id: Option<String>,
    layout: Option<Arc<CoreLayout>>,
    plan: Option<Arc<CapturePlan>>,
    image: Option<Arc<ImageServer>>,
}

impl MemoryServer {
    /// Answers one request, if it has an answer; with it go bytes.
    ///
    /// # Errors
    /// The daemon broke the protocol.
    pub(super) fn answer(&mut self, received: Received<Request>) -> io::Result<Option<(Answer, Vec<u8>)>> {
        let Received { message, bytes, fds } = received;
        let answer = match message {
            Request::Open { files, arguments, trusted } => {
                return self.open(&files, fds, arguments, trusted).map(|()| None);
            }
            Request::Headers => {
                self.layout = CoreLayout::read(&bytes).ok().map(Arc::new);
                return Ok(None);
            }
            Request::Image { memory_limit } => return self.open_image(fds, memory_limit).map(|()| None),
            Request::Connect => return self.connect(fds).map(|()| None),
            Request::Close => {
                *self = Self::default();
                return Ok(None);
            }
            Request::Facts => return Ok(Some(self.read_facts())),
            Request::Stack(context) => Answer::Stack(self.layout.as_deref().map(|layout| {
                let context = context.or_build_id(self.exe_build_id.as_ref());
                unwind_crashed_thread(layout, &self.memory.as_deref(), &context)
            })),
            Request::OtherThreads(recorded) => {
                let unwind =
                    |layout: &Arc<CoreLayout>| unwind_other_threads(layout, &self.memory.as_deref(), &recorded);
                Answer::OtherThreads(self.layout.as_ref().map(unwind))
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
                let plan =
                    self.memory.as_ref().zip(self.layout.clone()).and_then(|(memory, layout)| memory.plan(layout));
                self.plan = plan.map(Arc::new);
                Answer::Plan(self.plan.as_ref().map(|plan| plan.summary()))
            }
        };
        Ok(Some((answer, Vec::new())))
    }

    fn open(
        &mut self,
        files: &[ProcessFile],
        fds: Vec<OwnedFd>,
        arguments: Range<u64>,
        trusted: TrustedFileSystems,
    ) -> io::Result<()> {
        if files.len() != fds.len() {
            return Err(ErrorKind::InvalidData.into());
        }
        let (mut mem, mut pagemap, mut maps) = (None, None, None);
        *self = Self { arguments, ..Self::default() };
        for (kind, fd) in files.iter().zip(fds) {
            let place = match kind {
                ProcessFile::Mem => &mut mem,
                ProcessFile::Pagemap => &mut pagemap,
                ProcessFile::Maps => &mut maps,
                ProcessFile::Cmdline => &mut self.cmdline,
                ProcessFile::Auxv => &mut self.auxv,
            };
            *place = Some(File::from(fd));
        }
        self.memory = mem.map(|mem| Arc::new(LiveMemory::new(LiveFiles { mem, pagemap, maps, trusted })));
        Ok(())
    }

    fn read_facts(&mut self) -> (Answer, Vec<u8>) {
        let memory = self.memory.as_deref();
        let facts = read_facts(self.cmdline.as_ref(), self.auxv.as_ref(), &self.arguments, memory);
        self.exe_build_id.clone_from(&facts.exe_build_id);
        let answer = Answer::Facts { arguments: facts.arguments, exe_build_id: facts.exe_build_id };
        (answer, facts.auxv)
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
