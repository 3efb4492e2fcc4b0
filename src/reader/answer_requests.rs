//! What the different kinds of readers have in common.

use super::channel::Received;
use super::protocol::{Answer, Request};
use std::io;

/// What a reader serves.
pub(super) trait AnswerRequests {
    /// Answers one request, if it has an answer.
    ///
    /// # Errors
    /// The daemon broke the protocol.
    fn answer_request(&mut self, received: Received<Request>) -> io::Result<Option<Answer>>;
}
