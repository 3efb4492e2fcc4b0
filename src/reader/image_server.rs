//! The side of a reader that copies the memory of a process as its core has it.

use super::channel::{Channel, Received};
use super::protocol::{ImageAnswer, ImageData, ImageError, ImageRequest};
use crate::capture::{
    AlignedBuffer, CapturePlan, ChunkCopier, CoreSource, LiveMemory, ProcessImage, RangeData, SourceError, StagingFiles,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// An image, and where it is copied to.
pub(super) struct ImageServer {
    image: ProcessImage,
    copier: ChunkCopier,
}

impl ImageServer {
    pub(super) fn new(plan: Arc<CapturePlan>, memory: Arc<LiveMemory>, files: StagingFiles) -> Self {
        let copier = ChunkCopier::new(files);
        Self { image: ProcessImage { plan, memory, headers: Arc::clone(copier.memory()) }, copier }
    }

    /// Answers requests until the daemon closes the connection.
    pub(super) fn serve(&self, mut channel: Channel, window: &File) {
        let mut buffer = AlignedBuffer::new();
        while let Ok(Received { message, .. }) = channel.receive::<ImageRequest>(None) {
            let mut result = self.answer(&message, window, buffer.bytes_mut()).map_err(ImageError::from);
            if self.image.memory.is_taken(&self.image.plan.layout) {
                result = Err(ImageError::ProcessGone);
            }
            let answer = ImageAnswer { result, missing_pages: self.image.memory.missing_pages() };
            if channel.send_one(&answer, &[], &[]).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &ImageRequest, window: &File, buffer: &mut [u8]) -> Result<ImageData, SourceError> {
        match request {
            ImageRequest::Read(range) => {
                let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
                let part = buffer.get_mut(..length).ok_or(SourceError::ProcessGone)?;
                match self.image.read_range(range.clone(), part)? {
                    RangeData::Zeros => Ok(ImageData::Zeros),
                    RangeData::Bytes => {
                        window.write_all_at(part, 0).map_err(SourceError::Write)?;
                        Ok(ImageData::Bytes)
                    }
                }
            }
            ImageRequest::Store(range) => self.copier.store(&self.image, range.clone(), buffer).map(ImageData::from),
            ImageRequest::StorePriority => self.copier.store_priority(&self.image, buffer).map(|()| ImageData::Zeros),
        }
    }
}
